variables = {} # ERROR: No run
