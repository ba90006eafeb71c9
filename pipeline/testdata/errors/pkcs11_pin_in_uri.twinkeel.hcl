signer "pkcs11" "k" { uri = "pkcs11:object=ota?pin-value=1234" } # ERROR: Wrong value
