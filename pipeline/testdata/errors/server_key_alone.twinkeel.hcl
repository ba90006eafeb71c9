server "s" {
  url        = "https://ota.example.com"
  client_key = "ci.key" # ERROR: Missing argument
}
