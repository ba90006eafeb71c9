signer "file" "k" { private_key_env = "-----BEGIN PRIVATE KEY-----" } # ERROR: Wrong value
