# The demo: one board, one release, three virtual devices. `make demo` runs it; demo.sh shows each command.

variable "version" {
  type        = string
  default     = "1.0.0"
  description = "Release to build; ./deploy.sh makes a deploy directory for it."
}
variable "machine" {
  type    = string
  default = "qemux86-64"
}
variable "server_url" {
  type    = string
  default = "http://127.0.0.1:8090"
}
variable "server_token" {
  type      = string
  default   = null
  sensitive = true
}

source "yocto" "demo" {
  deploy_dir = "work/deploy/${var.version}"
  machine    = var.machine
  image      = "demo-image"
}

layout "ab" {
  table = "gpt"
  reserve "uboot_env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  partition "boot" {
    size       = "16MiB"
    filesystem = "vfat"
    mount      = "/boot"
    bootable   = true
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
  partition "data" {
    size       = "32MiB"
    filesystem = "ext4"
    mount      = "/data"
    grow       = true
  }
}

device_type "demo" {
  type           = "demo-board"
  architecture   = var.machine == "qemuarm64" ? "arm64" : "amd64"
  layout         = layout.ab
  storage_device = "/dev/nvme0n1"
  bootloader "u-boot" {
    environment = "uboot_env"
    redundant   = true
  }
}

signer "file" "dev" {
  private_key = "work/keys/dev.pem"
}

artifact "os" {
  name         = "demo-os-${var.version}"
  device_types = [device_type.demo]
  signer       = signer.file.dev
  payload "rootfs-image" {
    file = source.yocto.demo.rootfs
  }
}

image "demo" {
  device_type = device_type.demo
  artifact    = artifact.os
  server      = server.local
  fill "uboot_env" {
    file = source.yocto.demo.uboot_env
  }
  fill "boot" {
    files = source.yocto.demo.boot_files
  }
  fill "rootfs" {
    file = source.yocto.demo.rootfs
  }
}

server "local" {
  url   = var.server_url
  token = var.server_token
}

rollout "os" {
  server            = server.local
  artifacts         = [artifact.os]
  failure_threshold = "0%"
  on_failure        = "pause"
  phase "canary" {
    count = 1
  }
  phase "everyone" {
    percent = 100
  }
}

output "artifact" {
  value = {
    name = artifact.os.name
    path = artifact.os.path
  }
}
