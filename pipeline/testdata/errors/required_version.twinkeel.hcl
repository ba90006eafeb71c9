twinkeel { required_version = ">= 99" } # ERROR: Unsupported version of twinkeel
nonsense {}
