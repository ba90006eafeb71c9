# Imported from board.wks.in.
#
# What could not be carried over as it is:
# board.wks.in:7: Option left out. --fsoptions: the device's fstab belongs to the root file system: write it
# there.
# board.wks.in:10: Kernel command line left out. --append "rootwait console=ttyS0,115200" belongs to the boot
# loader's configuration, which images do not write: set it in U-Boot's environment or configuration.

layout "board" {
  table     = "gpt"
  alignment = "4MiB"
  reserve "loader" {
    offset = "64KiB"
    size   = "2MiB"
  }
  reserve "uboot_env" {
    offset = "4MiB"
    size   = "128KiB"
  }
  partition "BOOT" {
    size       = "64MiB"
    filesystem = "vfat"
    label      = "BOOT"
    type       = "basic-data"
    mount      = "/uboot"
    bootable   = true
  }
  slots "root" {
    size       = "512MiB"
    filesystem = "ext4"
  }
  partition "data" {
    size       = "128MiB"
    filesystem = "ext4"
    label      = "data"
    mount      = "/data"
  }
}

# What goes with it, with the name of your source in the place of NAME:
#
#   device_type "..." {
#     layout = layout.board
#     storage_device = "/dev/mmcblk0"
#     bootloader "u-boot" { environment = "uboot_env" }
#   }
#   image "..." {
#     fill "loader" { file = "u-boot.bin" }
#     fill "uboot_env" { file = source.yocto.NAME.uboot_env }
#     fill "BOOT" { files = source.yocto.NAME.boot_files }
#     fill "root" { file = source.yocto.NAME.rootfs }
#   }
