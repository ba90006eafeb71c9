signer "file" "k" {} # ERROR: Missing argument
