# What must stay true of the fleet, whoever edits it: twinkeel test. No build is needed; what the sources expose is made up.

variables {
  version = "2.0.0"
}

run "development_signs_with_a_file" {
  assert {
    condition     = alltrue([for a in values(artifact.os) : a.signer == "signer.file.dev"])
    error_message = "Development must not need the hardware module."
  }
  assert {
    condition     = artifact.edge_app.signer == signer.file.dev.id
    error_message = "The application must be signed as the system is."
  }
}

run "production_signs_with_the_hardware_module" {
  variables = { channel = "prod" }
  assert {
    condition     = artifact.os["rpi4"].signer == "signer.pkcs11.release" && artifact.os["gateway"].signer == "signer.pkcs11.release"
    error_message = "Production must sign with the hardware module."
  }
  assert {
    condition     = startswith(server.fleet.url, "https://ota.")
    error_message = "Production must go to the real server, not to ${server.fleet.url}."
  }
}

run "version_must_be_semantic" {
  variables       = { version = "spring" }
  expect_failures = [var.version]
}

run "channel_must_be_known" {
  variables       = { channel = "production" }
  expect_failures = [var.channel]
}

run "system_fills_the_slot" {
  fakes = { "source.yocto.rpi4" = { rootfs_size = bytes("1GiB") } }
  assert {
    condition     = contains(artifact.os["rpi4"].device_types, "device_type.rpi4")
    error_message = "The Raspberry Pi gets no system."
  }
}

run "system_too_large_for_the_slot" {
  fakes           = { "source.yocto.rpi4" = { rootfs_size = bytes("1GiB") + 4096 } }
  expect_failures = [artifact.os["rpi4"], image.rpi4]
}

run "system_of_another_kind" {
  fakes           = { "source.yocto.gateway" = { rootfs = "fleet.squashfs" } }
  expect_failures = [artifact.os, image.gateway]
}

run "system_too_large_for_the_link" {
  fakes           = { "source.yocto.rpi4" = { rootfs_size = bytes("3GiB") } }
  expect_failures = [check.os_fits, artifact.os["rpi4"], image.rpi4]
}

run "phases_must_grow" {
  variables = {
    phases = [{ name = "half", percent = 50 }, { name = "early", percent = 10 }, { name = "rest", percent = 100 }]
  }
  expect_failures = [rollout.os]
}

run "phases_must_reach_everybody" {
  variables       = { phases = [{ name = "half", percent = 50 }] }
  expect_failures = [rollout.os]
}

run "application_needs_the_system_of_its_release" {
  assert {
    condition     = artifact.edge_app.depends["rootfs-image.version"] == artifact.os["gateway"].name
    error_message = "The application must depend on the system that it was made with."
  }
  assert {
    condition     = one([for a in plan.actions : a.depends_on if a.address == "rollout.edge_app"]) == ["artifact.edge_app", "rollout.os"]
    error_message = "The application must reach the devices after the system."
  }
}

run "only_one_device" {
  targets = ["image.rpi4"]
  assert {
    condition     = [for a in plan.actions : a.address] == ["artifact.os[\"rpi4\"]", "image.rpi4"]
    error_message = "The image of the Raspberry Pi needs its own system and nothing else."
  }
}
