variable "version" {}
locals { a = var.verison } # ERROR: Unknown reference
