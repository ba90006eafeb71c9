variable "pin" {
  default   = "hunter2hunter2"
  sensitive = true
}
output "pin" { value = var.pin } # ERROR: Secret in plain sight
