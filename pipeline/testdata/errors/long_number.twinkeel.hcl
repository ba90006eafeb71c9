locals { a = 1e99999999 } # ERROR: Number too long
