output "o" {
  value = { a = [1 / 0] } # ERROR: Wrong value
}
