variable "n" {
  type    = list(number)
  default = ["a"] # ERROR: Wrong value of variable
}
