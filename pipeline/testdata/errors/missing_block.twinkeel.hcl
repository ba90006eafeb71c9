layout "ab" { # ERROR: Missing block
}
