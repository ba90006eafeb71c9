signer "file" "dev" { private_key = "dev.pem" }

locals {
  sub_pages = { page = null, sub = 512 }
}

layout "nand" {
  for_each = local.sub_pages
  ubi {
    erase_block = "128KiB"
    page        = "2KiB"
    sub_page    = each.value
    blocks      = 2048
    compression = "zlib"
  }
  slots "rootfs" {
    size       = "40MiB"
    filesystem = "ubifs"
  }
  partition "data" {
    size       = "8MiB"
    filesystem = "ubifs"
    mount      = "/data"
    grow       = true
  }
  partition "u-boot-env-1" { size = "128KiB" }
  partition "u-boot-env-2" { size = "128KiB" }
}

device_type "nand" {
  for_each     = local.sub_pages
  type         = "nand-${each.key}"
  architecture = "amd64"
  layout       = layout.nand[each.key]
  clients      = ["mender-4"]
  bootloader "u-boot" {
    environment      = "u-boot-env"
    environment_size = "128KiB"
  }
}

artifact "os" {
  for_each     = local.sub_pages
  name         = "os-1"
  device_types = [device_type.nand[each.key]]
  signer       = signer.file.dev
  payload "rootfs-image" { file = "${each.key}.ubifs" }
}

image "nand" {
  for_each    = local.sub_pages
  device_type = device_type.nand[each.key]
  artifact    = artifact.os[each.key]
  fill "rootfs" { file = "${each.key}.ubifs" }
  fill "data" { tar = "data.tar" }
  fill "u-boot-env" { file = "u-boot-initial-env" }
}
