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
  bootloader "u-boot" { environment = "env" }
}
artifact "a" {
  name            = "a-1"
  device_types    = [device_type.d]
  provides        = { "x.version" = "1\n2" }     # ERROR: Wrong value
  depends         = { "x\u0000y" = "1" }         # ERROR: Wrong value
  clears_provides = ["x.*", "y\u0007"]           # ERROR: Wrong value
  payload "single-file" {
    file        = "good.ext4"
    destination = "/opt\u0000" # ERROR: Wrong value
  }
}
