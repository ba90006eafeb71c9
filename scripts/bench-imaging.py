"""Measures for bench-imaging.sh, which prepares everything: RUNS DIRECTORY TWINKEEL [XFS]."""
import json, os, re, statistics, subprocess, sys, time

runs, d, twinkeel = int(sys.argv[1]), sys.argv[2], sys.argv[3]
xfs = sys.argv[4] if len(sys.argv) > 4 else None
GIB, MIB = 2**30, 2**20


def fresh(folder):
    """An empty folder for outputs, after all earlier ones are on the disk."""
    subprocess.run(["rm", "-rf", folder], check=True)
    subprocess.run(["sync"], check=True)
    os.makedirs(folder)
    return folder


def measure(name, command, out, env=None):
    """Runs a command in a fresh folder: wall, CPU, RSS MiB (not less than this program's), MiB allocated, MiB written."""
    fresh(out)
    with open(d + "/log", "wb") as log:
        start = time.monotonic()
        p = subprocess.Popen(command, cwd=out, env=dict(os.environ, **(env or {})), stdout=log, stderr=log)
        _, status, use = os.wait4(p.pid, 0)
        wall = time.monotonic() - start
    if status:
        sys.exit("bench: %s failed; see %s/log" % (name, d))
    allocated = sum(os.lstat(os.path.join(out, f)).st_blocks * 512 for f in os.listdir(out))
    return wall, use.ru_utime + use.ru_stime, use.ru_maxrss / 1024, allocated / MIB, use.ru_oublock * 512 / MIB


def ours(mode, folder, slot=GIB):
    env = {"TWINKEEL_BENCH_INPUT": folder, "TWINKEEL_BENCH_OUTPUT": folder + "/out/disk", "TWINKEEL_BENCH_MODE": mode, "TWINKEEL_BENCH_SLOT": str(slot)}
    return [d + "/imaging.test", "-test.run", "^TestBenchImage$"], folder + "/out", env


def genimage(folder):
    out, tmp = folder + "/out", folder + "/out/tmp"
    return ["genimage", "--config", d + "/genimage.cfg", "--inputpath", folder, "--outputpath", out, "--tmppath", tmp, "--rootpath", out], out


def dd(extra):
    """As wic does it: one file system after the other."""
    command = "truncate -s 2242M disk && sfdisk -q disk <%s/table" % d
    for name, at in ("boot.vfat", 1), ("rootfs.ext4", 65), ("rootfs.ext4", 1089), ("data.ext4", 2113):
        command += " && dd if=%s/%s of=disk bs=1M seek=%d conv=notrunc%s status=none" % (d, name, at, extra)
    return ["sh", "-c", command], d + "/out"


def command_line(slot):
    """bin/twinkeel image of the pipeline, from nothing."""
    script = "cp %s/pipeline/* . && exec %s image --var slot=%dMiB" % (d, twinkeel, slot // MIB)
    return ["sh", "-c", script], d + "/out"


HUGE = 50 * GIB  # a slot, of an image of 100 GiB
rows = {
    "twinkeel raw": ours("raw", d),
    "twinkeel raw + bmap + digests": ours("digests", d),
    "twinkeel zst alone": ours("zst", d),
    "twinkeel qcow2 alone": ours("qcow2", d),
    "twinkeel android-sparse alone": ours("android-sparse", d),
    "genimage": genimage(d),
    "sfdisk + dd conv=sparse": dd(",sparse"),
    "sfdisk + dd": dd(""),
}
if xfs:
    rows["xfs: twinkeel raw"] = ours("raw", xfs)
    rows["xfs: genimage"] = genimage(xfs)
once = {
    "bin/twinkeel version": ([twinkeel, "version"], d + "/out"),
    "twinkeel raw, 100 GiB": ours("raw", d, HUGE),
    "bin/twinkeel image": command_line(GIB),
    "bin/twinkeel image, 100 GiB": command_line(HUGE),
}

wanted = lambda name: re.search(os.environ.get("BENCH_ONLY", ""), name)
seen = {name: [] for name in list(rows) + list(once) if wanted(name)}
mapped = written = dense = None
for n in range(runs):
    for name in filter(wanted, rows):
        seen[name].append(measure(name, *rows[name]))
        if name == "twinkeel raw + bmap + digests":
            text = open(d + "/out/disk.bmap").read()
            mapped = int(re.search(r"<MappedBlocksCount> (\d+)", text)[1]) * 4096 / GIB
for name in filter(wanted, once):
    seen[name].append(measure(name, *once[name]))
    if name == "bin/twinkeel image":
        image, target = d + "/out/out/images/board.img", d + "/out/target"
        lines = subprocess.run([twinkeel, "flash", "--file", "--yes", "--json", image, target], check=True, capture_output=True, text=True).stdout
        written = next(json.loads(l)["written"] for l in lines.splitlines() if json.loads(l).get("type") == "result")
        dense = os.path.getsize(image)
subprocess.run(["rm", "-rf", d + "/out", d + "/pipeline"])

print("%-32s %8s %8s %8s %13s %11s" % ("", "wall s", "CPU s", "RSS MiB", "allocated MiB", "written MiB"))
median = {name: [statistics.median(c) for c in zip(*values)] for name, values in seen.items()}
for name, m in median.items():
    print("%-32s %8.2f %8.2f %8.0f %13.0f %11.0f" % ((name,) + tuple(m)))
WALL, CPU, RSS = 0, 1, 2

missed = 0
print("\n%-58s %9s %9s" % ("goal", "wanted", "measured"))


def goal(what, limit, value, sign="<="):
    """value is a function; one whose rows did not run is left out."""
    global missed
    try:
        v = value()
    except (KeyError, TypeError):
        print("%-58s %3s %5g %9s  not measured" % (what, sign, limit, "-"))
        return
    met = v <= limit if sign == "<=" else v >= limit
    missed += not met
    print("%-58s %3s %5g %9.2f  %s" % (what, sign, limit, v, "ok" if met else "MISSED"))


ratio = lambda a, b, column: median[a][column] / median[b][column]
goal("CPU, of genimage's", 0.6, lambda: ratio("twinkeel raw", "genimage", CPU))
goal("wall, of genimage's", 0.6, lambda: ratio("twinkeel raw", "genimage", WALL))
goal("times faster than genimage with shared blocks", 20, lambda: ratio("xfs: genimage", "xfs: twinkeel raw", WALL), ">=")
for name in "twinkeel raw", "twinkeel raw + bmap + digests", "twinkeel raw, 100 GiB", "bin/twinkeel image", "bin/twinkeel image, 100 GiB":
    goal("peak RSS in MiB, " + name, 32, lambda: median[name][RSS])
goal("CPU s per GiB mapped, for bmap and digests", 1.5, lambda: (median["twinkeel raw + bmap + digests"][CPU] - median["twinkeel raw"][CPU]) / mapped)
goal("times fewer bytes than dd, flashing a default image", 3, lambda: dense / written, ">=")
sys.exit(1 if missed else 0)
