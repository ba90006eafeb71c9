locals { a = true ? 1 : local.nope } # ERROR: Unknown reference
