run "a" {
  command = aply # ERROR: Wrong value
}
