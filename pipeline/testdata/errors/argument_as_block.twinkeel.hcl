signer "file" "dev" {
  private_key { # ERROR: Unexpected block
  }
}
