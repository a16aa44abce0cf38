#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make run [BASE=v5.10] [MODE=npt|npt0|tdp_mmu]

The main job: gets the base, applies the series, builds the pristine and the patched kernel from the same config,
boots both in QEMU, runs set_memory_region_test on both, measures both in virtual time (make bench measures more), and
prints both side by side. Exit 0 only if the patched kernel passes all that the pristine one passes, with a clean kernel
log.
"""

from bench import figures_of, show
from boot import MODES, boot, tests_of
from kernel import arch_of, build, pick, selftests
from tree import materialise
from workshop import VARS, Base, choice, main, pretty, stage

TESTS = ["set_memory_region_test"]
# What memslot_perf_test calls them, and what they are.
FIGURES = {"setup": "set up 509 slots, each", "create": "create one more", "flags": "change its flags",
           "move": "move it", "delete": "delete it", "unmap-idle": "VMM unmaps a page"}


def table(pristine, patched, figures):
    """Both boots side by side."""
    rows = [("", "pristine", "patched"), ("kernel", pristine.release, patched.release)]
    for (name, before, took_before), (_, after, took_after) in zip(pristine.results, patched.results):
        rows.append((name, f"{before} {took_before:.1f} s", f"{after} {took_after:.1f} s"))
    rows.append(("kernel log", *(f"{len(boot.splats)} lines of concern" if boot.splats else "clean"
                                 for boot in (pristine, patched))))
    if figures:
        before, after = figures
        rows.append(("microseconds to", "", ""))
        rows += [(f"  {what}", show(before[test]), show(after[test])) for test, what in FIGURES.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows)


def command():
    base = Base()
    arch = arch_of()
    mode = choice("MODE", tuple(MODES), "npt")
    stage.plan(8 if arch.name == "x86_64" else 7)
    commits = materialise(base)
    kernels = [pick(base, commits, arch=arch, series=series) for series in ("0", str(len(commits) - 1))]
    images = [build(kernel) for kernel in kernels]
    where, names = selftests(base, commits, arch)
    tests = tests_of(where, names, VARS["TESTS"].split() or TESTS)
    boots = []
    for kernel, image in zip(kernels, images):
        with stage(f"booting {kernel.title}"):
            boots.append(boot(kernel.title, f"{base.name}/run-{kernel.dir.name}", image, tests, arch.name,
                              f"{MODES[mode]} {VARS['APPEND']}".strip()))
    figures = []
    if arch.name == "x86_64":
        with stage("measuring both"):
            figures = [figures_of(image, where / "memslot_perf_test", f"run-{kernel.name}")
                       for kernel, image in zip(kernels, images)]
    pristine, patched = boots
    print()
    print(table(pristine, patched, figures))
    print()
    worse = [name for name, verdict, _ in pristine.results if verdict == "PASS" and patched.verdict(name) != "PASS"]
    for name in worse:
        print(f"{name} passes on the pristine kernel, but not on the patched one: see {pretty(patched.log)}")
    if patched.splats:
        print(f"the patched kernel complains, first: {patched.splats[0][1]}: see {pretty(patched.console)}")
    if not any(verdict == "PASS" for _, verdict, _ in patched.results):
        print(f"no test passed on the patched kernel: see {pretty(patched.log)}")
        return 1
    return 1 if worse or patched.splats else 0


if __name__ == "__main__":
    main(__doc__, command)
