variable "channel" { # ERROR: Value of variable channel refused
  default = "beta"
  validation {
    condition     = contains(["dev", "prod"], var.channel)
    error_message = "The channel must be dev or prod."
  }
}
