locals {
  a = local.b
  b = "x${local.c}"
  c = local.a # ERROR: Cycle
}
