source "file" "app" { path = "good.ext4" }
output "o" { value = source.file.app.rootfs } # ERROR: Unknown attribute
output "p" { value = source.file.app.sizes }  # ERROR: Unknown attribute
