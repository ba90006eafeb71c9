variable "n" {
  type = lst(number) # ERROR: Wrong type constraint
}
