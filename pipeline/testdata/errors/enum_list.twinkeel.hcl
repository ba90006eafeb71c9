layout "ab" {
  table = "mbr" # ERROR: Wrong value
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
