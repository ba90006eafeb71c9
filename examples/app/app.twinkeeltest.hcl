# twinkeel test: the archive of the container image is pretended; the files of the repository must be there.

variables = { version = "1.5.0" }
fakes     = { "path:work/telemetry.tar" = { size = bytes("80MiB") } }

run "one_version_for_all" {
  assert {
    condition     = alltrue([for a in [artifact.config, artifact.restart, artifact.containers] : endswith(a.name, "-1.5.0")])
    error_message = "All artifacts must carry the version."
  }
  assert {
    condition     = length(plan.actions) == 3
    error_message = "There must be three artifacts."
  }
}

run "image_must_exist" {
  variables       = { container_image = "work/none.tar" }
  expect_failures = [artifact.containers]
}
