signer "flie" "dev" { # ERROR: Unknown type of signer
  private_key = "k"
}
