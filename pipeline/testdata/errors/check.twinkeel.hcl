check "c" {
  assert {
    condition     = 1 > 2 # ERROR: Check failed
    error_message = "One is not more than two."
  }
}
