server "s" { url = "https://ota.example.com" }
locals { a = server.s.urll } # ERROR: Unknown attribute
