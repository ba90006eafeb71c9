layout "sd" {
  preset    = "sdimg"
  variables = { BOOTENV_SIZE = "0x40000", MENDER_STORAGE_DEVICE = "/dev/sda" }
}
layout "emmc" {
  preset    = "sdimg" # WARNING: Preset needs a look
  variables = { MENDER_UBOOT_CONFIG_SYS_MMC_ENV_PART = "1" }
}
layout "refused" {
  preset    = "sdimg" # ERROR: Layout not possible
  variables = { BOOTENV_SIZE = "none" }
}
device_type "good" {
  architecture   = "arm"
  layout         = layout.sd
  storage_device = "/dev/sda"
  bootloader "u-boot" {
    environment      = "env"
    environment_size = "256KiB"
    redundant        = true
  }
}
device_type "silent" {
  architecture = "arm"
  layout       = layout.emmc
  bootloader "u-boot" {}
}
device_type "other" {
  architecture   = "arm"
  layout         = layout.sd
  storage_device = "/dev/sdb" # ERROR: Not as in the preset
  bootloader "u-boot" {
    environment      = "uboot" # ERROR: Not as in the preset
    environment_size = "64KiB" # ERROR: Not as in the preset
    redundant        = false # ERROR: Not as in the preset
  }
}
device_type "outside" {
  architecture = "arm"
  layout       = layout.emmc
  bootloader "u-boot" {
    environment = "env" # ERROR: Not as in the preset
  }
}
# Its layout has its error already.
device_type "refused" {
  architecture = "arm"
  layout       = layout.refused
  bootloader "u-boot" { environment = "env" }
}
layout "part" {
  preset    = "sdimg"
  variables = { MENDER_STORAGE_DEVICE = "/dev/mmcblk0p1" }
}
device_type "part" {
  architecture = "arm"
  layout       = layout.part # ERROR: Wrong value
  bootloader "u-boot" {}
}
layout "flash" {
  preset    = "sdimg" # ERROR: Layout not possible
  variables = { MENDER_STORAGE_DEVICE = "ubi0" }
}
