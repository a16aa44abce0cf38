#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make check [BASE=v5.10] [MINUTES=70]     with BASE, that one alone; without, also the others in brief
       scripts/check.py PART...     only the items whose name contains one of PART

The test suite. Prints an item a line as it goes, ends with "N passed, N failed, N skipped". Results with times and
details are in out/check/results.json, logs under out/log. A selftest that does not pass on the patched kernel is run on
the pristine one: what passes there must pass with the series; what needs other hardware is skipped on both. What fails
is run again in a fresh boot, twice at most, and passes if it passes then; that is reported. patches/BASE/tests says
which tests must pass, and where they are run. A base whose source the archive lacks is skipped. So is, with MINUTES, each
item that would start later than that: for machines that are ended after a time, and can be slow.
"""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import breaks
import qemu
import test_workshop
from build_each import TARGETS, Compiled, Parsed, Strict, done, do, target_of
from boot import Test, boot, guest, retried, tests_of
from kernel import ARCHS, build, new_warnings, pick, selftests, source
from lint import lint
from machine import MACHINES, MODES, modes_of
from series import apply_mails, new_files, refresh
from tree import materialise, read_series
from workshop import (NPROC, OUT, TOP, VARS, Base, Failure, Unavailable, bases, git, lock, main, note, number_of, pretty, read,
                      remove, run, stage, stage_dir, took, write)


class Context:
    """What the items share, created on first use."""

    def __init__(self, base):
        self.base, self.arch, self.commits = base, ARCHS["x86_64"], materialise(base)
        self.kept, self.notes, self.stage = {}, [], None

    def once(self, key, make):
        """make(), once; a failure is cached, too."""
        if key not in self.kept:
            try:
                self.kept[key] = make()
            except Failure as failure:
                self.kept[key] = failure
        if isinstance(self.kept[key], Failure):
            raise self.kept[key]
        return self.kept[key]

    def variant(self, series="", config=""):
        return pick(self.base, self.commits, config, self.arch, series)

    def image(self, series="", config=""):
        return self.once(("image", series, config), lambda: build(self.variant(series, config)))

    def tests(self, wanted=None, slower=1, cpu=""):
        return tests_of(self.base, *self.once("tests", lambda: selftests(self.base, self.commits, self.arch)), wanted, slower, cpu)

    def git(self, *args, **kwargs):
        return git(self.base.tree, *args, **kwargs)


# ---------------------------------------------------------------- items
# An item is a function of the Context. It raises a Failure, or returns its results as (name, verdict, seconds,
# detail) where it has more than one, else nothing.

def round_trip(ctx):
    changed = refresh(ctx.base, check=True)
    if changed:
        raise Failure(f"make refresh would change {', '.join(map(pretty, changed))}")


def mails_apply(ctx):
    """make am on the pristine base gives exactly the tree."""
    with stage_dir(ctx.base.out / "am") as somebody:
        git(somebody, "clone", "-q", "-s", "-n", ctx.base.tree, ".")
        # Check out only the files in question: the others would take a minute.
        touched = ctx.git("diff", "--name-only", "--no-renames", "base", ctx.commits[-1]).splitlines()
        git(somebody, "sparse-checkout", "set", "--no-cone", *(f"/{path}" for path in ["Makefile", "VERSION", *touched]))
        git(somebody, "checkout", "-q", "-b", "mine", ctx.commits[0])
        apply_mails(ctx.base, somebody, quiet=True)
        git(somebody, "diff", "--exit-code", ctx.commits[-1], "HEAD")


def old_gone(ctx):
    pattern, where = ctx.base["GONE"], ctx.base.words("GONE_FROM")
    left = ctx.git("grep", "-nE", pattern, ctx.commits[-1], "--", *where, ok=(0, 1)).splitlines()
    if not ctx.git("grep", "-nE", pattern, "base", "--", *where, ok=(0, 1)):
        raise Failure(f"not even the base has {pattern}: the pattern is wrong")
    if left:
        raise Failure(f"{len(left)} traces of {pattern} are left, the first: {left[0].partition(':')[2]}")


def maintained(ctx):
    """MAINTAINERS here is the tree's entry, if it has one; entries changed cover all new files, each new pattern matches;
    no line of the base is gone."""
    before, after = (ctx.git("show", f"{commit}:MAINTAINERS") for commit in ("base", ctx.commits[-1]))
    entry = read(TOP / "MAINTAINERS")
    if entry.splitlines()[0] in after and f"\n\n{entry}\n" not in after:
        raise Failure("MAINTAINERS is not the entry that the series adds to the kernel's")
    removed = re.search(r"^\d+\t([1-9]\d*)\t", ctx.git("diff", "--numstat", "base", ctx.commits[-1], "--", "MAINTAINERS"))
    if removed:
        raise Failure(f"MAINTAINERS: the series removes {removed[1]} lines")
    changed = [section for section in after.split("\n\n") if section not in before.split("\n\n")]
    specs = {pattern: f":(glob){pattern}{'**' * pattern.endswith('/')}"
             for pattern in re.findall(r"^F:\s+(\S+)$", "\n".join(changed), re.M)}
    idle = [pattern for pattern, spec in specs.items()
            if f"F:\t{pattern}\n" not in before and not ctx.git("ls-files", "--", spec)]
    added = ctx.git("diff", "--name-only", "--no-renames", "--diff-filter=A", "base", ctx.commits[-1]).splitlines()
    alone = sorted(set(added) - set(ctx.git("ls-files", "--", *specs.values()).splitlines()))
    if idle or alone:
        raise Failure("MAINTAINERS: " + "; ".join([f"F: {pattern} matches no file" for pattern in idle]
                                                  + [f"no F: for {path}" for path in alone]))


def documents(ctx):
    """KVM's documentation builds without new warnings."""
    def warnings(commit, name):
        where, log = ctx.base.out / "build/documents", f"check/documents-{name}"
        remove(where)
        with lock(ctx.base.out / "build.lock"):
            src = source(ctx.base, commit)
            path = run(["make", "-C", src, f"O={where}", "htmldocs", "SPHINXDIRS=virt/kvm"], log,
                       f"building the documents of the {name} failed")
        if not (where / "Documentation/output/virt/kvm/index.html").exists():
            raise Failure(f"building the documents of the {name} wrote none", path)
        return [line.replace(f"{src}/", "") for line in read(path).splitlines()
                if re.match(r"\S+:(\d+:)? *(WARNING|ERROR|SEVERE|warning|error)\b", line)]

    new = warnings(ctx.commits[-1], "series")
    new = new and new_warnings(new, warnings(ctx.commits[0], "base"))
    if new:
        raise Failure(f"{len(new)} new warnings: {'; '.join(new)}", OUT / "log/check/documents-series")


def shorter(ctx):
    before, after = (ctx.git("show", f"{commit}:{ctx.base['SHORTER']}").count("\n") for commit in ("base", ctx.commits[-1]))
    if after >= before:
        raise Failure(f"{ctx.base['SHORTER']} has {after} lines, {before} in the base")


def workshop(ctx):
    for name, verdict, seconds, detail in test_workshop.run_cases(test_workshop.CASES):
        yield f"workshop: {name}", verdict, seconds, detail


def linted(ctx):
    found = lint(ctx.base)
    if found:
        write(OUT / "log/check/lint", "\n".join(found) + "\n")
        raise Failure(f"make lint has {len(found)} findings", OUT / "log/check/lint")


def patched_kernel(ctx):
    """Builds without new warnings."""
    ctx.image()
    new = new_warnings(*(read(ctx.variant(series).dir / "warnings").splitlines() for series in ("", "0")))
    if new:
        raise Failure(f"the series adds warnings: {'; '.join(new)}")


def nothing_to_do(ctx):
    """All of make run up to the boot, again."""
    start = time.monotonic()
    materialise(ctx.base)
    for series in ("0", ""):
        build(ctx.variant(series))
    selftests(ctx.base, ctx.commits, ctx.arch)
    if time.monotonic() - start > 10:
        raise Failure(f"with nothing changed, make run takes {took(time.monotonic() - start)} up to the boot")


def no_user_space(ctx):
    """A kernel that does not boot is reported in one line, and soon."""
    try:
        boot("a broken start", "check/no-user-space", ctx.image(), [], append="rdinit=/nowhere init=/nowhere")
    except Failure as failure:
        if "did not reach user space" not in str(failure) or not failure.log:
            raise
    else:
        raise Failure("a kernel without user space was not noticed")


def booted(ctx, name, log, image, tests, **options):
    """A Boot of IMAGE with TESTS; what does not pass is tried again."""
    return reported(ctx, name, retried(lambda left, where: boot(name, where, image, left, **options), f"check/{log}", tests))


def reported(ctx, name, result):
    """RESULT; report what passed only in a later boot, except tests that another one kept from running."""
    ctx.notes += [f"run again on {name}: {test} {result.history[test]}" for test, verdict, _ in result.results if ", then " in
                  result.history[test] and verdict in ("PASS", "SKIP") and result.history[test][:7] != "NOT RUN"]
    return result


def pristine_results(ctx, mode, tests, log):
    """The pristine kernel's results of TESTS in MODE: name -> verdict, name -> history."""
    # Not all can pass there, but a random failure must not become an expected one.
    name = "the pristine kernel"
    result = reported(ctx, name, retried(
        lambda left, where: boot(name, where, ctx.image("0"), left, mode.machine(), mode.parameter),
        f"check/pristine-{log}", tests, lambda _, verdict: verdict in ("PASS", "SKIP"), tries=2))
    return {name: verdict for name, verdict, _ in result.results}, result.history


def compare_part(ctx, mode, tests, part):
    """TESTS in MODE on the patched kernel; those that do not pass, on the pristine one, too."""
    required = {name for key in ("REQUIRED", "OWN", "OWN_X86", "FATAL") for name in ctx.base.words(key)}
    log = f"{mode.cpu}-{mode.name}{part}"
    before, history = {}, {}

    def judge(name, after):
        must = name in required or before.get(name) == "PASS"
        return after if after == "PASS" else "FAIL" if must or after not in ("FAIL", "SKIP") else "SKIP"

    def attempt(left, where):
        result = boot("the patched kernel", where, ctx.image(), left, mode.machine(), mode.parameter)
        bad = {name for name, verdict, _ in result.results if verdict != "PASS"} - required - before.keys()
        if bad:
            for known, found in zip((before, history), pristine_results(
                    ctx, mode, [test for test in tests if test.name in bad], log)):
                known.update(found)
        return result

    patched = reported(ctx, "the patched kernel",
                       retried(attempt, f"check/patched-{log}", tests, lambda name, after: judge(name, after) != "FAIL"))
    for name, after, seconds in patched.results:
        detail = f"pristine {history.get(name, 'not asked')}; patched {patched.history[name]}"
        yield f"selftest {mode.title}: {name}", judge(name, after), seconds, detail
    yield clean_log(mode.title + part, patched)


def side_by_side(parts):
    """The results of all PARTS, functions that are run in parallel."""
    with ThreadPoolExecutor(len(parts)) as pool:
        for results in pool.map(lambda part: list(part()), parts):
            yield from results


def shares(tests, boots):
    """TESTS in shares for as many BOOTS side by side: [(suffix of the name, tests)]."""
    return [(f"-{'ab'[boot]}" if boots > 1 else "", tests[boot::boots]) for boot in range(boots)]


def compare(mode, pattern=""):
    """The selftests whose names match PATTERN, in MODE; an emulator of one thread runs one half, another the other."""
    def item(ctx):
        tests = [test for test in ctx.tests(cpu=mode.cpu) if re.search(pattern, test.name)]
        ctx.image("0"), ctx.image()
        machine = MACHINES[mode.machine()]
        machine.ready()
        return side_by_side([lambda part=part, some=some: compare_part(ctx, mode, some, part)
                             for part, some in shares(tests, 1 if machine.parallel else 2)])
    return item


def clean_log(name, result):
    detail = ""
    if result.splats:
        during, line = result.splats[0]
        detail = f"{len(result.splats)} warnings, the first during {during}: {line}: {pretty(result.console)}"
        if result.excerpt[:1] == [line]:
            detail = "\n        ".join([detail, *result.excerpt[1:]])
    return f"kernel log {name}", "FAIL" if result.splats else "PASS", 0.0, detail


def verdicts(title, result, kind=""):
    """What to report of a Boot of the patched kernel alone: its tests, and its log."""
    for name, verdict, seconds in result.results:
        yield f"{kind}{title}: {name}", verdict, seconds, result.history[name]
    yield clean_log(title, result)


def guest_runs(ctx):
    result = reported(ctx, "the patched kernel",
                      retried(lambda _, log: guest("the patched kernel", log, ctx.image(), rounds=1), "check/guest",
                              [Test("guest", 0, "", None)]))
    for _, verdict, seconds in result.results:
        yield "guest: DIMMs, virtio-mem, migration", verdict, seconds, result.history["guest"]
    yield clean_log("guest", result)


def good(ctx, cell):
    """The result of a cell of make build-each, which must be good; the base is compiled only to compare warnings."""
    result = done(cell) or do(cell, lambda: good(ctx, type(cell)(ctx.base, ctx.commits, 0, cell.target))["warnings"])
    if result["verdict"] != "ok":
        raise Failure(f"{cell.head()}: {result['detail']}")
    return result


def last_step(name, kind=Compiled):
    def item(ctx):
        good(ctx, kind(ctx.base, ctx.commits, len(ctx.commits) - 1, target_of(name)))
    return item


def every_step(name):
    def item(ctx):
        target, last = target_of(name), len(ctx.commits) - 1
        for step in range(1, last + 1):
            ctx.stage.note = f" (step {step} of {last})"
            good(ctx, Parsed(ctx.base, ctx.commits, step, target))
    return item


def debug_tests(modes):
    """Tests on the debug kernel, in MODES, pairs of a mode and how many boots share its tests. There are more boots than
    this machine has processors, so those of each take turns."""
    def share(ctx, mode, part, tests):
        machine = next(name for name in mode.machines if not MACHINES[name].parallel)
        result = booted(ctx, "the debug kernel", f"debug-{mode.cpu}{part}", ctx.image("", "debug"), tests,
                        machine=machine, append=mode.parameter, slower=5)
        return verdicts(f"debug {mode.title}{part}", result)

    def item(ctx):
        ctx.image("", "debug"), ctx.tests()
        return side_by_side([lambda mode=mode, part=part, some=some: share(ctx, mode, part, some) for mode, boots in modes
                             for part, some in shares(ctx.tests(ctx.base.words(f"DEBUG_{mode.cpu}"), 5, mode.cpu), boots)])
    return item


def arm64_tests(ctx):
    arch = ARCHS["arm64"]
    image = build(pick(ctx.base, ctx.commits, "", arch, ""))
    tests = tests_of(ctx.base, *selftests(ctx.base, ctx.commits, arch), ctx.base.words("ARM64"))
    result = booted(ctx, "the arm64 kernel", "arm64", image, tests, machine="qemu-arm64")
    return verdicts("arm64", result)


def own_tests(ctx):
    """The series' own tests and those of make run, on the patched kernel alone, in one mode."""
    mode = next(iter(MODES.values()))
    tests = ctx.tests(list(dict.fromkeys(ctx.base.words("OWN") + ctx.base.words("FATAL") + ctx.base.words("RUN"))), cpu=mode.cpu)
    result = booted(ctx, "the patched kernel", f"own-{mode.cpu}-{mode.name}", ctx.image(), tests,
                    machine=mode.machine(), append=mode.parameter)
    return verdicts(mode.title, result, "selftest ")


def counted_tests(ctx):
    """Tests of times, where time is a count of instructions."""
    result = booted(ctx, "the patched kernel", "counted", ctx.image(), ctx.tests(ctx.base.words("COUNTED"), cpu="icount"),
                    machine="icount", slower=4)
    return verdicts("instructions counted", result)


def harness(target, *words):
    """A target of the memslots in user space."""
    def item(ctx):
        run(["make", "-C", ctx.base.tree / "tools/testing/memslots", f"-j{NPROC}", target, f"O={ctx.base.out}/memslots", *words],
            f"{ctx.base.name}/memslots-{target}", f"make {target} in tools/testing/memslots failed")
    return item


def breaks_apply(ctx):
    """What make breaks leaves out is still there."""
    for patch in breaks.patches_of(ctx.base):
        ctx.git("apply", "--check", "--cached", patch)


FORM = [
    ("refresh gives patches/ back", round_trip),
    ("am gives the tree", mails_apply),
    ("breaks apply", breaks_apply),
    ("lint", linted),
]


def brief_items(base):
    """What BASE goes through when another one is checked."""
    brings = "tools/testing/memslots/Makefile" in new_files(base)
    return [
        *FORM,
        # The model of the gate knows no base.
        *([("memslots in user space", harness("check", "MODEL="))] if brings else []),
        *([("MAINTAINERS", maintained), ("patched kernel builds", lambda ctx: ctx.image() and None),
           ("own selftests", own_tests)] if base["KIND"] == "kernel" else []),
    ]


def kernel_items(base):
    compiled = [name for name in base.words("COMPILED") if TARGETS[name].defconfig]
    return [
        *FORM,
        ("memslots in user space", harness("check")),
        *([("nothing of the old left", old_gone)] if base["GONE"] else []),
        *([(f"{base['SHORTER']} shorter", shorter)] if base["SHORTER"] else []),
        ("MAINTAINERS", maintained),
        ("documents", documents),
        ("workshop", workshop),
        ("every step compiles for x86_64", every_step("x86_64")),
        *((f"last step compiles for {name}", last_step(name)) for name in compiled if name != "x86_64"),
        ("sparse and W=1", last_step("x86_64", Strict)),
        ("pristine kernel builds", lambda ctx: ctx.image("0") and None),
        ("patched kernel builds", patched_kernel),
        ("selftests build", lambda ctx: ctx.tests() and None),
        ("nothing to do twice", nothing_to_do),
        ("broken start is reported", no_user_space),
        ("Bochs builds", lambda ctx: MACHINES["bochs-intel"].ready()),
        *((f"selftests {mode.title}", compare(mode, base[f"MODE_{cpu}_{name}"]))
          for (cpu, name), mode in modes_of(base).items()),
        *([("instructions counted", counted_tests)] if base["COUNTED"] else []),
        ("guest", guest_runs),
        *([("arm64 tests", arm64_tests)] if "arm64" in base.words("ARCHS") else []),
        ("debug kernel builds", lambda ctx: ctx.image("", "debug") and None),
        ("debug kernel's tests", debug_tests([(MODES["amd", "npt0"], 2), (MODES["intel", "ept"], 1)])),
    ]


def qemu_guest(base, title, config="", slower=1, series="", **options):
    """A guest of QEMU with the series, on a kernel of BASE."""
    title = f"QEMU {title}, {base.name}"

    def item(ctx):
        log = f"check/{re.sub('[ ,]+', '-', title)}"
        result = guest(title, log, Context(base).image(series, config), slower, qemu=qemu.build(ctx.base), **options)
        detail = read(OUT / "log" / log / "play").splitlines()
        yield title, result.verdict("guest"), result.results[0][2], "; ".join(detail[-2:])
        yield clean_log(title, result)
    return title, item


def qtests(ctx):
    """The series' own qtests, on this machine."""
    for name, verdict, skipped in qemu.run_qtests(ctx.base):
        yield name, verdict, 0, f"see out/log/{ctx.base.name}/{name}{', skipped: ' + skipped if skipped else ''}"


def qemu_items():
    return [
        *FORM,
        ("QEMU's qtests", qtests),
        ("each step of QEMU builds", lambda ctx: qemu.build_each(ctx.base)),
        *(item for base in bases() if base["KIND"] == "kernel" and read_series(base) for item in (
            *(qemu_guest(base, f"on {kind}", rounds=15, words=[kind, "/tmp/qemu", "on"]) for kind in ("pc", "q35")),
            qemu_guest(base, "on the pristine kernel", series="0", probe="trust"),
            qemu_guest(base, "is killed and allocations fail", "debug", 5, probe="trust", number=20))),
    ]


def elsewhere(base, function):
    """The item FUNCTION, of another BASE."""
    def item(ctx):
        other = ctx.once(base.name, lambda: Context(base))
        other.stage, other.notes = ctx.stage, ctx.notes
        return function(other)
    return item


def items():
    """All items of BASE; without one, of the default base, and few of the other series."""
    base = Base()
    found = kernel_items(base) if base["KIND"] == "kernel" else qemu_items()
    others = [other for other in bases() if other.name != base.name and read_series(other) and not VARS["BASE"]]
    return found + [(f"{other.name}: {name}", elsewhere(other, function)) for other in others
                    for name, function in brief_items(other)]


# ---------------------------------------------------------------- the suite

def run_item(name, function, ctx):
    """The results of one item."""
    start = time.monotonic()
    try:
        results = list(function(ctx) or [])
        return results or [(name, "PASS", time.monotonic() - start, "")]
    except Unavailable as reason:
        ctx.notes.append(f"skipped: {reason}")
        return [(name, "SKIP", time.monotonic() - start, str(reason))]
    except Failure as failure:
        log = f" ({pretty(failure.log)})" if failure.log else ""
        return [(name, "FAIL", time.monotonic() - start, f"{failure}{log}")]


def suite(items, parts, where, minutes=0):
    """Run the ITEMS whose names contain one of PARTS (default: all), those that start in MINUTES; results go to out/WHERE.
    Returns the exit code."""
    names = ", ".join(name for name, _ in items)
    items = [(name, function) for name, function in items if not parts or any(part in name for part in parts)]
    if not items:
        raise Failure(f"no item has {' or '.join(parts)} in its name: {names}")
    start = time.monotonic()
    end = minutes and start + 60 * minutes
    base = Base()
    stage.plan(2 + len(items))
    remove(OUT / where)
    ctx = Context(base)
    results = []
    for name, function in items:
        with stage(name) as st:
            ctx.stage = st
            late = end and time.monotonic() > end
            new = [(name, "SKIP", 0.0, "no time left")] if late else run_item(name, function, ctx)
            bad = [result for result in new if result[1] != "PASS" and result[1] != "SKIP"]
            passed = sum(result[1] == "PASS" for result in new)
            st.note = " skipped: no time left" if late else \
                " ok" if not bad and len(new) == 1 else f" {passed} of {len(new)} passed"
            st.note += f", {took(time.monotonic() - start)} in all"
        for text in ctx.notes:
            note(f"    {text}")
        ctx.notes.clear()
        for bad_name, verdict, _, detail in bad:
            note(f"    {verdict} {bad_name}: {detail}")
        results += new
        write(OUT / where / "results.json", json.dumps(
            [dict(zip(("name", "verdict", "seconds", "detail"), result)) for result in results], indent=1))
    skipped = [result[0] for result in results if result[1] == "SKIP"]
    failed = [result for result in results if result[1] not in ("PASS", "SKIP")]
    if skipped:
        note(f"skipped (the emulated machine or the archive lacks what they need, or no time left): {', '.join(skipped)}")
    for name, verdict, _, detail in failed:
        note(f"{verdict} {name}: {detail.partition(chr(10))[0]}")
    note(f"details: {pretty(OUT / where / 'results.json')}, {took(time.monotonic() - start)}")
    print(f"{len(results) - len(failed) - len(skipped)} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed else 0


def command(*parts):
    return suite(items(), parts, "check", VARS["MINUTES"] and number_of("MINUTES"))


if __name__ == "__main__":
    main(__doc__, command)
