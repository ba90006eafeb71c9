layout "ab" {
  dynamic "slots" { # ERROR: Too many blocks
    for_each = ["a", "b"]
    labels   = [slots.value]
    content {
      size       = "64MiB"
      filesystem = "ext4"
    }
  }
}
