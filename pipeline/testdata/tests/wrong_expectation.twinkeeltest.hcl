run "a" {
  expect_failures = [var.versio] # ERROR: Unknown reference
}
run "b" {
  expect_failures = [artifact.os["rpi4"].name] # ERROR: Wrong address
}
run "c" {
  expect_failures = [check.os_fit] # ERROR: Unknown reference
}
run "d" {
  expect_failures = [path.root] # ERROR: Wrong address
}
run "e" {
  expect_failures = ["it" == "wrong"] # ERROR: Wrong address
}
run "f" {
  expect_failures = var.version # ERROR: Wrong type of value
}
run "g" {
  expect_failures = [artifact] # ERROR: Incomplete reference
}
