run "a" {
  fakes = { "source.yocto.rpi4" = { rootfs_siz = 1 } } # ERROR: Unknown attribute
}
run "b" {
  fakes = { "source.yocto.rpi4" = { machine = "x" } } # ERROR: Unknown attribute
}
run "c" {
  fakes = { "artifact.os" = { path = "x" } } # ERROR: Unknown attribute
}
