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
