server "s" {
  url = var.nope # ERROR: Unknown reference
}
locals {
  a = upper(1, 2) # ERROR: Too many function arguments
  b = local.a
  c = local.b
}
artifact "os" {
  nmae = "x" # ERROR: Unknown argument
}
