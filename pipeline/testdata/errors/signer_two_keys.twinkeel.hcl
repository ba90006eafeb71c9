signer "file" "k" {
  private_key     = "k.pem"
  private_key_env = "KEY" # ERROR: Conflicting arguments
}
