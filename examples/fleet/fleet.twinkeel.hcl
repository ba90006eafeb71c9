# Two kinds of devices, one release: a Raspberry Pi and a gateway, each with its own build and disk, signed by one key
# and rolled out together in phases.

twinkeel {
  required_version = ">= 0.1"
}

variable "version" {
  type        = string
  default     = "1.4.0"
  description = "Version of the release."
  validation {
    condition     = can(regex("^[0-9]+[.][0-9]+[.][0-9]+", var.version))
    error_message = "The version must be semantic, such as 1.4.0 or 1.5.0-rc.1."
  }
}

variable "channel" {
  type        = string
  default     = "dev"
  description = "dev signs with a key in a file, prod with one in a hardware module."
  validation {
    condition     = contains(["dev", "prod"], var.channel)
    error_message = "The channel must be dev or prod."
  }
}

variable "server_token" {
  type      = string
  default   = null
  sensitive = true
}

variable "hsm_pin" {
  type      = string
  default   = null
  sensitive = true
}

variable "phases" {
  type    = list(object({ name = string, percent = number, soak = optional(string, "24h") }))
  default = [{ name = "early", percent = 10 }, { name = "half", percent = 50, soak = "48h" }, { name = "rest", percent = 100, soak = "0s" }]
}

locals {
  signer = var.channel == "prod" ? signer.pkcs11.release : signer.file.dev
}

source "yocto" "rpi4" {
  deploy_dir = "build-rpi4/tmp/deploy/images/raspberrypi4-64"
  machine    = "raspberrypi4-64"
  image      = "fleet-image"
}

source "yocto" "gateway" {
  deploy_dir = "build-gateway/tmp/deploy/images/gateway-x86-64"
  machine    = "gateway-x86-64"
  image      = "fleet-image"
}

source "file" "edge_app" {
  path = "dist/edge-app.tar.zst"
}

layout "sd_ab" {
  table     = "gpt" # the Pi 4's boot ROM reads it; MBR tables cannot be expressed yet
  alignment = "4MiB"
  reserve "uboot_env" {
    offset = "4MiB"
    size   = "256KiB"
  }
  partition "boot" {
    size       = "64MiB"
    filesystem = "vfat"
    mount      = "/uboot"
    bootable   = true
  }
  slots "rootfs" {
    size       = "1GiB"
    filesystem = "ext4"
  }
  partition "data" {
    size       = "256MiB"
    filesystem = "ext4"
    mount      = "/data"
    grow       = true
  }
}

layout "nvme_ab" {
  table = "gpt"
  partition "esp" {
    size       = "256MiB"
    filesystem = "vfat"
    mount      = "/boot/efi"
    bootable   = true
  }
  slots "rootfs" {
    size       = "3GiB"
    filesystem = "ext4"
  }
  partition "data" {
    size       = "1GiB"
    filesystem = "ext4"
    mount      = "/data"
    grow       = true
  }
}

device_type "rpi4" {
  type         = "raspberrypi4-64"
  architecture = "arm64"
  layout       = layout.sd_ab
  bootloader "u-boot" {
    environment      = "uboot_env"
    environment_size = "128KiB"
    redundant        = true
  }
}

device_type "gateway" {
  type           = "gateway-x86-64"
  architecture   = "amd64"
  layout         = layout.nvme_ab
  storage_device = "/dev/nvme0n1"
  bootloader "grub-efi" {}
}

signer "file" "dev" {
  private_key = "keys/dev.pem" # twinkeel keys generate keys/dev.pem
}

signer "pkcs11" "release" {
  uri    = "pkcs11:token=fleet;object=ota-2026"
  module = "/usr/lib/softhsm/libsofthsm2.so"
  pin    = var.hsm_pin
}

artifact "os" {
  for_each = {
    rpi4    = { device = device_type.rpi4, rootfs = source.yocto.rpi4.rootfs }
    gateway = { device = device_type.gateway, rootfs = source.yocto.gateway.rootfs }
  }
  name         = "fleet-os-${var.version}"
  device_types = [each.value.device]
  signer       = local.signer
  payload "rootfs-image" {
    file = each.value.rootfs
  }
}

# An application for the gateway alone, installed by an update module of the fleet's own.
artifact "edge_app" {
  name         = "edge-app-${var.version}"
  device_types = [device_type.gateway]
  signer       = local.signer
  payload "edge-app" {
    file      = source.file.edge_app.path
    meta_data = { restart = ["edge.service"] }
  }
  depends         = { "rootfs-image.version" = artifact.os["gateway"].name }
  provides        = { "edge-app.version" = var.version }
  clears_provides = ["edge-app.*"]
}

image "rpi4" {
  device_type = device_type.rpi4
  artifact    = artifact.os["rpi4"]
  server      = server.fleet
  fill "uboot_env" {
    file = source.yocto.rpi4.uboot_env
  }
  fill "boot" {
    files = source.yocto.rpi4.boot_files
  }
  fill "rootfs" {
    file = source.yocto.rpi4.rootfs
  }
}

image "gateway" {
  device_type = device_type.gateway
  artifact    = artifact.os["gateway"]
  server      = server.fleet
  fill "esp" {
    files = {
      "EFI/BOOT/BOOTX64.EFI" = "${source.yocto.gateway.deploy_dir}/grub-efi-bootx64.efi"
      "EFI/BOOT/grub.cfg"    = "${source.yocto.gateway.deploy_dir}/grub.cfg"
    }
  }
  fill "rootfs" {
    file = source.yocto.gateway.rootfs
  }
}

check "os_fits" {
  assert {
    condition     = source.yocto.rpi4.rootfs_size <= 2 * 1024 * 1024 * 1024
    error_message = "The system is larger than what the field link can carry."
  }
}

server "fleet" {
  url   = var.channel == "prod" ? "https://ota.example.com" : "https://127.0.0.1:8443"
  token = var.server_token
}

rollout "os" {
  server    = server.fleet
  artifacts = values(artifact.os)
  target {
    groups = ["canary", "field"]
  }
  phase "canary" {
    groups            = ["canary"]
    soak              = "2h"
    failure_threshold = "0%"
  }
  dynamic "phase" {
    for_each = var.phases
    labels   = [phase.value.name]
    content {
      percent = phase.value.percent
      soak    = phase.value.soak
    }
  }
  failure_threshold = "2%"
  on_failure        = "pause"
  retries           = 2
}

rollout "edge_app" {
  server     = server.fleet
  artifacts  = [artifact.edge_app]
  depends_on = [rollout.os]
  target {
    groups = ["field"]
  }
  phase "all" {
    percent = 100
  }
}

output "artifacts" {
  value = { for k, a in artifact.os : k => a.path }
}

output "images" {
  value = [image.rpi4.path, image.gateway.path]
}
