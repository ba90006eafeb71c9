variable "device_type" {
  type        = any
  description = "What the app runs on: a device_type."
}

variable "version" {
  type = string
}

artifact "app" {
  name         = "kiosk-${var.version}"
  device_types = [var.device_type]
  payload "single-file" {
    file        = "${path.module}/kiosk.bin"
    destination = "/opt/kiosk"
  }
}

output "artifact" {
  value = artifact.app
}
