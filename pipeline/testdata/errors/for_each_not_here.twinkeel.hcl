server "s" {
  for_each = {} # ERROR: Unknown argument
  url = "https://ota.example.com"
}
