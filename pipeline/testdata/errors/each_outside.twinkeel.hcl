locals { a = each.key } # ERROR: Unknown reference
