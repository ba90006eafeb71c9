server "s" {
  url  = "https://ota.example.com"
  tokn = "x" # ERROR: Unknown argument
}
