device "rpi" { # ERROR: Unknown kind of block
}
