artifact { # ERROR: Missing label
}
