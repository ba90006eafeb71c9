#!/bin/sh
# What the script artifact runs on the device.
set -eu
systemctl restart telemetry.service
