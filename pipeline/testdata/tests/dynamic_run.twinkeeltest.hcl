dynamic "run" { # ERROR: Wrong dynamic block
  for_each = ["a"]
  labels   = [run.value]
  content {}
}
