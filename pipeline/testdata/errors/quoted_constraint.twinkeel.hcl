variable "n" {
  type = "string" # ERROR: Wrong type constraint
}
