run "a" {
  variables = { versoin = "1" } # ERROR: Unknown variable
}
run "b" {
  variables {
    chanel = "dev" # ERROR: Unknown variable
  }
}
