server "a b" { # ERROR: Wrong name
  url = "https://x"
}
