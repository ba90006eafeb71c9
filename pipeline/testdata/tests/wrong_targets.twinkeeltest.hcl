run "a" {
  targets = "artifact.os" # ERROR: Wrong type of value
}
run "b" {
  targets = [1] # ERROR: Wrong type of value
}
