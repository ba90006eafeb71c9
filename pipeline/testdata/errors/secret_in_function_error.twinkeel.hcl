variable "pin" {
  default   = "hunter2hunter2"
  sensitive = true
}
locals { n = tonumber(var.pin) } # ERROR: Error in function call
