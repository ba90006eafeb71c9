source "file" "app" { path = "app.tar" }
locals { a = source.app.path } # ERROR: Unknown reference
