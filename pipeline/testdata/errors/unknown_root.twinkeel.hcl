locals { a = vra.version } # ERROR: Unknown reference
