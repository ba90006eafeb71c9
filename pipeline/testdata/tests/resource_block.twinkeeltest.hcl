artifact "x" {} # ERROR: Unknown kind of block
run "a" {}
