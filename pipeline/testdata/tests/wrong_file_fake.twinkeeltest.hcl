run "a" {
  fakes = { "path:dist/app.tar" = { length = 1 } } # ERROR: Unknown attribute
}
run "b" {
  fakes = { "path:dist/app.ext4" = { type = "ext5" } } # ERROR: Wrong value
}
run "c" {
  fakes = { "path:" = {} } # ERROR: Wrong path
}
