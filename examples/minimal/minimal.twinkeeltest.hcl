# twinkeel test: no build is needed, what the source exposes is made up.

run "release_is_named_after_the_build" {
  fakes = { "source.yocto.board" = { build_id = "20260131120000" } }
  assert {
    condition     = artifact.os.name == "board-os-20260131120000"
    error_message = "The release must carry the date of the build, not the name ${artifact.os.name}."
  }
}

run "system_must_fit" {
  fakes           = { "source.yocto.board" = { rootfs_size = bytes("513MiB") } }
  expect_failures = [artifact.os, image.board]
}
