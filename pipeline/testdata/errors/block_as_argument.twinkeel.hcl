layout "ab" {
  slots = { size = 1 } # ERROR: Unexpected argument
}
