variable "version" {}
locals { a = version } # ERROR: Unknown reference
