#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make bench [PEERS=6.1] [SLOTS="10 509 32764"] [LIMIT=10] [FORCE=1]
       make bench-steps [STEPS=8-14] [SLOTS="10 509"]
       make bench-native
       make bench-latency [CPU=intel|amd] [MODE=...] [BASE=v7.3]

bench: the test COST of patches/BASE/tests on the pristine kernel, on it with nothing but the limit raised, and on the series; with
PEERS=6.1 also on Debian's Linux 6.1. Twice, with one vCPU, in QEMU's virtual time, which counts instructions: the
figures do not depend on the machine, and ignore caches. out/bench has results.json and the plots.
bench-steps: what each step changes, as ratio to the step before. bench-native: the container alone, compiled for this
machine, against a sorted array (see bench/native.c). Its figures depend on the machine and its load.
bench-latency: how long vCPUs stand still while their memory map changes, at once or slot by slot, on four emulated
processors of which each executes 100 instructions a microsecond. "off" is without KVM_SET_USER_MEMORY_REGIONS: all vCPUs
are stopped for a split and a merge, and run on in other changes.

Results are cached: only what changed is measured again, FORCE=1 measures everything. A boot that takes more than LIMIT
minutes is cut and reported as such; the tests it finished count. From 1000 slots, a kernel's tests take three boots.
"""

import json
import os
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import guest_gap
from build_each import wanted_steps
from boot import Test, boot, report, tests_of
from kernel import ARCHS, Variant, build, child, pick, selftests
from machine import MACHINES, mode_of
from tree import import_base, materialise
from workshop import (NPROC, OUT, TOP, VARS, Base, Failure, digest, git, lock, main, note, number_of, pretty, read, run, stage,
                      table, took, write)

BENCH = OUT / "bench"
COUNTS = (10, 30, 50, 100, 509, 8192, 32764)
# The guest gets time slices of the only CPU while these are measured, which distort the mean.
BY_MEDIAN = ("move-active", "move-inactive")


# ---------------------------------------------------------------- kernels

def peer(base):
    """Another kernel, to compare with; has no series."""
    with lock(base.out / "tree.lock"):
        import_base(base)
    return Variant(base, [git(base.tree, "rev-parse", "base^{commit}").strip()], 0, "", ARCHS["x86_64"])


class Raised(Variant):
    """The pristine kernel but for one line: the limit."""

    def __init__(self, base, commits):
        file, line = base["LIMIT_FILE"], base["LIMIT_LINE"] + "\n"
        source = git(base.tree, "show", f"base:{file}")
        if source.count(line) != 1:
            raise Failure(f"{file} of {base.name} has no line {line.strip()}: fix LIMIT_LINE of {pretty(base.patches / 'base')}")
        blob = git(base.tree, "hash-object", "-w", "--stdin",
                   stdin=source.replace(line, f"{line.rpartition(' ')[0]} {COUNTS[-1]}\n")).strip()
        commit = child(base, commits[0], "The limit raised", lambda index: git(
            base.tree, "update-index", "--cacheinfo", f"100644,{blob},{file}", env=index))
        super().__init__(base, [commits[0], commit, None], 1, "", ARCHS["x86_64"])
        self.name, self.title = "raised", f"{base.name} with the limit raised"
        self.dir = base.out / "build" / self.name


class Step(Variant):
    """A step for make bench-steps: all share one build directory; the images are kept."""

    def __init__(self, base, commits, step):
        super().__init__(base, commits, step, "", ARCHS["x86_64"])
        self.dir = base.out / "build" / "bench-steps"

    def kept(self):
        return BENCH / "images" / self.stamp()

    def image(self):
        if not self.kept().exists():
            write(self.kept(), build(self).read_bytes())
        return self.kept()


# ---------------------------------------------------------------- measuring

def measure(image, program, options, log, limit=300):
    """Run the test PROGRAM with OPTIONS on IMAGE in virtual time: (its JSON lines, "" or what went wrong, seconds)."""
    test = Test(program.name, limit, f"/tests.d/{program.name} -q -o - {options}", program)
    result = boot("the benchmark", f"bench/{log}", image, [test], "icount", slower=4)
    said = read(result.log).splitlines()
    rows = [json.loads(line) for line in said if line.startswith("{")]
    verdict = result.verdict(test.name)
    wrong = "" if verdict in ("PASS", "SKIP") else f"cut after {took(limit)}" if verdict in ("HANG", "TIMEOUT") else \
        next((line for line in said if line.startswith(("not ok", "Bail out"))), verdict)
    if result.splats:
        wrong = result.splats[0][1]
    return rows, wrong, result.seconds


class Job:
    """A boot: a kernel, a number of slots, some of the tests, and the repetition. Its result is cached."""

    def __init__(self, kernel, image, program, slots, repeat, options=""):
        self.kernel, self.image, self.program, self.slots, self.repeat = kernel, image, program, slots, repeat
        self.options = f"-s {slots} {options}".strip()
        self.log = f"{kernel}-{self.options.replace(' ', '')}-{repeat}"
        self.kept = BENCH / "kept" / digest(image.read_bytes(), program.read_bytes(), read(TOP / "scripts/boot.py"),
                                            repeat, self.options)

    def known(self):
        if VARS["FORCE"] or not self.kept.exists():
            return False
        _, self.wrong, self.seconds = json.loads(self.kept.read_text())
        return not self.wrong or self.seconds > limit()

    def run(self):
        if not self.known():
            write(self.kept, json.dumps(measure(self.image, self.program, self.options, self.log, limit())))
        rows, self.wrong, self.seconds = json.loads(self.kept.read_text())
        self.rows = [{"kernel": self.kernel, "repeat": self.repeat, **row} for row in rows]
        return self


def limit():
    """How many seconds a boot may take."""
    return 60 * number_of("LIMIT", "10")


# With many slots, setup takes long on some kernels. Split the tests, so that a cut loses as little as possible.
PARTS = ("-e unmap-idle", "-f dirty-on -e teardown", "-f map")


def jobs_of(images, program, counts, repeats, options=""):
    """All boots, the long ones first."""
    return sorted((Job(name, image, program, slots, repeat, f"{options} {part}".strip())
                   for repeat in repeats for slots in counts for name, image in images.items()
                   for part in (PARTS if slots > 1000 and name != "base" else ("",))),
                  key=lambda job: (job.repeat, -job.slots))


def run_jobs(jobs, what):
    """Run all JOBS, as many at a time as there are processors; one stage. Failures other than cuts are fatal."""
    todo, done = [job for job in jobs if not job.known()], 0
    with lock(OUT / "bench.lock"), stage(f"{what}: {len(jobs)} boots") as st, ThreadPoolExecutor(int(NPROC)) as pool:
        st.note = f" ({len(jobs) - len(todo)} kept)" if len(todo) < len(jobs) else ""
        for job in pool.map(Job.run, jobs):
            if job in todo:
                done += 1
                note(f"    {done}/{len(todo)} {job.kernel}, {job.options}: {took(job.seconds)}{': ' * bool(job.wrong)}{job.wrong}")
    for job in jobs:
        if job.wrong and not job.wrong.startswith("cut"):
            job.kept.unlink()
            raise Failure(f"{job.program.name} fails on {job.kernel} with {job.slots} slots: {job.wrong}",
                          OUT / f"log/bench/{job.log}/results")
    return jobs


def figure(row):
    return row["median_us" if row["test"] in BY_MEDIAN else "mean_us"]


class Figures:
    """Times in microseconds by (kernel, slots, test), the best of the repetitions, and their spread."""

    def __init__(self, jobs):
        self.best, self.spread = {}, {}
        for row in (row for job in jobs for row in job.rows if "test" in row):
            key = row["kernel"], row["slots"], row["test"]
            old = self.best.get(key)
            self.best[key] = min(figure(row), old) if old else figure(row)
            if old:
                self.spread[key] = max(figure(row), old) / min(figure(row), old) - 1
        self.tests = list(dict.fromkeys(test for _, _, test in self.best))
        # Ours first, always in the same colours.
        self.kernels = sorted({kernel for kernel, _, _ in self.best}, key=lambda k: ([*TITLES, k].index(k), k))

    def get(self, kernel, slots, test):
        return self.best.get((kernel, slots, test))

    def array(self, slots, test):
        """The array: pristine as far as it goes, then with the limit raised."""
        return self.get("base", slots, test) or self.get("raised", slots, test)

    def ratio(self, slots, test, kernel="series"):
        before, after = self.array(slots, test), self.get(kernel, slots, test)
        return after / before if before and after else None


def figures_of(image, program, name):
    """For make run: figures of IMAGE, of slots with 509 of them, as {test: microseconds}, or a Failure."""
    found = {}
    for log, options in ((name, "-s 509 -n 20 -e unmap-idle"), (f"{name}-exits", "-s 10 -l 2M -f exit-user")):
        rows, wrong, _ = measure(image, program, options, log)
        if wrong:
            raise Failure(f"{program.name} on {name}: {wrong}", OUT / f"log/bench/{log}/results")
        found.update({row["test"]: figure(row) for row in rows})
    return found


def show(value):
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


# ---------------------------------------------------------------- targets

def targets(figures):
    """[what, to reach, figure or None]; all are upper bounds."""
    def worst(slots, tests):
        found = [(figures.ratio(slots, test), test) for test in tests]
        found = [(ratio, test) for ratio, test in found if ratio]
        return max(found) if len(found) == len(tests) else (None, "")

    def growth(test, low, high):
        before, after = figures.get("series", low, test), figures.get("series", high, test)
        return after / before if before and after else None
    moves = ("move", "move-active", "move-inactive")
    found = []

    def add(what, bound, value, detail=""):
        found.append({"what": what + (f" ({detail})" if detail else ""), "to reach": bound, "ratio": value})
    for slots, what, tests, bound in (
            (32764, "unmap", ("unmap",), 0.01), (32764, "unmap-chunked", ("unmap-chunked",), 0.01),
            (32764, "move, three kinds", moves, 0.05), (32764, "setup", ("setup",), 0.015),
            (509, "unmap-chunked", ("unmap-chunked",), 0.45), (509, "move, three kinds", moves, 0.5),
            (509, "setup", ("setup",), 0.4), (10, "everything but flags", [t for t in figures.tests if t != "flags"], 1.02),
            (10, "flags", ("flags",), 1.05), (10, "KVM_RUN up to an exit to user space", ("exit-user",), 1.005),
            (10, "an exit that KVM handles", ("exit-kvm",), 1.0005)):
        value, test = worst(slots, tests)
        add(f"{slots} slots: {what} / array", bound, value, f"worst: {test}" if len(tests) > 1 and test else "")
    for test in ("create", "delete", "move", "flags"):
        add(f"{test}: 32764 slots / 10 slots", 1.4, growth(test, 10, 32764))
    add("id: 32764 slots / 509 slots", 2, growth("id", 509, 32764))
    return found


def save(path, **parts):
    """Write PARTS as JSON, an element of a list a line."""
    write(path, "{\n" + ",\n".join(f'"{name}": ' + (
        "[\n" + ",\n".join(map(json.dumps, part)) + "\n]" if isinstance(part, list) else json.dumps(part))
        for name, part in parts.items()) + "\n}\n")
    return path


def show_targets(found):
    print("\nTargets\n")
    print(table(["", "target", "ratio", ""], [
        [t["what"], f"<= {t['to reach']:g}", f"{t['ratio']:.4f}" if t["ratio"] else "-",
         "" if not t["ratio"] else "reached" if t["ratio"] <= t["to reach"] else "MISSED"] for t in found]))


# ---------------------------------------------------------------- plots

PANELS = {
    "ioctl": ("setup", "create", "flags", "move", "delete", "dirty-on"),
    "memory": ("unmap-idle", "unmap", "unmap-chunked", "gfn", "map-random", "rw"),
}
TITLES = {"base": "array, 5.10", "raised": "array, 5.10, limit raised", "series": "trees, this series"}
# Okabe and Ito's colours, which the colour-blind can tell apart; points and dashes differ, too.
STYLES = ("#D55E00|7|1", "#E69F00|6|2", "#0072B2|5|1", "#009E73|9|4", "#CC79A7|11|5")
LATENCY = (("stopped", "#D55E00", "vCPUs stopped, slot by slot"), ("one-by-one", "#E69F00", "slot by slot"),
           ("at-once", "#0072B2", "KVM_SET_USER_MEMORY_REGIONS"), ("idle", "#999999", "nothing changes"))


def gnuplot(path, title, panels, curves, xlabel, ylabel):
    """Draw PATH: PANELS of CURVES as {panel: [(title, style, [(x, y)])]}, log-log."""
    rows = (len(panels) + 2) // 3
    text = [f"set terminal svg size 1080,{60 + 320 * rows} font 'sans-serif,14' background '#ffffff'",
            f"set output '{path}'", "set logscale xy", "set grid lc '#dddddd'", "set border 3", "set tics nomirror",
            "set xtics (1, 10, 100, '1k' 1000, '8k' 8192, '32k' 32764)", "set format y '%g'", f"set xrange [{min(x for c in curves.values() for x, _ in c[0][2]) * 0.8}:45000]",
            f"set multiplot layout {rows},3 title \"{title}\\n{{/*0.85 {ylabel} over {xlabel}}}\" font ',17' margins 0.06,0.98,0.12,0.86 spacing 0.06,0.12"]
    names = [name for name, _, _ in curves[panels[0]]]
    for number, panel in enumerate(panels):
        plots, data = [], []
        for name, style, points in curves[panel]:
            colour, point, dash = STYLES[style].split("|")
            plots.append(f"'-' using 1:2 with linespoints lw 2 ps 0.7 lc '{colour}' pt {point} dt {dash} notitle")
            data += [f"{x} {y}" for x, y in points] + ["e"]
        high = max(y for _, _, points in curves[panel] for _, y in points)
        low = min(y for _, _, points in curves[panel] for _, y in points)
        # At least a decade, so that a flat curve looks flat.
        text += [f"set title '{panel}' offset 0,-0.5", f"set yrange [{low / 2}:{max(high * 2, low * 10)}]"]
        if number == 0:
            for i, name in enumerate(names):
                colour, point, dash = STYLES[curves[panel][i][1]].split("|")
                x = 0.08 + i * 0.92 / len(names)
                text.append(f"set label {i + 1} '{name}' at screen {x},0.03 left offset 2,0 point pt {point} ps 1 lc '{colour}' textcolor '{colour}'")
        else:
            text.append("unset label")
        text += ["plot " + ", \\\n ".join(plots), *data]
    write(path.with_suffix(".gp"), "\n".join(text) + "\n")
    run(["gnuplot", path.with_suffix(".gp")], "bench/gnuplot", f"gnuplot could not draw {pretty(path)}")
    write(path, re.sub(r"[ \t]+$", "", read(path), flags=re.M))
    return path


def plot(figures, where):
    paths = []
    for name, panels in PANELS.items():
        curves = {}
        for panel in panels:
            curves[panel] = []
            for i, kernel in enumerate(figures.kernels):
                points = [(slots, value) for slots in COUNTS if (value := figures.get(kernel, slots, panel))]
                if points:
                    curves[panel].append((TITLES.get(kernel, f"Linux {kernel}"), i, points))
        panels = [panel for panel in panels if curves[panel]]
        if panels:
            paths.append(gnuplot(where / f"{name}.svg", "KVM memslots: one operation", panels, curves,
                                 "the number of slots", "microseconds of virtual time"))
    return paths


# ---------------------------------------------------------------- commands

def slots_of(default):
    words = VARS["SLOTS"].replace(",", " ").split() or default
    if not all(str(word).isdigit() and 3 <= int(word) <= COUNTS[-1] for word in words):
        raise Failure(f"SLOTS={VARS['SLOTS']} is wrong: give numbers of slots from 3 to {COUNTS[-1]}, as in SLOTS=\"10 509\"")
    return [int(word) for word in words]


def cost_test(base, commits):
    where, names = selftests(base, commits, ARCHS["x86_64"])
    if base["COST"] not in names:
        raise Failure(f"the series has no test that measures: COST={base['COST']} in {pretty(base.patches / 'tests')}")
    return where / base["COST"]


def bench():
    peers = {version: Base(f"v{version}", TOP / "bench/peers") for version in VARS["PEERS"].split()}
    counts = slots_of(COUNTS)
    stage.plan(7 + 2 * len(peers))
    base = Base()
    commits = materialise(base)
    kernels = [("base", pick(base, commits, "", ARCHS["x86_64"], "0")),
               *([("raised", Raised(base, commits))] if base["LIMIT_FILE"] else []),
               ("series", pick(base, commits, "", ARCHS["x86_64"], str(len(commits) - 1))),
               *((version, peer(other)) for version, other in peers.items())]
    images = {name: build(kernel) for name, kernel in kernels}
    program = cost_test(base, commits)
    jobs = run_jobs(jobs_of(images, program, counts, (1, 2)), "measuring")
    figures = Figures(jobs)
    found = targets(figures)

    for name, _ in kernels:
        print(f"\n{TITLES.get(name, f'Linux {name}')}: microseconds of virtual time\n")
        refused = {row["slots"] for job in jobs for row in job.rows if job.kernel == name and row.get("refused")}
        print(table(["slots", *map(str, counts)], [
            [test, *("refused" if slots in refused else show(figures.get(name, slots, test)) for slots in counts)]
            for test in figures.tests]))
    for name in [name for name in images if name not in ("base", "raised")]:
        print(f"\n{TITLES.get(name, f'Linux {name}')}: ratio to the array (to the pristine one up to 509 slots)\n")
        print(table(["slots", *map(str, counts)], [
            [test, *(show(figures.ratio(slots, test, name)) for slots in counts)] for test in figures.tests]))
    show_targets(found)
    cut = sorted({f"{job.kernel}, {job.options}: {job.wrong}" for job in jobs if job.wrong})
    spread = sorted(figures.spread.items(), key=lambda item: -item[1])
    print()
    if spread:
        print(f"Spread of the two runs: {100 * spread[len(spread) // 2][1]:.2f} % in the middle, most: "
              + ", ".join(f"{100 * value:.1f} % ({kernel}, {slots} slots, {test})"
                          for (kernel, slots, test), value in spread[:3]))
    for line in cut:
        print(f"Cut: {line}")
    save(BENCH / "results.json", date=time.strftime("%Y-%m-%d"),
         base=git(base.tree, "log", "-1", "--format=%s", "base").strip(),
         qemu=subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True,
                             check=True).stdout.splitlines()[0],
         unit="microseconds of virtual time, the mean of an operation in a run; the median for " + ", ".join(BY_MEDIAN),
         targets=found, cut=cut,
         refused=[row for job in jobs for row in job.rows if row.get("refused") and job.repeat == 1],
         results=[{"kernel": kernel, "slots": slots, "test": test, "us": value,
                   "spread": round(figures.spread[kernel, slots, test], 5)
                   if (kernel, slots, test) in figures.spread else None}
                  for (kernel, slots, test), value in figures.best.items()],
         runs=[row for job in jobs for row in job.rows if "test" in row])
    paths = plot(figures, BENCH)
    print(f"Results: {pretty(BENCH / 'results.json')}   plots: {' '.join(map(pretty, paths))}")


def bench_steps():
    """Each step against the one before it."""
    counts = slots_of((10, 509))
    stage.plan(4)
    base = Base()
    commits = materialise(base)
    steps = wanted_steps(len(commits) - 1)
    pairs = [(step - 1, step) for step in steps if step]
    if not pairs:
        raise Failure(f"STEPS={VARS['STEPS']} names no step: give one or more of 1 to {len(commits) - 1}")
    program = cost_test(base, commits)
    subjects = git(base.tree, "log", "--reverse", "--format=%s", f"base..{commits[-1]}").splitlines()
    kernels = [Step(base, commits, step) for step in sorted({step for pair in pairs for step in pair})]
    images = {}
    with stage(f"building {len(kernels)} kernels") as st:
        for done, kernel in enumerate(kernels, 1):
            fresh = not kernel.kept().exists()
            images[kernel.step] = kernel.image()
            if fresh:
                note(f"    {done}/{len(kernels)} step {kernel.step}")
        st.note = " (all of them kept)" if not fresh else ""
    jobs = run_jobs(jobs_of({f"step-{step}": image for step, image in images.items()}, program, counts, (1,), "-n 50"),
                    "measuring")
    figures = Figures(jobs)
    figures.tests.remove("rw")          # is paced by the clock: the fewer accesses, the more it is noise
    found = []
    for slots in counts:
        rows = []
        for before, after in pairs:
            changes = {}
            for test in figures.tests:
                old, new = (figures.get(f"step-{step}", slots, test) for step in (before, after))
                if old and new:
                    changes[test] = new / old - 1
            found.append({"step": after, "subject": subjects[after - 1], "slots": slots, "change": changes,
                          "us": {test: figures.get(f"step-{after}", slots, test) for test in figures.tests}})
            # What is below 1.5 % is noise.
            rows.append([str(after), *("" if abs(changes.get(test, 0)) < 0.015 else f"{100 * changes[test]:+.0f}"
                                       for test in figures.tests)])
        print(f"\n{slots} slots: change against the step before, in %\n")
        print(table(["step", *(test.replace("unmap-", "u-").replace("move-", "m-").replace("dirty-", "d-")
                               for test in figures.tests)], rows))
    print()
    for _, after in pairs:
        print(f"{after:4} {subjects[after - 1]}")
    print(f"\nResults: {pretty(save(BENCH / 'steps.json', date=time.strftime('%Y-%m-%d'), steps=found))}")


def cache_misses(program, counts):
    """Misses of a look-up in caches and of branches: those perf counts, or cachegrind simulates (32 KiB, and 1 MiB)."""
    loops, found, how = 50000, [], ""

    def count(structure, slots, loops):
        words = [program, structure, "miss", str(slots), str(loops)]
        if how == "perf":
            said = subprocess.run(["perf", "stat", "-x,", "-e", "L1-dcache-load-misses,cache-misses,branch-misses", *words],
                                  capture_output=True, text=True, check=False).stderr
            return [int(line.split(",")[0]) for line in said.splitlines() if line.split(",")[0].isdigit()]
        said = subprocess.run(["valgrind", "--tool=cachegrind", "--cache-sim=yes", "--branch-sim=yes", "--cachegrind-out-file=/dev/null",
                               "--D1=32768,8,64", "--LL=1048576,16,64", *words],
                              capture_output=True, text=True, check=False).stderr
        return [int(n.replace(",", "")) for n in re.findall(r"(?:D1  misses|LLd misses|Mispredicts): +([\d,]+)", said)]
    for how in ("perf", "cachegrind"):
        if shutil.which("valgrind" if how == "cachegrind" else how) and len(count("array", 10, 1)) == 3:
            break
    else:
        return "", []
    for slots in counts:
        for structure in ("array", "trees"):
            # Without what setting it up takes, and the first look-ups.
            cold, warm = count(structure, slots, loops), count(structure, slots, 3 * loops)
            found.append({"slots": slots, "structure": structure, "misses": [
                max(0, (b - a) / (2 * loops)) for a, b in zip(cold, warm)]})
    return how, found


def native():
    stage.plan(5)
    base = Base()
    materialise(base)
    program = base.out / "memslots/native"
    with stage("building the container for this machine"):
        run(["make", "-C", base.tree / "tools/testing/memslots", "native", f"NATIVE={TOP}/bench/native.c",
             f"O={program.parent}"], "bench/native", "building bench/native.c failed")
    with stage("measuring"):
        log = run([program], "bench/native-run", "bench/native failed")
        rows = [json.loads(line) for line in read(log).splitlines() if line.startswith("{")]
    with stage("cache misses") as st:
        how, misses = cache_misses(program, (10, 64, 509, 8192, 32764))
        st.note = f" ({how})" if how else " (neither perf nor valgrind counts them)"
    ops = list(dict.fromkeys(row["op"] for row in rows))
    ratio = {(row["slots"], row["op"]): row["trees_ns"] / row["array_ns"] for row in rows}
    for op in ops:
        print(f"\n{op}: nanoseconds\n")
        mine = [row for row in rows if row["op"] == op]
        print(table(["slots", *(str(row["slots"]) for row in mine)], [
            ["array", *(show(row["array_ns"]) for row in mine)], ["trees", *(show(row["trees_ns"]) for row in mine)],
            ["ratio", *(show(ratio[row["slots"], op]) for row in mine)]]))
    if misses:
        print(f"\nA look-up that misses the last used slot ({how})\n")
        print(table(["slots", "", "first level misses", f"{'last level' if how == 'perf' else '1 MiB'} misses",
                     "branches mispredicted"], [
            [str(m["slots"]), m["structure"], *(f"{n:.2f}" for n in m["misses"])] for m in misses]))
    small = max((ratio[slots, op], slots) for slots, op in ratio if op == "miss" and slots <= 64)
    found = [{"what": "look-up that hits / array (worst)", "to reach": 1.0,
              "ratio": max(value for (_, op), value in ratio.items() if op == "hit")},
             {"what": f"miss at 64 slots or fewer / array (worst: {small[1]})", "to reach": 1.1, "ratio": small[0]},
             {"what": "miss at 509 slots / array", "to reach": 1.3, "ratio": ratio[509, "miss"]}]
    show_targets(found)
    save(BENCH / "native.json", date=time.strftime("%Y-%m-%d"), cpu=cpu(), targets=found, results=rows,
         misses_of_a_look_up=misses, counted_by=how)
    curves = {op: [(title, style, [(row["slots"], row[f"{structure}_ns"]) for row in rows if row["op"] == op])
                   for title, style, structure in (("array, as in 5.10", 0, "array"), ("trees, of this series", 2, "trees"))] for op in ops}
    path = gnuplot(BENCH / "native.svg", f"The container alone, on {cpu()}", ops, curves, "the number of slots",
                   "nanoseconds")
    print(f"\nResults: {pretty(BENCH / 'native.json')}   plot: {pretty(path)}")


def latency():
    VARS["CPU"] = VARS["CPU"] or "intel"
    base, mode, arch = Base(), mode_of(), ARCHS["x86_64"]
    stage.plan(6)
    commits = materialise(base)
    kernel = pick(base, commits, arch=arch)
    MACHINES[f"bochs-{mode.cpu}-4"].ready()
    image = build(kernel)
    test, = tests_of(base, *selftests(base, commits, arch), ["memory_regions_latency_test"], slower=5)
    test = test._replace(command=test.command.split()[0])      # all of its changes
    name = f"latency-{base.name}-{kernel.name}-{mode.cpu}-{mode.name}"
    with stage(f"measuring {kernel.title}, {mode.title}"):
        result = boot(kernel.title, f"bench/{name}", image, [test], f"bochs-{mode.cpu}-4", mode.parameter, slower=5)
    said = read(result.log)
    print(table(guest_gap.HEAD, list(guest_gap.rows(said, ("stopped", "one-by-one"), "at-once"))))
    print("Microseconds. The gap is a median, and the worst of all; lost, a median.")
    path = BENCH / f"{name}.svg"
    save(path.with_suffix(".json"), kernel=result.release, processor=result.processor, changes=[
        dict(zip(("change", "vcpus", "slots", "way", "longest", "lost"), (*case, *figures)))
        for case, figures in guest_gap.cases(said).items()])
    write(path.with_suffix(".gp"), guest_gap.plot(said, path, LATENCY, 1))
    run(["gnuplot", path.with_suffix(".gp")], f"bench/{name}/gnuplot", f"gnuplot could not draw {pretty(path)}")
    print(f"Results: {pretty(path.with_suffix('.json'))}   plot: {pretty(path)}")
    return 0 if report(result) else 1


def cpu():
    found = re.search(r"^model name\s*: (.*)$", read("/proc/cpuinfo"), re.M)
    return found.group(1) if found else os.uname().machine


COMMANDS = {"bench": bench, "bench-steps": bench_steps, "native": native, "latency": latency}

if __name__ == "__main__":
    main(__doc__, lambda what: COMMANDS[what](), COMMANDS)
