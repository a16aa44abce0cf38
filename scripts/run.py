#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make run [BASE=v5.10] [CPU=amd|intel] [MODE=...]

The main job: fetch the base, apply the series, build the pristine and the patched kernel from the same config, boot
both in an emulator (scripts/boot.py --help explains CPU and MODE), run the tests RUN of patches/BASE/tests on both,
measure both in virtual time on emulated AMD (make bench measures more), and print both side by side. Exits 0 only if
the patched kernel passes all that the pristine one passes, and the series' own tests among them, with a clean kernel log.
"""

import re
import subprocess

from bench import figures_of
from boot import boot, tests_of
from kernel import arch_of, build, pick, selftests
from machine import MACHINES, mode_of
from tree import materialise
from workshop import TOP, VARS, Base, main, pretty, read, stage, write


def results(boot, name, figures):
    """Write the input of scripts/bundle/run.sh for one column."""
    rows = [("name", name), ("kernel", boot.release), ("processor", boot.processor),
            *(("test", *map(str, result)) for result in boot.results),
            *(("row", *found) for found in re.findall(r"^# table: (.*): (.*)$", read(boot.log), re.M)),
            ("log", f"{len(boot.splats)} warnings" if boot.splats else "clean"),
            *(("figure", test, str(value)) for test, value in figures.items())]
    path = boot.log.with_name("column")
    write(path, "".join("\t".join(row) + "\n" for row in rows))
    return path


def command():
    base = Base()
    arch = arch_of()
    mode = mode_of()
    machine = mode.machine(arch.name)
    stage.plan(8 if arch.name == "x86_64" else 7)
    commits = materialise(base)
    kernels = [pick(base, commits, arch=arch, series=series) for series in ("0", str(len(commits) - 1))]
    images = [build(kernel) for kernel in kernels]
    where, names = selftests(base, commits, arch)
    tests = tests_of(base, where, names, VARS["TESTS"].split() or base.words("RUN"))
    MACHINES[machine].ready()
    boots = []
    for kernel, image in zip(kernels, images):
        with stage(f"booting {kernel.title}"):
            boots.append(boot(kernel.title, f"{base.name}/run-{kernel.dir.name}", image, tests, machine,
                              f"{mode.parameter} {VARS['APPEND']}"))
    figures = []
    if arch.name == "x86_64" and base["COST"]:
        with stage("measuring both"):
            figures = [figures_of(image, where / base["COST"], f"run-{kernel.name}")
                       for kernel, image in zip(kernels, images)]
    pristine, patched = boots
    columns = [results(boot, name, measured) for boot, name, measured in zip(
        boots, ("pristine", "patched"), figures or [{}, {}])]
    print(flush=True)
    subprocess.run([TOP / "scripts/bundle/run.sh", "-t", *columns], check=True)
    print()
    worse = [name for name, verdict, _ in pristine.results
             if (verdict == "PASS" or name in base.words("OWN")) and patched.verdict(name) != "PASS"]
    for name in worse:
        print(f"{name} does not pass on the patched kernel: see {pretty(patched.log)}")
    if patched.splats:
        print(f"the patched kernel warns, first: {patched.splats[0][1]}: see {pretty(patched.console)}")
    if not any(verdict == "PASS" for _, verdict, _ in patched.results):
        print(f"no test passed on the patched kernel: see {pretty(patched.log)}")
        return 1
    return 1 if worse or patched.splats else 0


if __name__ == "__main__":
    main(__doc__, command)
