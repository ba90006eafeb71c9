run "a" {
  variables = { version = var.channel } # ERROR: Unexpected reference
}
