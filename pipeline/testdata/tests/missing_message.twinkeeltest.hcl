run "a" {
  assert { # ERROR: Missing argument
    condition = true
  }
}
