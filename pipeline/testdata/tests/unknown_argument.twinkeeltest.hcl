run "a" {
  variabels = { version = "1" } # ERROR: Unknown argument
}
