run "a" {
  variables = { version = "1.0.0" }
  variables { # ERROR: Duplicate variables
    channel = "dev"
  }
}
