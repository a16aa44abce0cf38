#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make series          write the mails for git am, cover letter first, a directory a part; print their directory
       make am LINUX=DIR    apply them to the kernel tree DIR, all or nothing (QEMU=DIR for QEMU)
       make refresh         rewrite patches/ and the new files from the commits of the tree

All take BASE=v5.10. refresh reverses make tree: edit commits in the tree (git commit --amend, git rebase -i base), then
refresh. A file that the kernel lacks is written whole, to patches/BASE/own if it is there, else to its kernel path; its
last step names it. A shared file is shared: the other series that bring it are rebuilt. A new file that differs from
the one which another base brings stays in its patch, as QEMU's do.
scripts/series.py refresh --check only reports what would change.

A line "# Part: NAME" in patches/BASE/series starts a part: it is mailed as a series of its own, to be applied after those
before it, with cover-letter-NAME.txt. refresh keeps the line before the same step.
"""

import re
import subprocess
from email.utils import format_datetime
from datetime import datetime
from pathlib import Path

from source import version_of
from tree import Patch, State, materialise, new_file_mode
from workshop import (OUT, TOP, VARS, Base, Failure, bases, git, identity, lock, main, note, person, pretty, read, remove,
                      stage, stage_dir, write)

# The repository's own files, which no kernel file may overwrite.
OURS = re.compile(r"(patches|configs|out|\.ci)/|(Makefile|README\.md|COPYING|\.gitignore|MAINTAINERS)$")
DIFF = ["--no-color", "--no-ext-diff", "--no-textconv", "--diff-algorithm=myers", "--indent-heuristic", "-U3",
        "--src-prefix=a/", "--dst-prefix=b/"]


# ---------------------------------------------------------------- parts

def parts(base):
    """The parts of the series: (name, how many steps come before it, name of its first step without the number)."""
    found, part, steps, path = [], "", 0, base.patches / "series"
    for line in [*read(path).splitlines(), "# Part: end"]:
        mark, step = re.match(r"# Part: ([\w-]+)\s*$", line), line.split("#")[0].strip()
        if line.startswith("# Part:") and (part or not mark):
            raise Failure(f"{pretty(path)}: give # Part: NAME, and a step behind it: {line if not mark else '# Part: ' + part}")
        if mark:
            part = mark[1]
        elif step:
            found += [(part, steps, step[5:])] if part else []
            part, steps = "", steps + 1
    return found


def listed(base, steps):
    """The text of patches/BASE/series for STEPS."""
    path = base.patches / "series"
    old = read(path) if path.exists() else ""
    lines = {step.name: f"{step.name}\n" for step in steps}
    for part, _, first in parts(base) if old else ():
        found = [name for name in lines if name[5:] == first]
        if len(found) != 1:
            raise Failure(f"part {part} starts with {first}, which is {'there twice' if found else 'gone'}: name its first step in "
                          f"{pretty(path)}, and repeat")
        lines[found[0]] = f"# Part: {part}\n{found[0]}\n"
    return re.match(r"((?!# Part: )(#.*)?\n)*", old).group() + "".join(lines.values())


# ---------------------------------------------------------------- refresh

def new_files(base):
    """The paths that the series of BASE brings."""
    return {path for patch in base.patches.glob("*.patch") for path in re.findall(r"^New-file: (\S+)$", read(patch), re.M)}


def shared(base):
    """The shared files that other bases bring: path -> those bases."""
    found = {}
    for other in bases():
        for path in new_files(other) if other.name != base.name else ():
            if other.file(path) == TOP / path:
                found.setdefault(path, []).append(other)
    return found


def whole(base, path, data, had, elsewhere):
    """Is the new file PATH kept whole, not in its patch?"""
    if path in had or base.file(path) != TOP / path:
        return True
    return base["KIND"] == "kernel" and (path not in elsewhere or (TOP / path).read_bytes() == data)


def split_commits(base, had, elsewhere):
    """The commits of the tree as (Patches, new files: path -> (mode, contents))."""
    tree = base.tree
    if git(tree, "rev-list", "--merges", "base..HEAD"):
        raise Failure(f"{pretty(tree)} has a merge: make the series linear (git rebase base), then make refresh")
    if subprocess.run(["git", "-C", tree, "merge-base", "--is-ancestor", "base", "HEAD"], check=False).returncode:
        raise Failure(f"{pretty(tree)} is not on its tag base: git rebase it, or make tree FORCE=1")
    commits = git(tree, "rev-list", "--reverse", "base..HEAD").split()
    added = {}
    for line in git(tree, "diff-tree", "-r", "--no-renames", "--diff-filter=A", "base", "HEAD").splitlines():
        meta, path = line.split("\t", 1)
        data = subprocess.run(["git", "-C", tree, "cat-file", "blob", meta.split()[3]], check=True,
                              capture_output=True).stdout
        if whole(base, path, data, had, elsewhere):
            added[path] = (meta.split()[1], data)
    last = {}
    for commit in commits:
        for path in git(tree, "diff-tree", "-r", "--no-renames", "--name-only", "--no-commit-id", commit).splitlines():
            last[path] = commit
    steps = []
    for number, commit in enumerate(commits, 1):
        slug, date, message = git(tree, "log", "-1", "--format=%f%n%aI%n%B", commit).split("\n", 2)
        subject, _, body = message.strip("\n").partition("\n")
        lines = [line for line in body.strip("\n").split("\n") if not line.startswith("Signed-off-by:")]
        if "---" in lines:
            raise Failure(f"the message of {commit[:12]} ({subject}) has a line ---, where git am would cut it: reword it")
        new = sorted(path for path in added if last[path] == commit)
        step = Patch.__new__(Patch)
        step.name = f"{number:04}-{slug[:52].rstrip('.')}.patch"
        step.subject, step.body = subject, "\n".join(lines).strip("\n")
        step.date, step.new_files = format_datetime(datetime.fromisoformat(date)), new
        diff = git(tree, "diff-tree", "-p", "--no-renames", "--full-index", "--binary", *DIFF, "--no-commit-id",
                   commit, "--", ".", *(f":(exclude,literal){path}" for path in new))
        # Without blob names, a patch changes only with its diff.
        step.diff = re.sub(r"^index [0-9a-f]{40}\.\.[0-9a-f]{40}( \d+)?\n(?!GIT binary)", "", diff, flags=re.M)
        steps.append(step)
    return steps, added


def refresh(base, check=False):
    """Rewrite patches/BASE and the new files; returns the paths that changed (with CHECK: would change)."""
    with lock(base.out / "tree.lock"):
        state = State(base)
        if git(base.tree, "status", "--porcelain", "-uno"):
            raise Failure(f"{pretty(base.tree)} has uncommitted changes: commit them, then make refresh")
        had, elsewhere = new_files(base), shared(base)
        steps, added = split_commits(base, had, elsewhere)
        want = {base.patches / step.name: step.text().encode("utf-8", "surrogateescape") for step in steps}
        old_series = base.patches / "series"
        want[old_series] = listed(base, steps).encode()

        modes = {}
        for path, (mode, data) in added.items():
            where = base.file(path)
            if OURS.match(path) or (where.exists() and path not in had | elsewhere.keys() and path.startswith("scripts/")):
                raise Failure(f"new file {path} would overwrite the repository's own: give it another path")
            if mode not in ("100644", "100755"):
                raise Failure(f"new file {path} is no plain file: the repository cannot hold it")
            want[where] = data
            modes[where] = mode
        gone = [path for path in base.patches.glob("*.patch") if path not in want]
        gone += [base.file(path) for path in had - set(added)
                 if base.file(path).exists() and (base.file(path) != TOP / path or path not in elsewhere)]
        changed = [path for path, data in want.items()
                   if not path.exists() or path.read_bytes() != data
                   or (path in modes and modes[path] != new_file_mode(path))]
        others = {other.name: other for path in changed for other in elsewhere.get(pretty(path), [])
                  if State(other).get("commit")}
        if not check:
            for other in others.values():
                edits = State(other).edits()
                if edits:
                    raise Failure(f"{other.name} shares files that this changes, and {pretty(other.tree)} has {edits} that "
                                  f"are not in patches/: make refresh BASE={other.name} first")
            # The list last: until then make tree sees the old series, or reports what is missing.
            for path in sorted(changed, key=lambda p: p == old_series):
                write(path, want[path])
                if path in modes:
                    path.chmod(int(modes[path][3:], 8))
            for path in gone:
                path.unlink()
                subprocess.run(["rmdir", "-p", "--ignore-fail-on-non-empty", path.parent], check=True)
            # patches/ are now these commits.
            head = git(base.tree, "rev-parse", "HEAD").strip()
            state.set(commit=head, stamp="")
    if not check:
        for other in others.values():
            note(f"{other.name} shares files that this changed: building it anew")
            materialise(other)
    return changed + gone


# ---------------------------------------------------------------- export

def export(base):
    """Write the mails; one stage. Returns their directory."""
    commits = materialise(base)
    with stage("mails") as st:
        if len(commits) < 2:
            raise Failure(f"{pretty(base.patches / 'series')} lists no patch: there is nothing to export")
        mails, starts = base.out / "mails", parts(base) or [("", 0, "")]
        if starts[0][1]:
            raise Failure(f"{pretty(base.patches / 'series')} has steps before its first part: add a line # Part: NAME")
        with stage_dir(base.out / "mails.new") as new:
            ends = [*(first for _, first, _ in starts[1:]), len(commits) - 1]
            for number, ((part, first, _), end) in enumerate(zip(starts, ends), 1):
                where = new / f"{number}-{part}" if part else new
                git(base.tree, "format-patch", "-q", "-s", "--cover-letter", "--cover-from-description=none",
                    f"--subject-prefix={base['PREFIX']}", "--numbered", "--zero-commit", "--no-signature", "--no-thread",
                    "--no-attach", "--no-notes", "--no-base", "--no-encode-email-headers", "--abbrev=12", "-M", "--stat=76",
                    *DIFF, "-o", where, f"{commits[first]}..{commits[end]}", env=person())
                write_cover(base, base.patches / f"cover-letter{'-' if part else ''}{part}.txt", next(where.glob("0000-*")),
                            git(base.tree, "log", "-1", "--format=%aD", commits[end]).strip())
            count = len(list(new.rglob("*.patch")))
            remove(mails)
            new.rename(mails)
        st.note = f" ({count} files)"
    return mails


def mailed(base):
    """export(), and the mails with patches, in order."""
    return sorted(path for path in export(base).rglob("*.patch") if not path.name.startswith("0000-"))


def write_cover(base, source, path, date):
    """Fill in git's cover letter PATH from SOURCE: its first line is the subject."""
    if not source.exists():
        raise Failure(f"{pretty(source)} is missing: first line the subject, then the text")
    subject, _, body = read(source).strip("\n").partition("\n")
    text = read(path)
    text = re.sub(r"^Date: .*$", lambda _: f"Date: {date}", text, count=1, flags=re.M)
    text = text.replace("*** SUBJECT HERE ***", subject, 1)
    state = State(base)
    body = f"{body.strip(chr(10))}\n\nMade for {base.project} {state.get('version')} ({state.get('origin')})."
    write(path, text.replace("*** BLURB HERE ***", body, 1))


# ---------------------------------------------------------------- am

def foreign(tree, *args, ok=(0,)):
    return git(tree, *args, own=False, ok=ok)


def apply_mails(base, target, quiet=False):
    """git am the mails in somebody's tree TARGET, or leave it as it was."""
    given = f"{base.project.upper()}={target or 'DIR'}"
    wanted = f"a git tree of {base.project} {base['VERSION']}.y"
    if not target:
        raise Failure(f"which tree? make am {given}, with {wanted}")
    target = Path(target)
    if not target.is_dir():
        raise Failure(f"{given} is no directory: give {wanted}")
    inside = foreign(target, "rev-parse", "--show-toplevel", ok=(0, 128)).strip()
    if not inside or Path(inside).resolve() != target.resolve():
        raise Failure(f"{given} is not the top of a git tree: give {wanted}")
    version = version_of(base, target)
    if not version or version[0] != base["VERSION"]:
        raise Failure(f"{given} is {f'{base.project} {version[1]}' if version else f'no tree of {base.project}'}: "
                      f"give {wanted}")
    for busy in ("rebase-apply", "rebase-merge", "MERGE_HEAD", "CHERRY_PICK_HEAD"):
        if (target / foreign(target, "rev-parse", "--git-path", busy).strip()).exists():
            raise Failure(f"{given} is in the middle of an am, rebase or merge: finish or abort it first")
    if foreign(target, "status", "--porcelain", "-uno"):
        raise Failure(f"{given} has uncommitted changes: commit or stash them first")
    if not foreign(target, "rev-parse", "-q", "--verify", "HEAD", ok=(0, 1)):
        raise Failure(f"{given} has no commit: give {wanted}")

    mails = mailed(base)
    with stage(f"git am of {len(mails)} mails") as st:
        before = foreign(target, "rev-parse", "HEAD")
        name, mail, _ = identity()
        done = subprocess.run(["git", "-C", target, "-c", f"user.name={name}", "-c", f"user.email={mail}",
                               "am", "-q", "--3way", "--keep-non-patch", *mails],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            log = OUT / "log" / base.name / "am"
            write(log, done.stdout)
            applied = int(foreign(target, "rev-list", "--count", f"{before.strip()}..HEAD"))
            if (target / foreign(target, "rev-parse", "--git-path", "rebase-apply").strip()).exists():
                foreign(target, "am", "--abort")
            if foreign(target, "rev-parse", "HEAD") != before or foreign(target, "status", "--porcelain", "-uno"):
                raise Failure(f"git am --abort did not bring {given} back to {before.strip()}: look there", log)
            raise Failure(f"patch {applied + 1} of {len(mails)}, {mails[applied].name}, does not apply to {base.project} "
                          f"{version[1]} in {target}, which is left as it was: the series was made for "
                          f"{State(base).get('origin')}, apply it to that or rebase it", log)
        st.note = f" onto {base.project} {version[1]}"
    if not quiet:
        print(foreign(target, "log", "--oneline", f"{before.strip()}..HEAD"), end="")


# ---------------------------------------------------------------- commands

def command(what, *options):
    base = Base()
    if what == "refresh":
        if set(options) - {"--check"}:
            raise Failure("refresh takes --check only (see --help)")
        if not State(base).get("origin"):
            raise Failure(f"there is no {pretty(base.tree)} yet: run make tree first")
        changed = refresh(base, check="--check" in options)
        for path in sorted(changed):
            print(pretty(path))
        if "--check" in options:
            return 1 if changed else 0
        note(f"{len(changed)} files rewritten" if changed else "nothing to change")
    elif what == "series":
        stage.plan(3)
        print(export(base))
    else:
        stage.plan(4)
        apply_mails(base, VARS[base.project.upper()])


if __name__ == "__main__":
    main(__doc__, command, ("series", "am", "refresh"))
