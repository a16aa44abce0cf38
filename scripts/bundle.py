#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make bundle [BASE=v5.10]      prints the path of the archive
       scripts/bundle.py try [NAME]  boots the ISO in the archive, in bochs-intel, bochs-amd, qemu-bios, qemu-uefi

Build one archive for people with real processors: the pristine and the patched kernel, an initramfs with static
selftests and benchmarks that tests both and prints the table of make run with the processor's name, an ISO that boots
it from a USB stick, run.sh to do the same on an installed kernel, the series as mails, and a README.
"""

import gzip
import os
import re
import shutil
import time

from boot import initramfs, tests_of
from kernel import ARCHS, build, pick, selftests
from machine import MACHINES, iso, launch
from series import export
from tree import State, materialise
from workshop import OUT, TOP, Base, main, pretty, read, run, stage, stage_dir, write

CMDLINE = "console=ttyS0,115200 console=tty0 loglevel=4 panic=60"


def test_list(tests):
    return "".join(f"{test.name} {test.limit} {test.command.removeprefix('/tests.d/')}\n" for test in tests)


def assemble(base, root):
    """Fill the directory ROOT with the archive's contents."""
    commits, arch = materialise(base), ARCHS["x86_64"]
    where, names = selftests(base, commits, arch)
    for series, name in (("0", "pristine"), ("", "patched")):
        shutil.copy(build(pick(base, commits, "bundle", arch, series)), root / f"vmlinuz-{name}")
    with stage("the archive's contents"):
        every = tests_of(base, where, names)
        (root / "tests.d").mkdir()
        for test in every:
            shutil.copy(test.source, root / "tests.d" / test.name)
        write(root / "tests", test_list([test for test in every if test.name in base.words("BUNDLE")]))
        write(root / "tests-all", test_list(every))      # for run.sh -a: also those that not every kernel survives
        shutil.copy(TOP / "scripts/bundle/run.sh", root)
        write(root / "README", read(TOP / "scripts/bundle/README").replace("    CMDLINE", f"    {CMDLINE} compare").replace(
            "VERSION", base["VERSION"]))
        shutil.copytree(export(base), root / "series")
        log = f"{base.name}/bundle"
        kexec = OUT / "bundle/kexec"
        run(["gcc", "-O2", "-Wall", "-static", "-o", kexec, TOP / "scripts/bundle/kexec.c"], log, "building kexec failed")
        inside = [root / "vmlinuz-patched", root / "run.sh", *sorted(root.glob("tests*")), *sorted(root.glob("tests.d/*"))]
        initramfs(root / "initramfs", read(TOP / "scripts/bundle/init"),
                  [("bin/kexec", kexec), *((f"bundle/{path.relative_to(root)}", path) for path in inside
                                           if path.is_file())])
        write(root / "initrd", gzip.compress((root / "initramfs").read_bytes(), mtime=0))
        (root / "initramfs").unlink()
        iso(root / "boot.iso", {f"vmlinuz-{name}": root / f"vmlinuz-{name}" for name in ("pristine", "patched")} | {
            "initrd": root / "initrd"}, [("pristine, then patched kernel", "vmlinuz-pristine", f"{CMDLINE} compare"),
                                         ("pristine kernel", "vmlinuz-pristine", CMDLINE),
                                         ("patched kernel", "vmlinuz-patched", CMDLINE)], log)


def bundle(base):
    """Write the archive; its path."""
    (OUT / "bundle").mkdir(parents=True, exist_ok=True)
    version = State(base).get("version")
    archive = OUT / "bundle" / f"kvm-memslots-{version}.tar.xz"
    with stage_dir(OUT / "bundle/tmp") as temp:
        root = temp / archive.name.removesuffix(".tar.xz")
        root.mkdir()
        assemble(base, root)
        with stage("packing"):
            run(["tar", "-C", temp, "--owner=0", "--group=0", "--sort=name", "-cJf", archive, root.name],
                f"{base.name}/bundle-tar", "tar failed")
    return archive


# ---------------------------------------------------------------- trying it

FIRMWARE = {"qemu-bios": [], "qemu-uefi": ["-bios", "/usr/share/ovmf/OVMF.fd"]}


def attempt(name, process, log, minutes):
    """Wait for the table on the serial line; returns it, or None."""
    deadline, table = time.monotonic() + 60 * minutes, None
    try:
        while process.poll() is None and time.monotonic() < deadline and not table:
            time.sleep(1)
            said = read(log / "console") if (log / "console").exists() else ""
            found = re.search(r"^processor: .*\n +\S+ +\S+\r?\n(.*\n)*? +VMM unmaps a page .*\n", said, re.M)
            table = found and found.group(0).replace("\r", "")
    finally:
        process.kill()
        process.wait()
    print(f"\n{name}\n{table or 'NO TABLE: ' + pretty(log / 'console')}", flush=True)
    return table


def try_out(base, names):
    """Unpack the archive elsewhere and boot its ISO."""
    archive, = (OUT / "bundle").glob("kvm-memslots-*.tar.xz")
    good = True
    with stage_dir(OUT / f"bundle/try{os.getpid()}") as temp:
        run(["tar", "-C", temp, "--strip-components=1", "-xf", archive], f"{base.name}/bundle-try", "tar failed")
        for name in names or ("bochs-intel", "bochs-amd", *FIRMWARE):
            log = OUT / "log/bundle" / name
            log.mkdir(parents=True, exist_ok=True)
            write(log / "console", "")
            if name in FIRMWARE:
                machine = MACHINES["qemu-amd"]
                process = launch([machine.words[0], "-accel", "tcg,thread=single", *machine.words[1:], "-display", "none",
                                  *FIRMWARE[name], "-cdrom", temp / "boot.iso", "-serial", f"file:{log}/console"], log)
            else:
                MACHINES[name].ready()
                process = MACHINES[name].start_iso(temp / "boot.iso", log / "console", "/dev/null", log)
            good &= bool(attempt(name, process, log, 60))
    return 0 if good else 1


def command(*words):
    base = Base()
    if words[:1] == ("try",):
        return try_out(base, words[1:])
    stage.plan(7)
    print(bundle(base))
    return 0


if __name__ == "__main__":
    main(__doc__, command)
