run "a" {
  fakes = { "git::descibe" = "v1.0.0" } # ERROR: Unknown function
}
