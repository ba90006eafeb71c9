server "s" { url = null } # ERROR: Missing value
