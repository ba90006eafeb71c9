layout "ab" {
  table = "ext" # ERROR: Wrong value
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
