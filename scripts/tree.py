#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make tree [BASE=v5.10] [LINUX_SRC=DIR|TARBALL] [FORCE=1]    (QEMU_SRC for a base that is QEMU)

Create the git tree of a base and its series: tag "base" on the pristine import, one commit a step on branch "series".
Prints the path of the tree. Changes in the tree that are not in patches/ are never discarded without FORCE=1; make
refresh saves them to patches/.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from source import unpack, version_of
from workshop import (OUT, QUIET_GIT, VARS, Base, Failure, bases, digest, git, identity, lock, main, person, pretty,
                      read, remove, stage, stage_dir, write)

# ---------------------------------------------------------------- the base

def import_base(base):
    """The tree of BASE with the pristine source as tag "base", made once."""
    variable = f"{base.project.upper()}_SRC"
    given = VARS[variable] if base.name == Base().name else ""      # it is for the base under test
    source = Path(given).resolve() if given else None
    if source and not source.exists():
        raise Failure(f"{variable}={given} does not exist: give a tarball or directory")
    key = str(source) if source else "package"
    state = State(base)
    with stage(f"source of {base.name}") as st:
        if state.get("source") and (source is None or state.get("source") == key):
            st.note = f" ({state.get('origin')}, already there)"
            return
        if state.get("source"):
            state.refuse_edits()
        base.out.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(base.out).free < 4 << 30:
            raise Failure(f"less than 4 GiB free under {pretty(base.out)}: free some space and repeat")
        with stage_dir(base.tree.with_suffix(".new")) as new:
            origin = unpack(base, source, new)
            version = version_of(base, new)
            if not version or version[0] != base["VERSION"]:
                raise Failure(f"{f'{variable}={given}' if source else origin} is "
                              f"{f'{base.project} {version[1]}' if version else f'no tree of {base.project}'}, "
                              f"but BASE={base.name} wants {base['VERSION']}.y: give another {variable} or BASE")
            # The packaging's additions to .gitignore would hide new kernel files from git add.
            ignore = new / ".gitignore"
            if ignore.exists():
                write(ignore, re.sub(r"^(/\*|!/debian/)\n", "", read(ignore), flags=re.M))
            git(new, "init", "-q", "-b", "series")
            for key_, value in (("core.looseCompression", 0), ("core.fsync", "none"), ("gc.auto", 0),
                                ("core.autocrlf", "false"), ("advice.detachedHead", "false")):
                git(new, "config", key_, value)
            git(new, "add", "-A", "-f")
            git(new, "commit", "-q", "-m", f"{origin}\n\n{base.project} {version[1]}, as it came.", env={
                f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in
                (("NAME", "Pristine Source"), ("EMAIL", "source@example.invalid"), ("DATE", base["DATE"]))})
            git(new, "tag", "base")
            State(base, new).set(source=key, origin=origin, version=version[1])
            # Other work trees and builds belong to the old source.
            for stale in (base.out / "src", base.out / "build", base.tree):
                remove(stale)
            new.rename(base.tree)
        st.note = f" ({origin})"


class State:
    """The state of the tree, kept in its .git."""

    def __init__(self, base, tree=None):
        self.base, self.tree = base, tree or base.tree
        self.path = self.tree / ".git/workshop.json"
        self.data = json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(self, key, default=None):
        return self.data.get(key, default)

    def set(self, **kwargs):
        self.data.update(kwargs)
        write(self.path, json.dumps(self.data))

    def edits(self):
        """What the tree has and patches/ lack: a few words, or ""."""
        if self.get("switching"):       # interrupted in the middle of a checkout: none
            return ""
        if git(self.tree, "rev-parse", "HEAD").strip() not in (self.get("commit"), self.base_id()):
            return "commits"
        return "uncommitted changes" if git(self.tree, "status", "--porcelain", "-uno") else ""

    def base_id(self):
        return git(self.tree, "rev-parse", "base^{commit}").strip()

    def refuse_edits(self):
        edits = "" if VARS["FORCE"] else self.edits()
        if edits:
            commit = "commit them, " if edits.startswith("un") else ""
            raise Failure(f"{pretty(self.tree)} has {edits} that are not in patches/: {commit}run make refresh, "
                          "or discard them with make tree FORCE=1")


# ---------------------------------------------------------------- the series

class Patch:
    """A step: patches/BASE/NNNN-slug.patch."""

    def __init__(self, name, text):
        self.name = name
        head, _, rest = text.partition("\n\n")
        fields = dict(re.findall(r"^(Subject|Date): (.*)$", head, re.M))
        if set(fields) != {"Subject", "Date"}:
            raise Failure(f"{name} does not start with Subject: and Date: lines")
        self.subject, self.date = fields["Subject"], fields["Date"]
        body, mark, rest = ("\n" + rest).partition("\n---\n")
        if not mark:
            raise Failure(f"{name} has no --- line behind its message")
        self.body = body.strip("\n")
        notes, mark, diff = ("\n" + rest).partition("\ndiff --git ")
        self.new_files = re.findall(r"^New-file: (\S+)$", notes, re.M)
        self.diff = "diff --git " + diff if mark else ""

    @property
    def message(self):
        return f"{self.subject}\n\n{self.body}\n" if self.body else self.subject + "\n"

    def text(self):
        """The contents of the patch file."""
        body = f"{self.body}\n" if self.body else ""
        new = "".join(f"New-file: {path}\n" for path in self.new_files)
        return f"Subject: {self.subject}\nDate: {self.date}\n\n{body}---\n{new}\n{self.diff}"


def read_series(base):
    """The Patches, in order."""
    where = base.patches
    series = where / "series"
    if not series.exists():
        raise Failure(f"{pretty(series)} is missing: it lists the patches in order")
    steps = []
    for line in read(series).splitlines():
        name = line.split("#")[0].strip()
        if not name:
            continue
        if not (where / name).exists():
            raise Failure(f"{pretty(series)} names {name}, which is not there")
        steps.append(Patch(name, read(where / name)))
        for path in steps[-1].new_files:
            if not base.file(path).is_file():
                raise Failure(f"{name} names New-file: {path}, which is not in the repository")
    return steps


def new_file_mode(path):
    return "100755" if os.access(path, os.X_OK) else "100644"


def build_commits(base, steps):
    """Commit all steps on top of the base, without a work tree; returns the commits."""
    tree = base.tree
    index = {"GIT_INDEX_FILE": str(tree / ".git/workshop.index")}
    who = person()
    git(tree, "read-tree", "base", env=index)
    commits = [git(tree, "rev-parse", "base^{commit}").strip()]
    for number, step in enumerate(steps, 1):
        if step.diff:
            done = subprocess.run(["git", "-C", tree, "apply", "--cached", "--whitespace=nowarn", "-"],
                                  input=step.diff.encode("utf-8", "surrogateescape"), capture_output=True,
                                  env={**os.environ, **QUIET_GIT, **index}, check=False)
            if done.returncode:
                log = OUT / "log" / base.name / "apply"
                write(log, done.stderr)
                raise Failure(f"patch {number} of {len(steps)}, {step.name}, does not apply to "
                              f"{State(base).get('origin')}: the series was tested on {base['TESTED']}, "
                              f"rebase it or give that one as {base.project.upper()}_SRC", log)
        for path in step.new_files:
            file = base.file(path)
            blob = git(tree, "hash-object", "-w", "--no-filters", "--", file).strip()
            git(tree, "update-index", "--add", "--cacheinfo", f"{new_file_mode(file)},{blob},{path}", env=index)
        root = git(tree, "write-tree", env=index).strip()
        dates = {f"GIT_{w}_DATE": step.date for w in ("AUTHOR", "COMMITTER")}
        commits.append(git(tree, "commit-tree", root, "-p", commits[-1], stdin=step.message,
                           env={**who, **dates}).strip())
    return commits


def materialise(base):
    """Bring the tree up to date with patches/; two stages. Returns its commits, the base first."""
    with lock(base.out / "tree.lock"):
        import_base(base)
        with stage(f"series {base.name}") as st:
            state = State(base)
            state.refuse_edits()
            steps = read_series(base)
            stamp = digest(state.base_id(), identity(), *(part for step in steps for part in (
                step.text(), *(x for p in step.new_files
                               for x in (p, new_file_mode(base.file(p)), base.file(p).read_bytes())))))
            st.note = f" ({len(steps)} steps)"
            if state.get("stamp") == stamp and not state.get("switching") and not VARS["FORCE"]:
                st.note = f" ({len(steps)} steps, already there)"
                return state.get("commits")
            commits = build_commits(base, steps)
            state.set(switching=True)
            (base.tree / ".git/index.lock").unlink(missing_ok=True)
            git(base.tree, "checkout", "-q", "-f", "-B", "series", commits[-1])
            state.set(switching=False, stamp=stamp, commit=commits[-1], commits=commits)
            return commits


def command(*options):
    if options == ("--forget",):        # for make distclean: may the trees be removed?
        for base in bases():
            if State(base).get("commit"):
                State(base).refuse_edits()
        return
    if options:
        raise Failure(f"{options[0]}: make tree takes variables only (see --help)")
    base = Base()
    stage.plan(2)
    materialise(base)
    print(base.tree)


if __name__ == "__main__":
    main(__doc__, command)
