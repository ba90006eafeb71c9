locals { a = var } # ERROR: Incomplete reference
