layout "good" {
  ubi {
    erase_block = "128KiB"
    page        = "2KiB"
    blocks      = 1024
  }
  slots "rootfs" {
    size       = "40MiB"
    filesystem = "ubifs"
  }
  partition "data" {
    size       = "16MiB"
    filesystem = "ubifs"
    mount      = "/data"
    grow       = true
  }
  partition "u-boot-env-1" { size = "128KiB" }
  partition "u-boot-env-2" { size = "128KiB" }
}
layout "mixed" {
  table = "gpt" # ERROR: Conflicting arguments
  ubi {
    erase_block = "128KiB"
    page        = "2KiB"
    blocks      = 1024
  }
  gpt {} # ERROR: Unexpected block
  reserve "env" { # ERROR: No reserves on raw flash
    offset = "1MiB"
    size   = "128KiB"
  }
  slots "rootfs" {
    size       = "25%"  # ERROR: Not for this kind of medium
    filesystem = "ext4" # ERROR: Not for this kind of medium
  }
  partition "data" {
    size     = "16MiB"
    offset   = "1MiB" # ERROR: Not for this kind of medium
    label    = "data" # ERROR: Not for this kind of medium
    bootable = true   # ERROR: Not for this kind of medium
  }
}
layout "disk" {
  slots "rootfs" {
    size       = "40MiB"
    filesystem = "ubifs" # ERROR: Not for this kind of medium
  }
}
layout "page" { # ERROR: Layout not possible
  ubi {
    erase_block = "128KiB"
    page        = 2000
    blocks      = 1024
  }
  slots "rootfs" { # no error of its own
    size       = "40MiB"
    filesystem = "ubifs"
  }
}
layout "full" { # ERROR: Layout not possible
  ubi {
    erase_block = "128KiB"
    page        = "2KiB"
    blocks      = 512
  }
  slots "rootfs" {
    size       = "40MiB"
    filesystem = "ubifs"
  }
}
layout "small" {
  ubi {
    erase_block = "128KiB"
    page        = "2KiB"
    blocks      = 512
  }
  slots "rootfs" {
    size       = "20MiB"
    filesystem = "ubifs"
  }
  partition "data" { # ERROR: Layout not possible
    size       = "1MiB"
    filesystem = "ubifs"
  }
}
layout "grow" {
  ubi {
    erase_block = "128KiB"
    page        = "2KiB"
    blocks      = 1024
  }
  slots "rootfs" {
    size       = "20MiB"
    filesystem = "none"
  }
  partition "data" {
    size = "4MiB"
    grow = true
  }
  partition "log" {
    size = "4MiB"
    grow = true # ERROR: Two partitions grow
  }
}
