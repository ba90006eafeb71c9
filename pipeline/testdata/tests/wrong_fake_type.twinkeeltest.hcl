run "a" {
  fakes = { "source.yocto.rpi4" = { rootfs_size = "large" } } # ERROR: Wrong type of value
}
run "b" {
  fakes = { "source.yocto.rpi4" = { rootfs_size = -1 } } # ERROR: Wrong type of value
}
run "c" {
  fakes = { "source.yocto.rpi4" = "x.ext4" } # ERROR: Wrong type of value
}
run "d" {
  fakes = { "git::dirty" = "yes" } # ERROR: Wrong type of value
}
