locals { a = ext4 } # ERROR: Unknown reference
