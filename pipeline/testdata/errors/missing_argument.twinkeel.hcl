server "s" { # ERROR: Missing argument
}
