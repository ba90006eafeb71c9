layout "ab" {
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
  partition "a" {
    size = "1MiB"
    grow = true
  }
  partition "b" {
    size = "1MiB"
    grow = true # ERROR: Two partitions grow
  }
}
