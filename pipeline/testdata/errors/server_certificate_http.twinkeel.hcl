server "s" {
  url                = "http://127.0.0.1:8080"
  client_certificate = "ci.crt" # ERROR: Certificate without TLS
  client_key         = "ci.key"
}
