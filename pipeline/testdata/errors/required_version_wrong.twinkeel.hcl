twinkeel { required_version = "new" } # ERROR: Wrong required_version
