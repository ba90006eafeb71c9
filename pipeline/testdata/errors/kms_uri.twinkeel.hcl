signer "kms" "k" { uri = "aws:key" } # ERROR: Wrong value
