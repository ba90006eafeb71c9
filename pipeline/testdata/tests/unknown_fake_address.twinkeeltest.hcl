run "a" {
  fakes = { "source.yocto.rpi" = { rootfs_size = 1 } } # ERROR: Unknown address
}
run "b" {
  fakes = { "layout.sd_ab" = { slot_size = 1 } } # ERROR: Nothing to fake
}
