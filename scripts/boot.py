#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make boot [TESTS="a b"] [CPU=amd] [MODE=npt|npt0|tdp_mmu|legacy] [APPEND="..."] [SERIES=0|N] [CONFIG=debug]
       make boot CPU=intel [MODE=ept|ept0|tdp_mmu|legacy] ...
       make guest [ROUNDS=10] [SERIES=0|N] [CONFIG=debug] [QEMU="distribution own"] [ATOMIC="on off"] [MACHINE="pc q35"]
       make guest GAP=30
       make guest TRUST=20 [CONFIG=debug]

boot: boot the kernel in an emulator of hardware virtualization (QEMU: SVM; Bochs: VMX and SVM) and run the selftests
TESTS (default: all), with the options and timeouts of configs/selftests. MODE is the MMU mode of the KVM under test
(default: nested paging). scripts/machine.py lists the emulators that run a mode; EMULATOR=qemu|bochs|parallel picks another
one. APPEND adds kernel parameters.
guest: run a QEMU guest with -accel kvm on that kernel, with npt0. In each of ROUNDS, plug and unplug DIMMs, resize a
virtio-mem device, and migrate the guest live to another QEMU, while a load in the guest checks its memory. ROUNDS=0
only boots the guest to user space.
With QEMU (distribution; own: with the series, by make qemu; or a path), the load also splits and merges the guest's RAM all
the time, and a table has a row for each QEMU, atomic-memslots and machine. The distribution's is there for comparison: it
may fail.
GAP=30 measures how long vCPUs of our QEMU stand still in 30 splits and merges of RAM and while logging is switched on and
off, with atomic-memslots off and on, with 2 and 8 vCPUs, 16 and 200 slots, in virtual time. It prints a table and writes a
plot.
TRUST=20 kills our QEMU 20 times while KVM switches its map, lets allocations of the switch fail where the kernel can
(CONFIG=debug, which also looks for leaks), splits and adds RAM while a vCPU waits for a page of postcopy, and runs QEMU's
own test.
Both fail on a failed test and on any WARN, BUG, lockdep or sanitizer report in the kernel log.
"""

import os
import platform
import re
import shlex
import signal
import time
from collections import namedtuple
from pathlib import Path

import guest_gap
from kernel import ARCHS, arch_of, build, pick, selftests
from machine import MACHINES, MODES, mode_of
from source import fetch
from qemu import QTEST, base_of, build as build_qemu
from tree import materialise
from workshop import OUT, TOP, VARS, Base, Failure, install, main, number_of, pretty, read, run, stage, stage_dir, table, took, write

# Warnings in the kernel log.
SPLAT = re.compile(
    r"WARNING: |\bBUG\b|\bOops\b|\bINFO: |Kernel panic|KASAN: |UBSAN: |KCSAN: |ODEBUG: |general protection fault"
    r"|suspicious RCU|possible recursive|possible circular|inconsistent lock|self-detected stall|blocked for more than"
    r"|unreferenced object|refcount_t: |corruption|sleeping function|Call Trace:|nobody cared|page allocation failure")
HARMLESS = re.compile(r"kmemleak: Kernel memory leak detector|Spectre|RETBleed|Speculative")
# Warnings that tests provoke on purpose, by failing allocations: vmalloc() reports them.
PROVOKED = dict.fromkeys(("memslot_failslab_test", "memory_regions_test", "memory_regions_backing_test", "guest_trust"),
                         re.compile(r"allocation failure|Call Trace:"))


# ---------------------------------------------------------------- the initramfs

SETUP, _, INIT = read(TOP / "scripts/init").partition("\n\n")      # what each init begins with; the rest of the tests' one


def initramfs(path, init, files=(), tests="", arch="x86_64"):
    """Write the initramfs PATH: busybox, SETUP and INIT, FILES as (name, path), the list of tests. The kernel has /dev/console."""
    with stage_dir(path.with_name(f"{path.name}.d")) as root:
        for name, data in [("bin/busybox", busybox(arch)), ("init", f"{SETUP}\n{init}"), ("tests", tests),
                           *((name, Path(source).read_bytes()) for name, source in files)]:
            write(root / name, data)
            (root / name).chmod(0o755)
        (root / "bin/sh").symlink_to("busybox")
        run(["sh", "-c", 'find . | busybox cpio -o -H newc -R 0:0 >"$0"', path],
            path.with_name(f"{path.name}.log"), "packing the initramfs failed", root)
    return path


def busybox(arch):
    """A static busybox for ARCH: this machine's, or that of the distribution for another one."""
    if ARCHS[arch].tools != os.uname().machine:
        have = OUT / "download" / f"busybox-{arch}"
        release = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")
        deb = fetch("busybox-static", release, have, f"download-busybox-{arch}", f"do without ARCH={arch}",
                    {"x86_64": "amd64"}.get(arch, arch))
        run(["dpkg-deb", "-x", deb, have / "root"], f"download-busybox-{arch}",
            f"{pretty(deb)} is broken: remove it and repeat", append=True)
        return (have / "root/bin/busybox").read_bytes()
    for path in ("/bin/busybox", "/usr/bin/busybox"):
        if Path(path).exists():
            return Path(path).read_bytes()
    raise Failure("there is no busybox: install busybox-static")


# A program to run in the kernel under test: name, time limit in seconds, command in the initramfs, where it is.
Test = namedtuple("Test", "name limit command source")


def settings(base):
    """configs/selftests, and what BASE has of its own: name -> (limit, options)."""
    found = {}
    for path in (TOP / "configs/selftests", base.patches / "selftests"):
        for line in read(path).splitlines() if path.exists() else ():
            words = shlex.split(line, comments=True)
            if words:
                found[words[0]] = (int(words[1]), words[2:])
    return found


def tests_of(base, where, names, wanted=None, slower=1, cpu=""):
    """The Tests for the selftests NAMES built in WHERE, as they run on CPU; WANTED picks some by their basename."""
    short = {Path(name).name: name for name in names}
    unknown = [name for name in wanted or [] if name not in short]
    if unknown:
        raise Failure(f"TESTS={' '.join(unknown)} is unknown: there are {', '.join(sorted(short))}")
    options = settings(base)
    tests = []
    for name in wanted or short:
        keys = (f"{cpu}/{name}", f"{where.name}/{name}", name, "default")
        limit, extra = next(options[key] for key in keys if key in options)
        tests.append(Test(name, limit * slower, f"/tests.d/{name} {' '.join(extra)}".strip(), where / short[name]))
    return tests


# ---------------------------------------------------------------- a boot

class Boot:
    """The outcome of a boot: results (name, verdict, seconds), warnings in the kernel log, paths of its logs."""

    def __init__(self, name, log):
        self.name, self.log, self.console = name, log / "results", log / "console"
        self.results, self.splats, self.release, self.processor, self.seconds = [], [], "", "", 0.0
        self.excerpt = []       # of the kernel log: the first warning and what follows
        self.words = {}         # of tests that do not pass: what failed or why they skip, or their last line
        self.history = {}       # see retried()

    def verdict(self, name):
        return next((verdict for test, verdict, _ in self.results if test == name), "NOT RUN")


def boot(name, log, image, tests, machine="qemu-amd", append="", slower=1, extra=(), more=()):
    """Boot IMAGE on the machine named MACHINE and run TESTS, with the files EXTRA beside them; logs go to out/log/LOG. MORE
    are options of QEMU. Returns a Boot."""
    machine = MACHINES[machine]
    machine.ready()
    log = OUT / "log" / log
    log.mkdir(parents=True, exist_ok=True)
    result = Boot(name, log)
    for path in (result.log, result.console):
        path.write_text("")
    initrd = initramfs(log / "initramfs", INIT,
                       [(f"tests.d/{test.name}", test.source) for test in [*tests, *extra]],
                       "".join(f"{test.name} {test.limit} {test.command}\n" for test in tests), machine.arch)
    # As patient as the limits of the tests are. The default is 21 seconds.
    append += f" rcupdate.rcu_cpu_stall_timeout={21 * slower}"
    start = time.monotonic()
    process = machine.start(image, initrd, append, result.console, result.log, log, more)
    try:
        watch(process, lambda: machine.clock(process), result, tests, slower)
        if process.poll() is None:
            # It hangs: log the state of its vCPUs.
            machine.inspect(process)
            time.sleep(2)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
    for large in ("initramfs", "boot.iso"):
        (log / large).unlink(missing_ok=True)
    result.seconds = time.monotonic() - start
    collect(result, tests)
    if not result.release:
        if not read(result.console):
            raise Failure(f"{machine.name} did not start {name}", log / "emulator")
        raise Failure(f"{name} did not reach user space in {took(result.seconds)}", result.console)
    return result


def watch(process, clock, result, tests, slower):
    """Wait for the emulator to exit; give up if the kernel hangs."""
    limits = {test.name: test.limit for test in tests}
    deadline = clock() + 90 * slower
    with open(result.log, encoding="utf-8", errors="replace") as log:
        pending = ""
        while process.poll() is None and clock() < deadline:
            pending += log.read()
            *lines, pending = pending.split("\n")
            for line in lines:
                word, _, rest = line.partition(" ")
                if word == "@start":
                    deadline = clock() + limits.get(rest, 60) + 30 * slower
                elif word in ("@boot", "@end", "@done"):
                    deadline = clock() + 60 * slower
            time.sleep(0.1)


def collect(result, tests):
    """Read the verdicts and the kernel log."""
    said = read(result.log)
    booted = re.search(r"^@boot (\S+) \S+ ?(.*)", said, re.M)
    result.release, result.processor = booted.groups() if booted else ("", "")
    started = re.findall(r"^@start (\S+)$", said, re.M)
    ends = {name: (int(code), float(end) - float(begin)) for name, code, begin, end in
            re.findall(r"^@end (\S+) (\d+) (\S+) (\S+)$", said, re.M)}
    for test in tests:
        code, seconds = ends.get(test.name, (None, 0.0))
        if code is None:
            verdict = "HANG" if test.name in started else "NOT RUN"
        elif code in (137, 143) and seconds >= test.limit - 1:
            verdict = "TIMEOUT"
        else:
            verdict = {0: "PASS", 4: "SKIP"}.get(code, "FAIL")
        result.results.append((test.name, verdict, seconds))
        lines = re.findall(rf"^@start {test.name}\n(.*?)(?:^@end |\Z)", said, re.M | re.S)
        lines = lines[0].strip().splitlines() if lines and verdict != "PASS" else []
        for line in [line for line in lines if line.startswith("not ok")][:1] or lines[-1:]:
            result.words[test.name] = f": {line[:120]}"
    during, lines = "boot", read(result.console).splitlines()
    for number, line in enumerate(lines):
        begun = re.search(r"workshop: start (\S+)", line)
        during = begun.group(1) if begun else during
        provoked = PROVOKED.get(during)
        if SPLAT.search(line) and not HARMLESS.search(line) and not (provoked and provoked.search(line)):
            result.excerpt = result.excerpt or [line.strip() for line in lines[number:number + 16]]
            result.splats.append((during, line.strip()))


RANK = ("PASS", "SKIP", "FAIL", "TIMEOUT", "HANG", "NOT RUN")


def retried(attempt, log, tests, good=lambda _, verdict: verdict == "PASS", tries=3):
    """The Boot of attempt(tests, log). Tests for which good(name, verdict) is false run again in a fresh boot, at most
    TRIES boots, each with its own log: the emulated clock goes on when the host stalls the emulator. A test's best verdict
    counts, and the warnings of all boots; .history has every verdict of each test."""
    boots, tried, left = [], {test.name: [] for test in tests}, tests
    while left and len(boots) < tries:
        boots.append(attempt(left, f"{log}-{len(boots) + 1}" if boots else log))
        for name, verdict, seconds in boots[-1].results:
            tried[name].append((verdict, seconds, pretty(boots[-1].log) + boots[-1].words.get(name, "")))
        left = [test for test in left if not good(test.name, tried[test.name][-1][0])]
        # A test that hangs keeps those after it from running.
        left.sort(key=lambda test: tried[test.name][-1][0] == "HANG")
    result = next((one for one in boots if one.splats), boots[0])
    result.splats = [splat for one in boots for splat in one.splats]
    result.results = [(name, *min(all_, key=lambda one: RANK.index(one[0]))[:2]) for name, all_ in tried.items()]
    result.history = {name: ", then ".join(f"{verdict} ({where})" for verdict, _, where in all_)
                      for name, all_ in tried.items()}
    return result


def report(result):
    """Print the verdicts of a boot; returns whether all passed, without a warning."""
    width = max([len(name) for name, _, _ in result.results] + [10])
    for name, verdict, seconds in result.results:
        print(f"{verdict:8} {name:{width}} {seconds:7.1f} s")
    if result.splats:
        print(f"the kernel log has {len(result.splats)} warnings, the first ones:")
        for during, line in result.splats[:8]:
            print(f"    {during}: {line}")
    print(f"kernel log: {pretty(result.console)}   tests: {pretty(result.log)}")
    return not result.splats and all(verdict in ("PASS", "SKIP") for _, verdict, _ in result.results)


# ---------------------------------------------------------------- a guest on it

INNER_INIT = """echo "INNER-USER-SPACE $(uname -r), $(nproc) processors"
if [ -x /load ]; then
	until port=$(grep -lx load /sys/class/virtio-ports/*/name 2>/dev/null); do sleep 1; done
	port=${port%/name}
	/load /dev/${port##*/}
fi
/bin/busybox poweroff -f
"""

GUEST = """#!/bin/sh
# In the outer kernel: run the host's QEMU with the same kernel as a guest.
for faults in /sys/kernel/debug/failslab /sys/kernel/debug/fail_page_alloc; do
	[ ! -d $faults ] || echo N >$faults/ignore-gfp-wait
done
cp /tests.d/* /host/tmp
chroot /host env PATH=/usr/sbin:/usr/bin:/sbin:/bin timeout -s KILL LIMIT COMMAND
code=$?
[ ! -e /host/tmp/console ] || tr -d '\\r' </host/tmp/console | sed 's/^/inner: /'
[ $code = 0 ] && { [ ! -e /host/tmp/console ] || grep -q INNER-USER-SPACE /host/tmp/console; }
"""

QUICK = ("qemu-system-x86_64 -accel kvm -cpu EPYC,-xsave -smp 2 -m 512 -nodefaults -no-user-config -no-reboot "
         "-display none -kernel /tmp/image -initrd /tmp/inner -append 'console=ttyS0 ignore_loglevel panic=-1' "
         "-serial file:/tmp/console")


def guest(name, log, image, slower=1, rounds=0, words=(), qemu=None, probe="", number=0):
    """Run a guest with -accel kvm on IMAGE: a Boot whose only test is "guest". Without ROUNDS, only boot it to user space,
    else run scripts/guest_driver.py with WORDS, whose output is the file "play" of the log. QEMU is a program that becomes
    /tmp/qemu there. With PROBE (gap, trust), run that scripts/guest_*.py instead, with NUMBER."""
    # Virtual time runs fast while files come over 9p.
    limit = (120 + 300 * rounds + 60 * number) * (slower if probe != "gap" else 20)
    work = OUT / "log" / log
    work.mkdir(parents=True, exist_ok=True)
    files, gap = [], probe == "gap"
    if rounds:
        run(["gcc", "-O2", "-Wall", "-static", "-pthread", "-o", work / "load", TOP / "scripts/guest_load.c"],
            f"{log}/load.log", "building the load of the guest failed")
        files = [("load", work / "load")]
    inner = initramfs(work / "inner-initramfs", INNER_INIT, files)
    extra = [Test("inner", 0, "", inner), Test("image", 0, "", image),
             *(Test(path.name, 0, "", path) for path in (TOP / "scripts").glob("guest_*.py"))]
    if qemu:
        run(["strip", "-o", work / "qemu", qemu], f"{log}/load.log", f"{pretty(qemu)} is no program", append=True)
        extra.append(Test("qemu", 0, "", work / "qemu"))
        if (qemu.parent / QTEST).exists():
            extra.append(Test(Path(QTEST).name, 0, "", qemu.parent / QTEST))
    command = shlex.join(map(str, ["python3", "/tmp/guest_driver.py", "/tmp", rounds, *words])) if rounds else QUICK
    if probe:
        run(["gcc", "-m32", "-c", "-o", work / "gap.o", TOP / "scripts/guest_gap.S"], f"{log}/load.log",
            "building the firmware failed", append=True)
        run(["objcopy", "-O", "binary", "-j", ".text", work / "gap.o", work / "gap"], f"{log}/load.log", "", append=True)
        extra.append(Test("gap", 0, "", work / "gap"))
        command = f"python3 /tmp/guest_{probe}.py /tmp /tmp/qemu {number}"
    write(work / "guest", GUEST.replace("LIMIT", str(limit)).replace("COMMAND", command))
    test = Test("guest", limit + 30, "/tests.d/guest", work / "guest")
    root = ["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=root,mount_tag=root", *(["-m", "3G"] if rounds or probe else [])]
    npt0 = MODES["amd", "npt0"]
    machine, append = ("icount", "kvm.halt_poll_ns=0") if gap else (npt0.machines[0], npt0.parameter)
    result = boot(name, log, image, [test], machine, f"workshop.root {append}", slower, more=root, extra=extra)
    lines = read(result.log).splitlines()
    console = [line[7:] for line in lines if line.startswith("inner: ")]
    write(work / "inner-console", "".join(line + "\n" for line in console))
    write(work / "play", "".join(line + "\n" for line in lines if line.startswith("[")))
    result.splats += [("inner guest", line) for line in console if SPLAT.search(line) and not HARMLESS.search(line)]
    return result


def qemus():
    """The rows that QEMU, ATOMIC and MACHINE ask for: (title, words for scripts/guest_driver.py, the program if ours)."""
    rows = []
    for name in VARS["QEMU"].split():
        theirs = name == "distribution"
        program = build_qemu(base_of()) if name == "own" else Path(name)
        if not (theirs or program.is_file()):
            raise Failure(f"QEMU={name}: give own, distribution, or the path of a program")
        for atomic in [""] if theirs else (VARS["ATOMIC"] or "off on").split():
            for kind in (VARS["MACHINE"] or "pc q35").split():
                if theirs:
                    rows.append((name, [kind, "qemu-system-x86_64"], None))
                else:
                    rows.append((f"own {atomic}", [kind, "/tmp/qemu", atomic], program))
    return rows


def guests(title, log, image, slower, rounds):
    """A guest for each of qemus(), and a table; returns whether those of our own QEMU are well."""
    well, rows = True, []
    for name, words, program in qemus():
        where = f"{log}-{name.replace(' ', '-')}-{words[0]}"
        with stage(f"a guest on {title}, {words[0]}, QEMU {name}"):
            result = guest(title, where, image, slower, rounds, words, program)
        said = read(OUT / "log" / where / "play")
        failed = re.search(r"FAILED: (.*)", said)
        splits = re.findall(r"(\d+) splits", said)
        traced = re.search(r"(\d+) pauses, (\d+) ioctls for a slot, (\d+) ioctls for all, (\d+) of", said)
        fine = not failed and "] intact, " in said and result.verdict("guest") == "PASS" and not result.splats
        well = well and (fine or name == "distribution")
        memory = "intact" if fine else failed.group(1) if failed else f"{result.verdict('guest')}: {pretty(result.log)}"
        counts = "---"
        if traced:
            pauses, single, every, postcopy = map(int, traced.groups())
            counts = map(str, (pauses - postcopy, postcopy, single + every))
        rows.append((name, words[0], memory, splits[-1] if splits else "-", *counts))
    print(table(("QEMU", "machine", "memory", "splits", "pauses", "in postcopy", "ioctls"), rows))
    return well


def gaps(title, log, image, slower, changes):
    """Measure how long vCPUs stand still while QEMU changes the map: a table and a plot. Returns whether it worked."""
    if VARS["QEMU"] not in ("", "own"):
        raise Failure(f"QEMU={VARS['QEMU']} with GAP: only QEMU=own has atomic-memslots")
    program = build_qemu(base_of())
    with stage(f"gaps of vCPUs on {title}"):
        result = guest(title, f"{log}-gap", image, slower, qemu=program, probe="gap", number=changes)
    said = read(OUT / "log" / f"{log}-gap/play")
    print("\n".join(line for line in said.splitlines() if "[counts]" in line))
    print(table(guest_gap.HEAD, list(guest_gap.rows(said))))
    svg = OUT / "log" / f"{log}-gap/gap.svg"
    write(svg.with_suffix(".gp"), guest_gap.plot(said, svg))
    install("bench")
    run(["gnuplot", svg.with_suffix(".gp")], f"{log}-gap/gnuplot", f"gnuplot could not draw {pretty(svg)}")
    print(f"Microseconds. The gap is a change's median, and the worst of all; lost, a median. Each change: {pretty(svg)}")
    return report(result)


def trust(title, log, image, slower, kills):
    """Kill our QEMU in mid-switch, let its allocations fail, and run its qtest. Returns whether it worked."""
    program = build_qemu(base_of())
    with stage(f"QEMU killed {kills} times on {title}"):
        result = guest(title, f"{log}-trust", image, slower, qemu=program, probe="trust", number=kills)
    print(read(OUT / "log" / f"{log}-trust/play"), end="")
    return report(result)


# ---------------------------------------------------------------- commands

def command(what):
    base = Base()
    arch = arch_of()
    mode = mode_of()
    machine = mode.machine(arch.name)
    wanted = VARS["TESTS"].split()
    slower = 5 if VARS["CONFIG"] == "debug" else 1
    stage.plan(5 if what == "boot" else 4)
    commits = materialise(base)
    variant = pick(base, commits, arch=arch)
    image = build(variant)
    log = f"{base.name}/{what}-{variant.dir.name}"
    if what == "boot":
        tests = tests_of(base, *selftests(base, commits, arch), wanted, slower, mode.cpu)
        MACHINES[machine].ready()
        log += f"-{mode.cpu}-{mode.name}" if arch.name == "x86_64" else ""
        with stage(f"booting {variant.title} on {machine}"):
            result = boot(variant.title, log, image, tests, machine, f"{mode.parameter} {VARS['APPEND']}", slower)
    else:
        if arch.name != "x86_64":
            raise Failure(f"ARCH={arch.name} has no guest yet: only x86_64")
        rounds = number_of("ROUNDS", "10", 0)
        for name, probe in (("GAP", gaps), ("TRUST", trust)):
            if VARS[name]:
                return 0 if probe(variant.title, log, image, slower, number_of(name)) else 1
        if VARS["QEMU"]:
            return 0 if guests(variant.title, log, image, slower, rounds) else 1
        with stage(f"a guest on {variant.title}"):
            result = guest(variant.title, log, image, slower, rounds)
        print(read(OUT / "log" / log / "play"), end="")
    return 0 if report(result) else 1


if __name__ == "__main__":
    main(__doc__, command, ("boot", "guest"))
