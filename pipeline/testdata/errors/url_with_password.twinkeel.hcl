server "s" { url = "https://a:b@ota.example.com" } # ERROR: Wrong value
