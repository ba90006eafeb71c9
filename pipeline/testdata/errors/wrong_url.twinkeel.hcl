server "s" { url = "ota.example.com" } # ERROR: Wrong value
