# The examples of docs/language.md: one pipeline that is valid as a whole. Each block is shown where its kind is
# described, so every kind, and every type of it, appears here.

twinkeel {
  required_version = "~> 0.1"
  out_dir          = "out"
}

variable "version" {
  type        = string
  description = "Release to build, such as 1.4.0."
  validation {
    condition     = can(semver::parse(var.version))
    error_message = "A version has three numbers, such as 1.4.0."
  }
}

variable "token" {
  type      = string
  default   = env("CI_FLEET_TOKEN")
  sensitive = true
}

variable "hsm_pin" {
  type      = string
  default   = env("CI_HSM_PIN")
  sensitive = true
}

locals {
  deploy   = "build/tmp/deploy/images"
  machines = { rpi4 = "raspberrypi4-64", qemu = "qemuarm64" }
}

source "yocto" "image" {
  for_each   = local.machines
  deploy_dir = "${local.deploy}/${each.value}"
  machine    = each.value
  image      = "core-image-minimal"
}

source "file" "calibration" {
  path   = "files/calibration.bin"
  sha256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
}

# What is served to technicians, without what only developers need.
source "dir" "pages" {
  path    = "www"
  include = ["**/*.html", "css"]
  exclude = ["drafts"]
}

source "http" "model" {
  url     = "https://models.example.com/vibration-3.bin"
  sha256  = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9"
  headers = var.token == null ? {} : { PRIVATE-TOKEN = var.token }
}

# Runs when an artifact is built that needs it, and the program's files changed.
source "exec" "gateway" {
  command     = ["make", "-C", "gateway", "install"]
  inputs      = ["gateway/**"]
  environment = { VERSION = var.version }
  outputs     = { program = "bin/gateway", service = "gateway.service" }
}

layout "ab" {
  disk_size = "4GiB"
  reserve "uboot_env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  partition "boot" {
    size       = "64MiB"
    filesystem = "vfat"
    bootable   = true
  }
  slots "rootfs" {
    size       = "1GiB"
    filesystem = "ext4"
  }
  partition "data" {
    size       = "128MiB"
    filesystem = "ext4"
    mount      = "/data"
    grow       = true
  }
}

# Raw flash: the volumes 0 to 4.
layout "nand" {
  ubi {
    erase_block = "128KiB"
    page        = "2KiB"
    blocks      = 2048
  }
  slots "rootfs" {
    size       = "96MiB"
    filesystem = "ubifs"
  }
  partition "data" {
    size       = "32MiB"
    filesystem = "ubifs"
    mount      = "/data"
    grow       = true
  }
  partition "u-boot-env-1" { size = "128KiB" }
  partition "u-boot-env-2" { size = "128KiB" }
}

device_type "board" {
  for_each       = local.machines
  type           = each.value
  architecture   = "arm64"
  layout         = layout.ab
  storage_device = each.key == "qemu" ? "/dev/vda" : "/dev/mmcblk0"
  bootloader "u-boot" {
    environment = "uboot_env"
    redundant   = true
  }
}

signer "file" "release" {
  private_key = "keys/release.pem"
}

signer "kms" "cloud" {
  uri = "awskms:///alias/ota-release"
}

signer "pkcs11" "hsm" {
  uri    = "pkcs11:token=fleet;object=ota-release"
  module = "/usr/lib/softhsm/libsofthsm2.so"
  pin    = var.hsm_pin
}

signer "ssh-agent" "mine" {
  key = "ota@example.com"
}

signer "command" "appliance" {
  command    = ["sign-with-appliance", "--slot", "ota"]
  public_key = "keys/appliance.pub"
}

artifact "os" {
  for_each     = local.machines
  name         = "os-${var.version}"
  device_types = [device_type.board[each.key]]
  signer       = signer.file.release
  payload "rootfs-image" {
    file = source.yocto.image[each.key].rootfs
  }
}

image "board" {
  for_each    = local.machines
  device_type = device_type.board[each.key]
  artifact    = artifact.os[each.key]
  server      = server.fleet
  fill "boot" {
    files = source.yocto.image[each.key].boot_files
  }
  fill "rootfs" {
    file = source.yocto.image[each.key].rootfs
  }
  fill "data" {
    files = { "calibration/board.bin" = source.file.calibration.path }
  }
}

server "fleet" {
  url   = "https://ota.example.com"
  token = var.token
}

rollout "os" {
  server            = server.fleet
  artifacts         = values(artifact.os)
  failure_threshold = "5%"
  phase "canary" {
    count = 2
    soak  = "2h"
  }
  phase "tenth" {
    percent = 10
    soak    = "1d"
  }
  phase "everyone" {
    percent = 100
  }
}

module "kiosk" {
  source   = "./modules/kiosk"
  for_each = local.machines
  inputs = {
    device_type = device_type.board[each.key]
    version     = var.version
  }
}

check "slots" {
  assert {
    condition     = alltrue([for s in source.yocto.image : s.rootfs_size < bytes("900MiB")])
    error_message = "A root file system leaves less than a tenth of its slot free."
  }
}

output "artifacts" {
  value       = { for board, a in artifact.os : board => a.path }
  description = "Where the artifacts are, by board."
}
