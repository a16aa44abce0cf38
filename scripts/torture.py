#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make torture [MINUTES=30]
       scripts/torture.py PART...    only the items whose names contain one of PART
       make fuzz [MINUTES=5]         only libFuzzer, for all of the time

Long-running tests, for about MINUTES without the kernel builds: libFuzzer and threads in user space, the stress test in
three MMU modes and failure of each allocation on the debug kernel, KCSAN, and guests that grow, shrink and migrate, on
both kernels. Each item can be run alone. Prints an item a line as it goes, ends with "N passed, N failed, N skipped".
What BASE lacks is left out. Results are in out/torture/results.json, logs under out/log/torture.
"""

import re
import subprocess

from boot import boot, guest
from check import clean_log, harness, suite
from machine import MODES, modes_of
from series import new_files
from tree import read_series
from workshop import OUT, Base, main, note, number_of, pretty, read, write

# A busy host stalls the emulated CPUs for long.
PATIENT = "rcupdate.rcu_cpu_stall_timeout=200"


def stress(ctx, seconds, slower):
    test, = ctx.tests([ctx.base["STRESS"]], slower)
    return test._replace(command=f"{test.command} -t {seconds}", limit=test.limit + seconds * 2)


def told(title, result, pattern):
    """What to report of a Boot with one test; prints the lines of the test's output that match PATTERN."""
    note("".join(f"\n    {line}" for line in read(result.log).splitlines() if re.search(pattern, line)))
    (_, verdict, seconds), = result.results
    return [(title, verdict, seconds, pretty(result.log)), clean_log(title, result)]


def debug_test(title, mode, tests, pattern):
    """The test that TESTS, a function of the Context, gives, on the debug kernel."""
    def item(ctx):
        return told(title, boot("the debug kernel", f"torture/{title.replace(' ', '-')}", ctx.image("", "debug"), tests(ctx),
                                mode.machines[0], f"{mode.parameter} {PATIENT}", 5), pattern)
    return item


def ours(base):
    """The files where a data race is ours: those that the series brings."""
    return {path for step in read_series(base) for path in step.new_files
            if path.endswith((".c", ".h")) and not path.startswith(("tools/", "samples/"))}


def races(result, variant):
    """KCSAN's reports: title -> the source lines that race, with inline functions."""
    found = {}
    script = variant.base.tree / "scripts/faddr2line"
    for report in re.findall(r"BUG: KCSAN: (.*?)Reported by Kernel Concurrency", read(result.console), re.S):
        title = report.splitlines()[0].strip()
        first = re.findall(r"^(?:race at unknown origin, with )?(?:read|write|assert no \w+).* by .*:\n +(\S+\+0x\S+)",
                           report, re.M)
        if title not in found and first:
            done = subprocess.run([script, variant.dir / "vmlinux", *first], capture_output=True, text=True, check=False)
            found[title] = re.findall(r" at (?:.*?/)?((?:virt|include|arch|kernel|mm|fs|drivers|lib|net)/\S+)",
                                      done.stdout)
    return found


def kcsan(mode, machine, seconds):
    """The CPUs take turns: while KCSAN delays one to watch for a race, another one runs. That finds more than parallel
    CPUs, most of whose reports are about spinning locks."""
    def item(ctx):
        found = {}
        for series, name in (("0", "pristine"), ("", "patched")):
            tests = [*ctx.tests(ctx.base.words("RUN"), 5), stress(ctx, seconds if not series else 10, 5)]
            result = boot(f"the {name} kernel with KCSAN", f"torture/kcsan-{mode.name}-{name}",
                          ctx.image(series, "kcsan"), tests, machine, f"{mode.parameter} {PATIENT}", 5)
            found[name] = races(result, ctx.variant(series, "kcsan"))
        for test, verdict, took in result.results:
            yield f"KCSAN {mode.title}: {test}", verdict, took, pretty(result.log)
        result.splats = [splat for splat in result.splats if "KCSAN" not in splat[1]]
        yield clean_log(f"KCSAN {mode.title}, data races aside", result)
        own = ours(ctx.base)
        bad = [title for title, lines in found["patched"].items() if own & {line.partition(":")[0] for line in lines}]
        others = set(found["patched"]) - set(bad)
        new = sorted(others - set(found["pristine"]))
        report = OUT / f"torture/kcsan-{mode.name}"
        write(report, "".join(f"{name}: {title}: {' '.join(lines)}\n" for name in found
                              for title, lines in sorted(found[name].items())))
        note(f"\n    {len(bad)} data races in the memslot code, {len(others)} elsewhere (not seen on the pristine "
             f"kernel: {', '.join(new) or 'none'}): {pretty(report)}")
        yield f"KCSAN {mode.title}: memslot code", "FAIL" if bad else "PASS", 0.0, ", ".join(bad)
    return item


def guests(series, name, rounds):
    def item(ctx):
        result = guest(f"the {name} kernel", f"torture/guest-{name}", ctx.image(series), rounds=rounds)
        return told(f"guest, {name}", result, r"^\[.*(migrated|intact|FAILED)")
    return item


def command(*parts):
    base, minutes = Base(), number_of("MINUTES", "5" if parts == ("fuzz",) else "30")
    second = 2 * minutes    # scales a minute of the default half an hour
    fuzz = 60 * minutes if parts == ("fuzz",) else 3 * second
    items = [
        *([("fuzz: libFuzzer in user space", harness("fuzz", f"FUZZ_SECONDS={fuzz}")),
           ("threads in user space, TSan", harness("tsan", f"THREAD_SECONDS={2 * second}"))]
          if "tools/testing/memslots/fuzz.c" in new_files(base) else []),
        ("debug kernel builds", lambda ctx: ctx.image("", "debug") and None),
        *((f"stress on the debug kernel, {mode.title}", debug_test(
            f"stress {mode.title}", mode, lambda ctx: [stress(ctx, 3 * second, 5)], r"accesses|seed"))
          for mode in modes_of(base).values() if mode.cpu == "amd"),
        *([("each allocation fails, debug kernel", debug_test(
            "each allocation fails", MODES["amd", "npt0"], lambda ctx: ctx.tests([base["FAILSLAB"]], 5), r"allocations|leak"))]
          if base["FAILSLAB"] else []),
        ("KCSAN kernels build", lambda ctx: (ctx.image("0", "kcsan"), ctx.image("", "kcsan")) and None),
        *((f"KCSAN, {name}", kcsan(MODES["amd", name], "qemu-amd", 3 * second)) for name in ("npt", "npt0")),
        ("guest, pristine kernel", guests("0", "pristine", max(1, minutes // 6))),
        ("guest, patched kernel", guests("", "patched", max(1, minutes // 2))),
    ]
    return suite(items, parts, "torture")


if __name__ == "__main__":
    main(__doc__, command)
