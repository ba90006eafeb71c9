layout "ab" {
  partition "a-name-that-is-longer-than-thirty-six-characters" { # ERROR: Name too long
    size = "1MiB"
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
