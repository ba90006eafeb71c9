variable "n" {
  default  = null # ERROR: Wrong value of variable
  nullable = false
}
