layout "ab" {
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext44" # ERROR: Wrong value
  }
}
