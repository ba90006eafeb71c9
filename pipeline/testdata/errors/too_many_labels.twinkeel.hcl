artifact "a" "b" { # ERROR: Too many labels
}
