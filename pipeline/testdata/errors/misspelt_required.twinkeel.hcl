server "s" {
  ulr = "https://ota.example.com" # ERROR: Unknown argument
}
