package pipeline

const jsonPipeline = `{
  "//": "a comment",
  "variable": {"version": {"type": "string", "default": "1.0.0"}},
  "layout": {"ab": {"slots": {"rootfs": {"size": "64MiB", "filesystem": "ext4"}}, "reserve": {"env": {"offset": "1MiB", "size": "128KiB"}}}},
  "device_type": {"d": {"architecture": "arm64", "layout": "${layout.ab}", "bootloader": {"u-boot": {"environment": "env"}}}},
  "artifact": {"os": {
    "for_each": {"a": "good.ext4"},
    "name": "os-${var.version}",
    "device_types": ["${device_type.d}"],
    "payload": {"rootfs-image": {"file": "${each.value}"}}
  }},
  "server": {"s": {"url": "https://ota.example.com"}},
  "rollout": {"r": {
    "server": "${server.s}",
    "artifacts": "${values(artifact.os)}",
    "dynamic": {"phase": {"for_each": [10, 100], "labels": ["p${phase.value}"], "content": {"percent": "${phase.value}"}}}
  }},
  "output": {"path": {"value": "${artifact.os[\"a\"].path}"}}
}
`
