variable "n" { # ERROR: No value for variable
  type = string
}
