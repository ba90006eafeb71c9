artefact "os" { # ERROR: Unknown kind of block
}
