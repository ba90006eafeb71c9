server "s" { url = "https://ota.example.com" }
server "s" { url = "https://ota.example.com" } # ERROR: Duplicate server
