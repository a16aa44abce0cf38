#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make lint [BASE=v5.10]

checkpatch.pl of the base over every mail of the series (exceptions, each with its reason, are in
patches/BASE/checkpatch), shellcheck and pyflakes over scripts, codespell over all texts, and this repository's own rules: no
Signed-off-by in patches/, no trailing white space, no file in patches/BASE/own that is longer
than 150 lines or that no step brings.
"""

import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from series import mailed, new_files
from tree import read_series
from workshop import NPROC, TOP, Base, Failure, digest, main, note, pretty, read, stage, write


OPTIONS = {"kernel": ["--strict", "--show-types"], "qemu": []}
OWN_LINES = 150     # what is longer is no adapter


def exceptions(path):
    """[TYPE, pattern] of patches/BASE/checkpatch."""
    found = []
    for number, line in enumerate(read(path).splitlines() if path.exists() else [], 1):
        if line.strip() and not line.startswith("#"):
            fields = line.split(" | ")
            if len(fields) != 3 or not fields[2].strip():
                raise Failure(f"{pretty(path)}:{number}: give TYPE | regular expression | reason")
            found.append((fields[0].strip(), re.compile(fields[1].strip(), re.S)))
    return found


def checkpatch(base, mail, allowed, used):
    """The reports of checkpatch on MAIL that no exception covers. Its output is cached: it is slow."""
    script, words = base.tree / "scripts/checkpatch.pl", base.tree / "scripts/spelling.txt"
    kept = base.out / "checkpatch" / digest(mail.read_bytes(), *(path.read_bytes() for path in (script, words) if path.exists()))
    if not kept.exists():
        done = subprocess.run(["perl", script, *OPTIONS[base["KIND"]], "--no-summary", "--color=never", mail],
                              cwd=base.tree, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace")
        if done.returncode not in (0, 1) or "line" in done.stderr and not done.stdout:
            raise Failure(f"checkpatch.pl failed on {mail.name}: {(done.stderr.splitlines() or ['?'])[0]}")
        write(kept, done.stdout)
    left = []
    for block in re.split(r"\n\n+", read(kept)):
        head = re.match(r"(ERROR|WARNING|CHECK):(\w*):? ", block)
        covers = [entry for entry in allowed if head and entry[0] == head[2] and entry[1].search(block)]
        used.update(covers[:1])
        if head and not covers:
            left.append(f"{mail.name}: {block}")
    return left


def tracked():
    """The repository's text files, in git or not ignored by it."""
    done = subprocess.run(["git", "-C", TOP, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                          capture_output=True, check=True)
    paths = [TOP / name for name in done.stdout.decode().split("\0") if name]
    return sorted(path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8000])


def scripts(paths):
    """What shellcheck and pyflakes say."""
    sh = [path for path in paths if re.match(rb"#!.*\b(sh|bash)\b", path.read_bytes()[:80])]
    python = [path.relative_to(TOP) for path in paths if path.suffix == ".py"]
    try:
        return [line for command in (["shellcheck", *sh], ["pyflakes3", *python]) for line in subprocess.run(
            command, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout.splitlines()]
    except FileNotFoundError as missing:
        raise Failure(f"there is no {missing.filename}: scripts/install-deps lint") from None


def codespell(paths):
    """Check spelling; in a patch only that of the message and of added lines."""
    with tempfile.TemporaryDirectory() as temp:
        for path in paths:
            text = read(path)
            if path.suffix == ".patch":
                message, mark, diff = text.partition("\ndiff --git ")
                text = message + mark + re.sub(r"^[^+\n].*$", "", diff, flags=re.M)
            write(Path(temp) / path.relative_to(TOP), text)
        done = subprocess.run(["codespell", "--check-hidden", "--ignore-words-list", "hsi,nd", "."],
                              cwd=temp, capture_output=True, text=True, check=False)
    return [line.removeprefix("./") for line in done.stdout.splitlines()]


def own_rules(paths):
    found = []
    for path in paths:
        patch = path.suffix == ".patch"
        for number, line in enumerate(read(path).split("\n"), 1):
            where = f"{pretty(path)}:{number}"
            # In a patch a lone blank is an empty line of context; added lines are for checkpatch.
            if not patch and line != line.rstrip():
                found.append(f"{where}: trailing white space")
            if patch and line.startswith("Signed-off-by:"):
                found.append(f"{where}: Signed-off-by: only the person who exports can certify origin")
        if len(read(path)) > 1 and not read(path).endswith("\n"):
            found.append(f"{pretty(path)}: no newline at the end")
    return found


def own_files(base):
    """The base's own versions of files are small, and all are used."""
    brought, found = new_files(base) | {"MAINTAINERS"}, []
    for path in (base.patches / "own").rglob("*"):
        lines = read(path).count("\n") if path.is_file() else 0
        if lines > OWN_LINES:
            found.append(f"{pretty(path)}: {lines} lines, more than {OWN_LINES}: share what is not of {base.name} alone")
        if path.is_file() and str(path.relative_to(base.patches / "own")) not in brought:
            found.append(f"{pretty(path)}: no step brings it")
    return found


def lint(base):
    """All findings, as lines."""
    mails = mailed(base) if read_series(base) else []
    allowed, used = exceptions(base.patches / "checkpatch"), set()
    with stage("lint") as st, ThreadPoolExecutor(int(NPROC)) as pool:
        paths = tracked()
        jobs = [pool.submit(checkpatch, base, mail, allowed, used) for mail in mails]
        jobs += [pool.submit(check, paths) for check in (scripts, codespell, own_rules)]
        found = [line for job in jobs for line in job.result()] + own_files(base)
        found += [f"{pretty(base.patches / 'checkpatch')}: {kind} | {pattern.pattern} is not needed any more"
                  for kind, pattern in allowed if (kind, pattern) not in used]
        st.note = f" ({len(mails)} mails, {len(paths)} files)"
    return found


def command():
    base = Base()
    stage.plan(4)
    found = lint(base)
    for line in found:
        print(line)
    note(f"{len(found)} findings" if found else "nothing to fix")
    return 1 if found else 0


if __name__ == "__main__":
    main(__doc__, command)
