server "s" {
  url                = "https://ota.example.com"
  client_certificate = "ci.crt" # ERROR: Missing argument
}
