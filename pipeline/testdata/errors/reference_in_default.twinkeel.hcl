variable "a" { default = "x" }
variable "b" {
  default = "${var.a}-b" # ERROR: Unexpected reference
}
output "b" { value = var.b }
