#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make qemu [BASE=qemu-v10.0] [SERIES=0|N]     prints the path of qemu-system-x86_64
       make build-each BASE=qemu-v10.0              builds every step

Build QEMU with the series, for x86_64 guests of KVM, in out/BASE/build. SERIES=0 is the pristine one, SERIES=N the one
after the Nth step. meson comes from the suite that patches/BASE/base names, and is unpacked under out/.
"""

import os
import re
import shlex
import subprocess
from contextlib import nullcontext
from pathlib import Path

from guest_qemu import FIRMWARE
from kernel import CCACHE, source, wanted_step
from source import fetch
from tree import materialise
from workshop import NPROC, OUT, Base, bases, digest, git, install, lock, main, pretty, read, run, stage, write

QTEST = "tests/qtest/kvm-memslots-test"


def base_of():
    """The base that BASE names, or the first one that is QEMU."""
    return next(base for base in (Base(), *bases()) if base["KIND"] == "qemu")


def meson(base):
    """Where Python finds a meson that is new enough."""
    package, suites = base["MESON"].split(" ", 1)
    deb = fetch(package, suites, OUT / "download" / package, "download-meson", "do without make qemu")
    where = OUT / "download" / package / "root"
    run(["dpkg-deb", "-x", deb, where], "download-meson", f"{pretty(deb)} is broken: remove it and repeat", append=True)
    return where / "usr/lib/python3/dist-packages"


def qtests(base, commit):
    """The qtests that the series brings up to COMMIT, as ninja names them."""
    files = git(base.tree, "diff", "--name-only", "--diff-filter=A", "base", commit, "--", "tests/qtest/*-test.c").split()
    return [file.removesuffix(".c") for file in files]


def run_qtests(base):
    """Run them on this machine: yields (name, verdict, what it skips)."""
    program = build(base)
    wrapper = program.parent / "qtest" / program.name      # a test takes the architecture from the name
    write(wrapper, "#!/bin/sh\nexec " + shlex.join(map(str, (program, *FIRMWARE))) + ' "$@"\n')
    wrapper.chmod(0o755)
    for name in qtests(base, "series"):
        log = OUT / "log" / base.name / Path(name).name
        with open(log, "w", encoding="utf-8") as out:
            code = subprocess.run(["timeout", "300", program.parent / name], env={**os.environ, "QTEST_QEMU_BINARY": str(wrapper)},
                                  check=False, stdout=out, stderr=subprocess.STDOUT).returncode
        said = read(log)
        skipped = re.findall(r"^ok \d+ (\S+) # SKIP|^(1\.\.0) # SKIP", said, re.M)
        ran = re.search(r"^ok \d+ (?!.*# SKIP)", said, re.M)
        yield Path(name).name, "FAIL" if code else "PASS" if ran else "SKIP", ", ".join(one or "all" for one, _ in skipped)


def build(base, each=None):
    """Build the step that SERIES names, all of them without: three stages; returns the path of the program. EACH is a step
    to be built on the way to the last one, in its directory."""
    commits = materialise(base)
    step = each or wanted_step(commits)
    install("qemu")
    last = each or step == len(commits) - 1
    where = base.out / "build" / ("series" if last else f"step-{step}" if step else "base")
    stamp = digest(git(base.tree, "rev-parse", commits[step] + "^{tree}"), base["CONFIGURE"])
    program, done, good = where / "qemu-system-x86_64", where / "stamp", where / "good" / stamp

    def ready():
        return each and good.exists() or done.exists() and read(done) == stamp and program.exists()

    with stage(f"building {base.project}") as st, nullcontext() if ready() else lock(base.out / "build.lock"):
        if ready():
            st.note = " (up to date)"
            return program
        src, log, python = source(base, commits[step]), f"{base.name}/build", meson(base)
        where.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        env = {"PYTHONPATH": str(python), **CCACHE}
        if not (where / "build.ninja").exists():
            run([src / "configure", "--python=/usr/bin/python3", *base.words("CONFIGURE")], log, "configuring QEMU failed",
                cwd=where, env=env)
        run(["ninja", f"-j{NPROC}", program.name, *qtests(base, commits[step])], log, "building QEMU failed", cwd=where, env=env, append=True)
        write(done, stamp)
        write(good, "")
    return program


def build_each(base):
    last = len(materialise(base)) - 1
    for step in range(1, last + 1):
        with stage(f"building step {step} of {last}"):
            build(base, step)


def command():
    stage.plan(3)
    print(build(base_of()))


if __name__ == "__main__":
    main(__doc__, command)
