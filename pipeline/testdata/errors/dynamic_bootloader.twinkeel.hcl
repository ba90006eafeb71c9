layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
device_type "d" {
  architecture = "arm64"
  layout       = layout.ab
  dynamic "bootloader" { # ERROR: Wrong dynamic block
    for_each = ["u-boot"]
    labels   = [bootloader.value]
    content {
      environment = "env"
    }
  }
}
