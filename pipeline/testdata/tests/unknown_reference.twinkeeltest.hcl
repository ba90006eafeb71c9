run "a" {
  assert {
    condition     = artifact.oss.name == "x" # ERROR: Unknown reference
    error_message = "No."
  }
  assert {
    condition     = plan.steps == 1 # ERROR: Unknown attribute
    error_message = "No."
  }
  assert {
    condition     = output.artefacts == 1 # ERROR: Unknown reference
    error_message = "No."
  }
}
