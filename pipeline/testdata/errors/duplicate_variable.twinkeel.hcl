variable "v" {}
variable "v" {} # ERROR: Duplicate variable
