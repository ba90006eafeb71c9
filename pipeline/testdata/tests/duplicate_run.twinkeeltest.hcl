run "a" {}
run "a" {} # ERROR: Duplicate run
