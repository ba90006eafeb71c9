twinkeel {
  required_version = ">= 0.1"
}

variable "version" {
  type        = string
  default     = "1.4.0"
  description = "Release version."
  validation {
    condition     = can(semver::parse(var.version))
    error_message = "The version must be semantic, such as 1.4.0 or 1.5.0-rc.1."
  }
}
variable "channel" {
  type    = string
  default = "dev"
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
variable "phases" {
  type    = list(object({ name = string, percent = number, soak = optional(string, "24h") }))
  default = [{ name = "early", percent = 10 }, { name = "half", percent = 50, soak = "2d" }, { name = "rest", percent = 100, soak = "0s" }]
}

locals {
  signer = var.channel == "prod" ? signer.file.release : signer.file.dev
  builds = toset(["old", "new"])
}

source "yocto" "build" {
  for_each   = local.builds
  deploy_dir = "deploy/${each.key}"
  machine    = "qemux86-64"
  image      = "demo-image"
}
source "file" "app" { path = "tree/file" }

layout "ab" {
  table     = "gpt"
  disk_size = "1GiB"
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

device_type "board" {
  compatible   = ["board-rev-b"]
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" {
    environment = "uboot_env"
    redundant   = true
  }
}

signer "file" "dev" { private_key = "keys/dev.pem" }
signer "file" "release" {
  private_key = "keys/release.pem"
  passphrase  = var.server_token
}

artifact "app" {
  name         = "app-${var.version}"
  device_types = [device_type.board]
  signer       = local.signer
  compress     = "zstd"
  group        = "apps"
  payload "edge-app" {
    file      = source.file.app.path
    meta_data = { restart = ["edge.service"], level = 0.1 }
  }
  depends         = { "rootfs-image.version" = var.version }
  provides        = { "edge-app.version" = var.version }
  clears_provides = ["edge-app.*"]
  scripts         = ["tree/file"]
}
artifact "os" {
  for_each     = local.builds
  name         = "fleet-os-${var.version}"
  device_types = values(device_type)
  signer       = local.signer
  payload "rootfs-image" { file = source.yocto.build[each.key].rootfs }
  depends  = { "build" = each.key }
  provides = {
    "rootfs-image.version" = var.version
    build                  = each.key
    packages               = tostring(length(source.yocto.build[each.key].packages))
  }
}

image "new" {
  device_type = device_type.board
  artifact    = artifact.os["new"]
  server      = server.fleet
  fill "boot" { files = source.yocto.build["new"].boot_files }
  fill "rootfs" {
    file = source.yocto.build["new"].rootfs
    both = true
  }
  fill "data" { dir = "tree" }
}

check "fits" {
  assert {
    condition     = alltrue([for s in source.yocto.build : s.rootfs_size <= layout.ab.slot_size])
    error_message = "A root file system does not fit."
  }
  assert {
    condition     = length(layout.ab.partitions) == 4 && device_type.board.slot_size == bytes("64MiB")
    error_message = "The layout is not what it was."
  }
}

server "fleet" {
  url            = "https://ota.example.com/"
  token          = var.server_token
  ca_certificate = "keys/ca.pem"
}

rollout "os" {
  server    = server.fleet
  artifacts = values(artifact.os)
  target { groups = ["canary", "field"] }
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
  on_failure        = "abort"
  retries           = 2
}
rollout "app" {
  server     = server.fleet
  artifacts  = [artifact.app]
  depends_on = [rollout.os]
  phase "all" { percent = 100 }
}

output "artifacts" {
  value = { for k, a in artifact.os : k => { path = a.path, sha256 = a.sha256 } }
}
