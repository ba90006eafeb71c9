#!/bin/sh
# Runs twinkeel and mender-artifact side by side on a root file system of 1 GiB that is 60 % full of this machine's own
# files, and prints what each takes. The two alternate, so that what else the machine does hits both; figures are medians.
#
#   scripts/bench-artifact.sh [RUNS] [DIRECTORY]
#
# RUNS is 5; DIRECTORY (default /var/tmp/twinkeel-bench) keeps the image for the next time and needs 6 GiB. BENCH_ONLY="write zstd|show"
# runs the rows that match the regular expression.
set -eu
runs=${1:-5}
dir=${2:-/var/tmp/twinkeel-bench}
cd "$(dirname "$0")/.."
twinkeel=${TWINKEEL:-$PWD/bin/twinkeel}
[ -x "$twinkeel" ] || { echo "bench: $twinkeel is missing; run: make host" >&2; exit 1; }
for tool in mender-artifact mke2fs python3 openssl; do
	command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null ||
		{ echo "bench: $tool is missing; on Debian: apt install mender-artifact e2fsprogs python3 openssl" >&2; exit 1; }
done
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$dir"

if [ ! -f "$dir/rootfs.ext4" ]; then
	echo "making the image, once" >&2
	rm -rf "$dir/root"
	mkdir "$dir/root"
	# Programs, libraries and data as a device has them, every fourth file; small machines give more of theirs. What can't be
	# read is left out.
	for part in 0 1 2 3; do
		find /usr/lib /usr/bin /usr/share -xdev -type f -size -16384k -printf '%s %p\n' 2>/dev/null | LC_ALL=C sort -k 2 |
			awk -v part=$part -v have="$(du -sm "$dir/root" | cut -f1)" 'NR % 4 == part && (sum += $1) < (580 - have) * 1e6 {
				sub(/^[0-9]+ /, ""); printf "%s%c", $0, 0 }' |
			xargs -0 -r cp --parents -t "$dir/root" 2>/dev/null || true
		[ "$(du -sm "$dir/root" | cut -f1)" -lt 560 ] || break
	done
	truncate -s 1G "$dir/image"
	mke2fs -q -t ext4 -d "$dir/root" "$dir/image"
	rm -rf "$dir/root"
	mv "$dir/image" "$dir/rootfs.ext4"
fi
[ -f "$dir/key.pem" ] || openssl ecparam -name prime256v1 -genkey -noout -out "$dir/key.pem"

exec python3 -u - "$runs" "$dir" "$twinkeel" <<'PYTHON'
import hashlib, os, re, shutil, statistics, subprocess, sys, threading, time

runs, where, ours = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.chdir(where)
image, key, only = "rootfs.ext4", "key.pem", os.environ.get("BENCH_ONLY", "")
temp = os.path.join(where, "tmp")

def run(command, output):
    """Runs a command; wall, CPU, peak RSS (MiB), bytes moved by it, of its output, and at most in TMPDIR."""
    shutil.rmtree(temp, ignore_errors=True)
    os.mkdir(temp)
    peak, done = [0], threading.Event()
    def watch():
        while not done.wait(0.05):
            try:
                peak[0] = max(peak[0], sum(e.stat().st_size for e in os.scandir(temp) if e.is_file()))
            except FileNotFoundError:
                pass
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.monotonic()
    p = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(os.environ, TMPDIR=temp))
    message = p.stderr.read()
    os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT)
    wall = time.monotonic() - start
    try:
        io = dict(line.split(": ") for line in open(f"/proc/{p.pid}/io").read().splitlines())
        moved = int(io["rchar"]) + int(io["wchar"])
    except (OSError, KeyError):
        moved = 0 # copies within the kernel, or no such file here
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = status
    done.set()
    watcher.join()
    if status:
        raise RuntimeError(f"{' '.join(command)}: {message.decode(errors='replace').strip()}")
    size = os.path.getsize(output) if output else 0
    return [wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, moved, size, peak[0]]

def sum_of(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(f.read()).hexdigest()

def write(tool, compression, out):
    if tool == "ours":
        return [ours, "artifact", "write", "--progress", "quiet", "-t", "d", "-n", "r1", "-f", image, "--compression", compression, "-o", out]
    return ["mender-artifact", "write", "rootfs-image", "--no-progress", "-t", "d", "-n", "r1", "-f", image, "--compression", compression, "-o", out]

def theirs(*args): return ["mender-artifact", *args]
def own(*args): return [ours, "artifact", args[0], "--progress", "quiet", *args[1:]]
def copies(source, target): return lambda: shutil.copyfile(source, target)

# Name, our command and output, the peer's; what to do before each; the goal for the ratio of wall time.
o, p = "ours.mender", "peer.mender"
rows = [
    ("write zstd (peer gzip)", write("ours", "zstd", o), write("peer", "gzip", p), o, p, None, 0.45),
    ("write gzip", write("ours", "gzip", o), write("peer", "gzip", p), o, p, None, 0.6),
    ("write none", write("ours", "none", o), write("peer", "none", p), o, p, None, 0.5),
    ("verify zstd (peer gzip)", own("verify", "--allow-unsigned", "zstd.ours"), theirs("validate", "gzip.peer"), None, None, None, 0.6),
    ("verify gzip", own("verify", "--allow-unsigned", "gzip.ours"), theirs("validate", "gzip.peer"), None, None, None, 0.6),
    ("verify none", own("verify", "--allow-unsigned", "none.ours"), theirs("validate", "none.peer"), None, None, None, 0.6),
    ("verify gzip of the peer", own("verify", "--allow-unsigned", "gzip.peer"), theirs("validate", "gzip.peer"), None, None, None, 0.6),
    ("show", own("show", "zstd.ours"), theirs("read", "--no-progress", "gzip.peer"), None, None, None, None),
    ("modify name, gzip", own("modify", "-n", "r2", "-o", o, "gzip.ours"), theirs("modify", "-n", "r2", p), o, p, copies("gzip.peer", p), 0.05),
    ("sign gzip", own("sign", "-k", key, "-o", o, "gzip.ours"), theirs("sign", "-k", key, "-o", p, "gzip.peer"), o, p, None, 1.0),
]

subprocess.run(write("peer", "gzip", "gzip.peer"), check=True, stdout=subprocess.DEVNULL)
subprocess.run(write("peer", "none", "none.peer"), check=True, stdout=subprocess.DEVNULL)
for c in ("none", "gzip", "zstd"):
    subprocess.run(write("ours", c, c + ".ours"), check=True, stdout=subprocess.DEVNULL)
    first = sum_of(c + ".ours")
    subprocess.run(write("ours", c, o), check=True, stdout=subprocess.DEVNULL)
    if sum_of(o) != first:
        sys.exit(f"bench: two runs with {c} gave different bytes")
print(f"{'':25}{'':5}{'wall s':>8}{'CPU s':>8}{'RSS MiB':>9}{'moved MB':>10}{'output B':>12}{'temp MB':>9}")
missed = []
for name, mine, peer, my_out, peer_out, before, goal in rows:
    if only and not re.search(only, name):
        continue
    got, failed = {"ours": [], "peer": []}, {}
    for _ in range(runs):
        for who, command, out in (("ours", mine, my_out), ("peer", peer, peer_out)):
            if who in failed:
                continue
            if out and os.path.exists(out):
                os.remove(out)
            if before and who == "peer":
                before()
            os.sync() # the other's dirty pages are not this one's business
            try:
                got[who].append(run(command, out))
            except RuntimeError as e:
                failed[who] = str(e)
    medians = {who: [statistics.median(v) for v in zip(*values)] for who, values in got.items() if values}
    for who, m in medians.items():
        print(f"{name if who == 'ours' else '':25}{who:5}{m[0]:8.2f}{m[1]:8.2f}{m[2]:9.0f}{m[3] / 1e6:10.0f}{m[4]:12.0f}{m[5] / 1e6:9.0f}")
    for who, text in failed.items():
        print(f"{name:25}{who}: failed: {text.splitlines()[0] if text else ''}")
    if len(medians) == 2:
        ratio = [a / b if b else float("nan") for a, b in zip(medians["ours"], medians["peer"])]
        verdict = "" if goal is None else f"   goal {goal} {'met' if ratio[0] <= goal else 'MISSED'}"
        print(f"{'':25}{'ratio':5}{ratio[0]:8.2f}{ratio[1]:8.2f}{ratio[2]:9.2f}{ratio[3]:10.2f}{ratio[4]:12.3f}{'':9}{verdict}")
        if goal is not None and ratio[0] > goal:
            missed.append(name)
    if "ours" in medians and medians["ours"][2] > 64:
        missed.append(name + " (RSS)")
    if "ours" in medians and medians["ours"][5]:
        missed.append(name + " (temporary files)")
print("two runs gave the same bytes with none, gzip and zstd")
print("goals missed: " + ", ".join(missed) if missed else "all goals met")
PYTHON
