layout "ab" {
  partition "data" {
    size = "1MiB"
    grow = true # ERROR: Partition cannot grow
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
