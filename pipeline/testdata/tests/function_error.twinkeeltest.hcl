run "a" {
  variables = { version = parseint("x", 10) } # ERROR: Invalid function argument
}
