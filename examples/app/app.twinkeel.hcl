# Application updates beside the system's: a configuration file, a script, and containers with Docker Compose. The
# devices' update modules of the same names install them.

variable "version" {
  type    = string
  default = "1.4.0"
}

variable "container_image" {
  type        = string
  default     = "work/telemetry.tar"
  description = "Archive of the container image: docker save registry.example.com/telemetry:1.4.0 -o work/telemetry.tar"
}

# Devices that other people flashed: of their disk only the slots matter here, because no image is made.
layout "gateway" {
  reserve "uboot_env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  slots "rootfs" {
    size       = "1GiB"
    filesystem = "ext4"
  }
}

device_type "gateway" {
  architecture = "arm64"
  layout       = layout.gateway
  clients      = ["mender-4"] # the bundled agent runs no update modules yet; these read zstd
  bootloader "u-boot" {
    environment = "uboot_env"
  }
}

signer "file" "dev" {
  private_key = "keys/dev.pem" # twinkeel keys generate keys/dev.pem
}

artifact "config" {
  name         = "telemetry-config-${var.version}"
  device_types = [device_type.gateway]
  signer       = signer.file.dev
  payload "single-file" {
    file        = "files/telemetry.conf"
    destination = "/etc/telemetry.conf"
    mode        = "0644"
  }
}

artifact "restart" {
  name         = "telemetry-restart-${var.version}"
  device_types = [device_type.gateway]
  signer       = signer.file.dev
  payload "script" {
    file = "files/restart.sh"
  }
}

artifact "containers" {
  name         = "telemetry-containers-${var.version}"
  device_types = [device_type.gateway]
  signer       = signer.file.dev
  payload "docker-compose" {
    project       = "telemetry"
    compose_files = ["compose/docker-compose.yaml"]
    image_files   = [var.container_image]
  }
}
