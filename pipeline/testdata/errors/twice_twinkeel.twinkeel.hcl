twinkeel {}
twinkeel {} # ERROR: Duplicate twinkeel
