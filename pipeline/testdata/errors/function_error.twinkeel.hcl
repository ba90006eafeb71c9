variable "text" { default = "abc" }
locals { a = parseint(var.text, 10) } # ERROR: Invalid function argument
