source "file" "app" { path = "a\nb" } # ERROR: Wrong value
