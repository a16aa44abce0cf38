#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make breaks [BASE=v7.3] [TESTS="logs locks"]

Break the patched kernel in each way that patches/BASE/breaks/*.patch describe, and see that a test notices. Each of
them leaves out a part of the series, or opens a window by a delay, and begins with lines NAME: VALUE:

  Breaks: what it leaves out
  Test: a selftest with its options
  Mode: processor and mode of KVM's MMU (see make boot), "amd npt" without this line
  Config: debug, for a kernel with KASAN and lockdep
  Expect: pass, for a delay alone, which must not break anything

TESTS picks the patches whose names contain one of the words. Exits 0 only if each test fails, or passes, as it should.
"""

import re

from boot import boot, tests_of
from kernel import ARCHS, Variant, build, child, selftests
from machine import MODES
from tree import materialise
from workshop import VARS, Base, Failure, git, main, pretty, read, stage


class BrokenKernel(Variant):
    """The last step with PATCH applied."""

    def __init__(self, base, commits, config, patch):
        super().__init__(base, commits, len(commits) - 1, config, ARCHS["x86_64"])
        self.name = "broken"
        self.dir = base.out / "build" / (self.name + self.suffix)
        self.title = f"{base.name} without {patch.stem}"
        self.commit = child(base, self.commit, patch.stem, lambda index: git(base.tree, "apply", "--cached", patch, env=index))


def patches_of(base):
    return sorted((base.patches / "breaks").glob("*.patch"))


def field(patch, name, default=""):
    found = re.search(rf"^{name}: (.*)$", read(patch).partition("\n---")[0], re.M)
    return found[1] if found else default


def noticed(base, commits, programs, patch):
    """Boot the broken kernel: (what its test says, whether that is as it should be)."""
    config, mode = field(patch, "Config"), MODES[tuple(field(patch, "Mode", "amd npt").split())]
    slower = 5 if config else 1
    name = field(patch, "Test").split()[0]
    test = tests_of(base, *programs, [name], slower, mode.cpu)[0]._replace(command=f"/tests.d/{field(patch, 'Test')}")
    image = build(BrokenKernel(base, commits, config, patch))
    with stage(f"{name}, {mode.title}"):
        result = boot(patch.stem, f"{base.name}/breaks/{patch.stem}", image, [test], mode.machine(), mode.parameter, slower)
    verdict = result.verdict(name)
    said = result.words.get(name, "").lstrip(": ") or "; ".join(line for _, line in result.splats[:1])
    # A test that skips itself or is not run proves nothing.
    good = verdict == "PASS" and not result.splats if field(patch, "Expect") == "pass" else \
        verdict in ("FAIL", "TIMEOUT", "HANG") or verdict == "PASS" and result.splats
    return f"{verdict}{', ' if said else ''}{said[:100]}", bool(good)


def command():
    base, words = Base(), VARS["TESTS"].split()
    known = patches_of(base)
    unknown = [word for word in words if not any(word in patch.stem for patch in known)]
    if unknown or not known:
        raise Failure(f"TESTS={' '.join(unknown)} is unknown: {pretty(base.patches)}/breaks has "
                      f"{', '.join(patch.stem for patch in known) or 'no patch'}")
    patches = [patch for patch in known if not words or any(word in patch.stem for word in words)]
    stage.plan(3 + 2 * len(patches))
    commits = materialise(base)
    programs = selftests(base, commits, ARCHS["x86_64"])
    lines, well = [], True
    for patch in patches:
        try:
            said, good = noticed(base, commits, programs, patch)
        except Failure as failure:
            said, good = str(failure), False
        lines.append(f"{'ok' if good else 'NOT OK':8}{patch.stem:26}{field(patch, 'Breaks')}\n{'':8}{field(patch, 'Test')}: {said}")
        well = well and good
    print("\n".join(lines))
    return 0 if well else 1


if __name__ == "__main__":
    main(__doc__, command)
