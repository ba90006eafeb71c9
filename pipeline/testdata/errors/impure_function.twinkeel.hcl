locals { a = timestamp() } # ERROR: Error in function call
