#!/bin/sh
# The demo: from a pipeline file to a committed update, on this machine. `make demo` builds what it runs.
#
# It shows every command it runs, so that it can be read as a tour and repeated by hand. What it makes is in work/ and
# out/; nothing else is touched, and everything it started is stopped at the end.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin=$(cd "$here/../../bin" && pwd)
cd "$here"
PATH="$bin:$PATH:/usr/sbin:/sbin"

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
	bold=$(printf '\033[1m') cyan=$(printf '\033[36m') green=$(printf '\033[32m') dim=$(printf '\033[2m') off=$(printf '\033[0m')
else bold='' cyan='' green='' dim='' off=''; fi
chapter() { printf '\n%s── %s %s\n' "$bold$cyan" "$*" "$off"; }
say() { printf '%s%s%s\n' "$dim" "$*" "$off"; }
run() {
	printf '%s$ %s%s\n' "$bold" "$*" "$off"
	"$@"
}
fail() {
	printf 'demo: %s\n' "$*" >&2
	exit 1
}
# until_true TEXT SECONDS COMMAND...: waits for a command to succeed.
until_true() {
	what=$1 left=$(($2 * 5))
	shift 2
	until "$@" >/dev/null 2>&1; do
		left=$((left - 1))
		[ $left -gt 0 ] || fail "waited too long for $what"
		sleep 0.2
	done
}
processes=
clean_up() {
	status=$?
	trap - EXIT INT TERM
	# shellcheck disable=SC2086
	[ -z "$processes" ] || kill $processes 2>/dev/null || true
	wait 2>/dev/null || true
	[ $status = 0 ] || say "logs: $here/work/server.log and $here/work/device-*.log"
	exit $status
}
trap clean_up EXIT
trap 'exit 130' INT TERM

port=${DEMO_PORT:-8090}
export TWINKEEL_VAR_server_url="http://127.0.0.1:$port"
[ "$(uname -m)" != aarch64 ] || export TWINKEEL_VAR_machine=qemuarm64
started=$(date +%s)
rm -rf out .twinkeel work/deploy work/keys work/devices work/server work/*.log
mkdir -p work

chapter "A release as Yocto leaves it"
say "A stand-in for bitbake: busybox, an init, the agent and Debian's kernel in an ext4 image, with Yocto's file names."
run ./deploy.sh 1.0.0 "$bin/twinkeel-agent"
run ls -1 work/deploy/1.0.0

chapter "From a pipeline file to a signed artifact"
run twinkeel keys generate work/keys/dev.pem
run twinkeel validate
run twinkeel plan
run twinkeel build
run twinkeel artifact show out/artifacts/os.mender
run twinkeel artifact verify out/artifacts/os.mender --key work/keys/dev.pem.pub
if command -v mender-artifact >/dev/null; then
	say "Mender's own tool accepts it too:"
	run mender-artifact validate -k work/keys/dev.pem.pub out/artifacts/os.mender
fi

chapter "The disk image for flashing"
run twinkeel image
run twinkeel image map out/images/demo.img
if command -v sgdisk >/dev/null; then run sgdisk -v out/images/demo.img; fi

chapter "A server and three devices"
printf '%s$ twinkeel server run --data work/server --listen 127.0.0.1:%s --verify-key work/keys/dev.pem.pub &%s\n' "$bold" "$port" "$off"
twinkeel server run --data work/server --listen "127.0.0.1:$port" --verify-key work/keys/dev.pem.pub >work/server.log 2>&1 &
server=$!
processes="$processes $server"
printf '%s$ export TWINKEEL_VAR_server_token=$(twinkeel server token create demo --data work/server)%s\n' "$bold" "$off"
listens() { grep -q 'twinkeel server' work/server.log || ! kill -0 "$server"; }
until_true "the server" 20 listens
kill -0 "$server" 2>/dev/null || fail "the server did not start (DEMO_PORT=... takes another port): $(cat work/server.log)"
TWINKEEL_VAR_server_token=$(twinkeel server token create demo --data work/server)
export TWINKEEL_VAR_server_token
for n in 1 2 3; do
	run twinkeel-vdevice create "work/devices/$n" --image out/images/demo.img --mac "02:00:00:00:00:0$n"
done
say "Power on: a boot loader's stand-in reads each disk's environment, picks the slot and starts the agent that is in it."
for n in 1 2 3; do
	twinkeel-vdevice run "work/devices/$n" >"work/device-$n.log" 2>&1 &
	processes="$processes $!"
done
all_pending() { [ "$(twinkeel devices list --status pending --json | grep -c '"identity_data": {' || true)" -ge 3 ]; }
until_true "three devices" 30 all_pending
run twinkeel devices list
run twinkeel devices accept --all-pending

chapter "Version 1.1.0 reaches everyone: first one device, then the rest"
run ./deploy.sh 1.1.0 "$bin/twinkeel-agent"
export TWINKEEL_VAR_version=1.1.0
run twinkeel plan rollout.os
run twinkeel build
run twinkeel push
run twinkeel rollout start
run twinkeel rollout status --wait
for n in 1 2 3; do run twinkeel-vdevice status "work/devices/$n"; done

chapter "Version 1.2.0 is broken: its root file system has no init"
run ./deploy.sh 1.2.0 "$bin/twinkeel-agent" --broken
export TWINKEEL_VAR_version=1.2.0
run twinkeel build
run twinkeel push
run twinkeel rollout start
say "The first device installs it, can't boot it, falls back by itself and says so; the rollout pauses."
run twinkeel rollout status --watch
say "What the console of that device said:"
sed -n '/artifact_name=demo-os-1.2.0/,$p' "$(grep -l panic work/device-*.log)"
for n in 1 2 3; do run twinkeel-vdevice status "work/devices/$n"; done
for n in 1 2 3; do
	twinkeel-vdevice status "work/devices/$n" --json | grep -q 'demo-os-1.1.0' || fail "device $n is not on 1.1.0"
done
twinkeel rollout status --json | grep -q '"state": "paused"' || fail "the rollout was not paused"

chapter "Done"
printf '%s%s\n' "$green" "All three devices run 1.1.0: the good release arrived, the broken one never stayed.$off"
say "$(($(date +%s) - started)) seconds. Look around: $here/work, $here/out; console logs in work/device-*.log"
