locals { a = local.a } # ERROR: Cycle
