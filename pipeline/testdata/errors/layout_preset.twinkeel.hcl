layout "more" {
  preset    = "sdimg"
  disk_size = "1GiB" # ERROR: Conflicting arguments
  partition "x" { # ERROR: Unexpected block
    size = "1MiB"
  }
}
layout "unknown" {
  preset = "sdimage" # ERROR: Wrong value
}
layout "flash" {
  preset = "sdimg"
  ubi { # ERROR: Unexpected block
    erase_block = "128KiB"
    page        = "2KiB"
    blocks      = 1024
  }
}
