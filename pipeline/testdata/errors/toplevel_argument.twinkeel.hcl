version = "1" # ERROR: Unexpected argument
