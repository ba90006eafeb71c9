locals { 
  version = "1"
  a = "x-${local.versoin}" # ERROR: Unknown reference
}
