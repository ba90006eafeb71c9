locals {
  a = , # ERROR: Invalid expression
}
