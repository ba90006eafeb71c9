source "file" "f" { path = "good.ext4" }
source "exec" "e" {
  command    = ["true"]
  outputs    = { a = "a" }
  depends_on = [source.file.f, "nothing"] # ERROR: Wrong type of value
}
