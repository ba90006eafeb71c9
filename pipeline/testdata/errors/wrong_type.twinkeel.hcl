server "s" {
  url = ["https://ota.example.com"] # ERROR: Wrong type of value
}
