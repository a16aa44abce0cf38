#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: scripts/test_workshop.py [NAME...]

Test the workshop itself: a copy of it, with a toy kernel and a toy series, in a temporary directory. Part of make
check; takes a minute.
"""

import inspect
import os
import re
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from workshop import NPROC, TOP, Failure, main, note, took

KVM_MAIN = "".join(f"int line_{number};\n" for number in range(60))
MODE = {"GIT_AUTHOR_DATE": "2026-01-02 03:04:05 +0000"}


class Sandbox:
    """A copy of the workshop with its toy kernel."""

    def __init__(self, path):
        self.top, self.toy, self.tree = path / "workshop", path / "toy", path / "workshop/out/v5.10/linux"
        self.top.mkdir()
        shutil.copy2(TOP / "Makefile", self.top)
        for name in ("scripts", "configs"):
            shutil.copytree(TOP / name, self.top / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("base", "tests"):
            self.write(f"patches/v5.10/{name}", (TOP / "patches/v5.10" / name).read_text())
        self.write("patches/v5.10/series", "# The steps.\n")
        self.write("patches/v5.10/cover-letter.txt", "KVM: A toy\n\nWhat it is for.\n")
        (path / "gitconfig").write_text("[user]\n\tname = Toy Maker\n\temail = toy@example.invalid\n")
        self.env = {**os.environ, "GIT_CONFIG_GLOBAL": str(path / "gitconfig"), "WORKSHOP_PACKAGES": "have",
                    "GIT_CONFIG_NOSYSTEM": "1", "LINUX_SRC": str(self.toy)}
        self.toy_kernel(self.toy)

    def toy_kernel(self, where, version=(5, 10, 262)):
        for name, text in {
            "Makefile": "VERSION = {}\nPATCHLEVEL = {}\nSUBLEVEL = {}\n".format(*version),
            "virt/kvm/kvm_main.c": KVM_MAIN, "include/linux/kvm_host.h": "#define OLD 1\n", "MAINTAINERS": "KVM\n",
            # As the package has it:
            ".gitignore": "*.o\n/*\n!/debian/\n",
        }.items():
            self.write(where / name, text)

    def write(self, path, text):
        path = self.top / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def make(self, *args, ok=True, **env):
        done = subprocess.run(["make", "-s", *args], cwd=self.top, env={**self.env, **env}, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if ok:
            assert done.returncode == 0, done.stderr
        return done

    def refuses(self, *args, says, **env):
        """make ARGS fails with one line of reason that matches SAYS, without a traceback."""
        done = self.make(*args, ok=False, **env)
        assert done.returncode != 0, f"make {' '.join(args)} did not fail"
        assert "Traceback" not in done.stderr, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and re.search(says, errors[0]), f"not {says!r}: {done.stderr}"
        return errors[0]

    def git(self, *args, where=None, **env):
        return subprocess.run(["git", "-C", where or self.tree, *args], env={**self.env, **env}, text=True, check=True,
                              capture_output=True).stdout

    def commit(self, message, files, where=None, **kwargs):
        for path, text in [((where or self.tree) / name, text) for name, text in files.items()]:
            path.unlink() if text is None else self.write(path, text)
        self.git("add", "-A", where=where)
        self.git("commit", "-q", "-m", message, where=where, **{**MODE, **kwargs})

    def series(self):
        """Three steps: an edit; a new file that grows later, with a document; its growth and use."""
        self.make("tree")
        self.commit("KVM: Edit a line\n\nWhy.", {"virt/kvm/kvm_main.c": KVM_MAIN.replace("line_5;", "five;")})
        self.commit("KVM: Add a file\n\nWhy, säid.", {"virt/kvm/new.c": "int a;\n", "Documentation/new.rst": "New\n"})
        self.commit("KVM: Use the file\n\nWhy.\n\nSigned-off-by: A B <a@example.invalid>", {
            "virt/kvm/new.c": "int a;\nint b;\n", "virt/kvm/kvm_main.c":
            KVM_MAIN.replace("line_5;", "five;").replace("line_50;", "fifty;")})
        self.make("refresh")
        return self

    def checkpatch(self):
        """The toy kernel gets the real one's checkpatch.pl, and the workshop is a git tree: for make lint."""
        for name in ("checkpatch.pl", "spelling.txt", "const_structs.checkpatch"):
            (self.toy / "scripts").mkdir(exist_ok=True)
            shutil.copy2(TOP / "out/v5.10/linux/scripts" / name, self.toy / "scripts" / name)
        for name in ("COPYING", "CREDITS", "Kbuild", "README"):
            (self.toy / name).touch()
        for name in ("Documentation", "arch", "drivers", "fs", "init", "ipc", "kernel", "lib", "net"):
            self.write(self.toy / name / "keep", "")
        self.git("init", "-q", where=self.top)
        self.write(".gitignore", "/out/\n__pycache__/\n")
        return self

    def second_base(self):
        """A base is a directory: patches/v5.10-copy, with its tree."""
        shutil.copytree(self.top / "patches/v5.10", self.top / "patches/v5.10-copy")
        base = self.top / "patches/v5.10-copy/base"
        base.write_text(base.read_text().replace("DEFAULT=yes", ""))
        self.make("tree", "BASE=v5.10-copy")
        return self.top / "out/v5.10-copy/linux"

    def linux(self, path, **kwargs):
        """Somebody's git tree of the toy kernel."""
        where = self.top.parent / path
        self.toy_kernel(where, **kwargs)
        self.git("init", "-q", where=where)
        (where / ".gitignore").write_text("*.o\n")
        self.commit("Linux", {}, where=where)
        return where

    def snapshot(self, where=None):
        """What a failed command must not change: HEAD, branches and work tree."""
        return [self.git(*args, where=where) for args in (
            ("rev-parse", "HEAD"), ("status", "--porcelain"), ("for-each-ref",), ("diff", "HEAD"))]

    def patches(self):
        files = [path for path in sorted(self.top.rglob("*")) if path.is_file()
                 and not {"out", "__pycache__"} & set(path.relative_to(self.top).parts)]
        return {str(path.relative_to(self.top)): (path.read_bytes(), path.stat().st_mode) for path in files}


def tree_once(box):
    """make tree: tag, a commit a step, path in the last line, nothing to do the second time"""
    box.series()
    done = box.make("tree")
    assert done.stdout.splitlines()[-1] == str(box.tree), done.stdout
    assert box.git("rev-list", "--count", "base..series").strip() == "3"
    assert box.git("log", "--format=%s %an %ad", "--date=format:%Y", "-1").strip() == "KVM: Use the file Toy Maker 2026"
    before = box.git("rev-parse", "HEAD")
    start = time.monotonic()
    assert "already there" in box.make("tree").stderr
    assert time.monotonic() - start < 2 and box.git("rev-parse", "HEAD") == before


def refresh_form(box):
    """make refresh: whole new files at their paths and last step, stages as diffs, no Signed-off-by"""
    box.series()
    patches = {name: data.decode() for name, (data, _) in box.patches().items() if name.startswith("patches/v5.10/00")}
    assert list(patches) == [f"patches/v5.10/000{n}-KVM-{s}.patch" for n, s in
                             ((1, "Edit-a-line"), (2, "Add-a-file"), (3, "Use-the-file"))], list(patches)
    _, second, third = patches.values()
    assert "New-file: Documentation/new.rst\n" in second and "+int a;" in second and "New-file: virt" not in second
    assert "New-file: virt/kvm/new.c\n" in third and "int b" not in third
    assert (box.top / "virt/kvm/new.c").read_text() == "int a;\nint b;\n"
    assert not any(re.search("^(Signed-off-by|From|index )", text, re.M) for text in patches.values())


def refresh_round(box):
    """make tree after make refresh keeps the content, and gives the same commits from nothing; then refresh changes nothing"""
    box.series()
    files, content = box.patches(), box.git("rev-parse", "HEAD^{tree}")
    box.make("tree")
    commits = box.git("rev-parse", "HEAD^{tree}", "HEAD", "base")
    assert commits.startswith(content)
    shutil.rmtree(box.top / "out")
    box.make("tree")
    box.make("refresh")
    assert box.patches() == files and box.git("rev-parse", "HEAD^{tree}", "HEAD", "base") == commits


def refresh_removes(box):
    """make refresh: a dropped step takes its patch and its new files along; the head of series stays"""
    box.series().make("tree")
    series = box.top / "patches/v5.10/series"
    box.git("reset", "-q", "--hard", "HEAD~2")
    box.make("refresh")
    assert not (box.top / "virt").exists() and not (box.top / "Documentation").exists()
    assert [path.name for path in series.parent.glob("0*")] == ["0001-KVM-Edit-a-line.patch"]
    assert series.read_text() == "# The steps.\n0001-KVM-Edit-a-line.patch\n"


def refresh_modes(box):
    """make refresh and make tree: a program stays one, a deleted and a renamed file too"""
    box.series().make("tree")
    tool = box.tree / "tools/tool.sh"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    box.git("mv", "include/linux/kvm_host.h", "include/linux/kvm_other.h")
    box.commit("KVM: Move things\n\nWhy.", {"MAINTAINERS": None})
    content = box.git("rev-parse", "HEAD^{tree}")
    box.make("refresh")
    box.make("tree")
    assert os.access(box.top / "tools/tool.sh", os.X_OK) and box.git("rev-parse", "HEAD^{tree}") == content


def refresh_refuses(box):
    """make refresh: no tree, uncommitted changes, a merge, a message that git am would cut, a path of ours"""
    box.refuses("refresh", says="run make tree first")
    box.series()
    files = box.patches()
    (box.tree / "MAINTAINERS").write_text("changed\n")
    box.refuses("refresh", says="uncommitted.*commit them")
    box.git("commit", "-q", "-a", "-m", "KVM: Cut\n\nOne\n---\nTwo")
    box.refuses("refresh", says="has a line ---")
    box.git("reset", "-q", "--hard", "HEAD~")
    box.commit("KVM: Overwrite", {"configs/kvm.config": "x\n"})
    box.refuses("refresh", says="configs/kvm.config would overwrite")
    box.git("reset", "-q", "--hard", "HEAD~")
    box.git("checkout", "-q", "-b", "side", "base")
    box.commit("Side", {"side": "x\n"})
    box.git("checkout", "-q", "series")
    box.git("merge", "-q", "-m", "Merge", "side")
    box.refuses("refresh", says="has a merge")
    assert box.patches() == files


def tree_keeps_edits(box):
    """make tree, distclean: commits and changes not in patches/ are kept, FORCE=1 throws them away"""
    box.series().make("tree")
    (box.tree / "MAINTAINERS").write_text("changed\n")
    before = box.snapshot()
    for target in ("tree", "series", "distclean"):
        box.refuses(target, says="uncommitted changes.*make refresh.*FORCE=1")
    assert box.snapshot() == before
    box.git("commit", "-q", "-a", "-m", "KVM: Mine")
    before = box.snapshot()
    box.refuses("tree", says="commits that are not in patches.*make refresh.*FORCE=1")
    assert box.snapshot() == before
    box.make("tree", "FORCE=1")
    assert "Use the file" in box.git("log", "-1")
    box.make("distclean")
    assert not (box.top / "out").exists()


def tree_interrupted(box):
    """make tree: what an interrupted one left behind is no obstacle"""
    box.series().make("tree")
    state = box.tree / ".git/workshop.json"
    state.write_text(state.read_text().replace('"switching": false', '"switching": true'))
    (box.tree / ".git/index.lock").touch()
    (box.tree / "virt/kvm/kvm_main.c").write_text("half\n")
    box.make("tree")
    assert not box.git("status", "--porcelain")
    shutil.rmtree(box.top / "out")
    (box.tree.parent / "linux.new/virt").mkdir(parents=True)
    box.make("tree")
    assert not (box.tree.parent / "linux.new").exists()


def tree_conflict(box):
    """make tree: a patch that does not apply is named with the tested version; the tree stays"""
    box.series().make("tree")
    before = box.snapshot()
    patch = box.top / "patches/v5.10/0003-KVM-Use-the-file.patch"
    patch.write_text(patch.read_text().replace("line_49", "other"))
    tested = re.search("^TESTED=(\\S+)", (box.top / "patches/v5.10/base").read_text(), re.M).group(1)
    box.refuses("tree", says=f"patch 3 of 3, 0003-KVM-Use-the-file.patch, does not apply.*{re.escape(tested)}")
    assert box.snapshot() == before


def tree_bad_patches(box):
    """make tree: a missing patch, new file, header or message end is named"""
    box.series()
    patch = box.top / "patches/v5.10/0002-KVM-Add-a-file.patch"
    text = patch.read_text()
    (box.top / "Documentation/new.rst").unlink()
    box.refuses("tree", says="New-file: Documentation/new.rst, which is not in the repository")
    patch.write_text(text.replace("Date: ", "When: "))
    box.refuses("tree", says="0002-KVM-Add-a-file.patch does not start with")
    patch.write_text(text.replace("\n---\n", "\n"))
    box.refuses("tree", says="no --- line")
    patch.unlink()
    box.refuses("tree", says="names 0002-KVM-Add-a-file.patch, which is not there")
    (box.top / "patches/v5.10/series").unlink()
    box.refuses("tree", says="series is missing")


def source_refused(box):
    """LINUX_SRC: missing, no kernel, another version, a broken tarball; nothing half-done is left"""
    other = box.top.parent / "other"
    box.toy_kernel(other, version=(6, 1, 1))
    (box.top.parent / "empty").mkdir()
    (box.top.parent / "bad.tar.xz").write_text("not a tarball")
    for source, says in (("nowhere", "does not exist"), ("empty", "LINUX_SRC=/.*empty is no tree of Linux"), ("other", "Linux 6.1.1.*wants 5.10"),
                         ("bad.tar.xz", "does not unpack")):
        box.refuses("tree", says=says, LINUX_SRC=str(box.top.parent / source))
        assert not [path for path in box.tree.parent.glob("linux*")], source
    subprocess.run(["tar", "-C", box.toy.parent, "-cf", box.top.parent / "good.tar", "toy"], check=True)
    box.make("tree", LINUX_SRC=str(box.top.parent / "good.tar"))


def source_git(box):
    """LINUX_SRC: a git tree's HEAD is taken; another source replaces the first unless there are edits"""
    box.make("tree")
    where = box.linux("somebody")
    (where / "MAINTAINERS").write_text("not committed\n")
    box.make("tree", LINUX_SRC=str(where))
    assert (box.tree / "MAINTAINERS").read_text() == "KVM\n"
    (box.tree / "MAINTAINERS").write_text("changed\n")
    box.refuses("tree", says="uncommitted changes", LINUX_SRC=str(box.toy))
    assert (box.tree / "MAINTAINERS").read_text() == "changed\n"


def no_network(box):
    """no network: one line that says so and how to go on without"""
    closed = "http://127.0.0.1:9"
    box.refuses("tree", says="network.*LINUX_SRC=", LINUX_SRC="", http_proxy=closed, https_proxy=closed)
    assert not list((box.top / "out/v5.10").glob("linux*"))


def not_archived(box):
    """a package that the archive lacks: one line that says so, and the items of its base are skipped"""
    from check import Context, elsewhere, run_item
    from source import ask_archive
    from workshop import Failure, Unavailable
    reason = None
    for says, kind in (("E: Unable to locate package x", Unavailable), ("404  Not Found", Unavailable), ("E: no route", Failure)):
        try:
            ask_archive(["sh", "-c", f"echo '{says}'; exit 100"], "workshop-test", "x of trixie", "give LINUX_SRC=")
        except Failure as failure:
            assert type(failure) is kind and "LINUX_SRC=" in str(failure), (says, failure)
            reason = failure if kind is Unavailable else reason
    ctx = Context.__new__(Context)
    ctx.kept, ctx.notes = {"base": reason}, []
    base = type("Toy", (), {"name": "base"})
    assert run_item("item", elsewhere(base, None), ctx)[0][1] == "SKIP" and "archive does not have" in ctx.notes[0], ctx.notes


def values(box):
    """unknown BASE, SERIES, CONFIG, ARCH, MODE, target: one line with the known ones"""
    box.series()
    for args, says in ((("tree", "BASE=v4"), "BASE=v4 is unknown: use one of v5.10"),
                       (("kernel", "SERIES=4"), r"SERIES=4 is unknown: use 0 \(pristine\) to 3"),
                       (("kernel", "SERIES=x"), "SERIES=x is unknown"),
                       (("kernel", "CONFIG=fast"), "CONFIG=fast is unknown: use one of .*debug"),
                       (("kernel", "ARCH=vax"), "ARCH=vax is unknown: use one of x86_64, arm64"),
                       (("boot", "MODE=fast"), "MODE=fast is unknown: use one of npt, npt0, tdp_mmu, legacy"),
                       (("boot", "CPU=vax"), "CPU=vax is unknown: use one of amd, intel"),
                       (("boot", "CPU=intel", "MODE=npt"), "MODE=npt is unknown: use one of ept, ept0, tdp_mmu, legacy"),
                       (("boot", "CPU=intel", "EMULATOR=qemu"), "EMULATOR=qemu is unknown: use one of bochs"),
                       (("boot", "CONFIG=fast"), "CONFIG=fast is unknown"),
                       (("run", "MODE=x"), "MODE=x is unknown"), (("lint", "BASE=x"), "BASE=x is unknown")):
        start = time.monotonic()
        box.refuses(*args, says=says)
        assert time.monotonic() - start < 3, args
    assert box.make("nothing", ok=False).returncode != 0


def races(box):
    """a data race in any file that the series brings to the kernel is ours"""
    from torture import ours
    from workshop import Base
    left = {str(path.relative_to(TOP)) for path in TOP.glob("virt/kvm/*.[ch]")} - ours(Base("v5.10"))
    assert not left, left


def mails(box):
    """make series: complete, signed off, the same again and on another day"""
    box.series()
    done = box.make("series")
    where = Path(done.stdout.splitlines()[-1])
    first = {path.name: path.read_text() for path in where.iterdir()}
    assert sorted(first) == ["0000-cover-letter.patch", "0001-KVM-Edit-a-line.patch", "0002-KVM-Add-a-file.patch",
                             "0003-KVM-Use-the-file.patch"], sorted(first)
    cover = first["0000-cover-letter.patch"]
    assert "Subject: [PATCH 5.10 0/3] KVM: A toy\n" in cover and "What it is for." in cover and "5.10.262" in cover
    assert "***" not in cover and "Toy Maker (3):" in cover and "virt/kvm/new.c" in cover
    assert all("Signed-off-by: Toy Maker <toy@example.invalid>" in text for name, text in first.items() if name > "0001")
    time.sleep(1.1)
    shutil.rmtree(box.top / "out")
    box.make("series")
    assert first == {path.name: path.read_text() for path in where.iterdir()}


def mails_refused(box):
    """make series: no step, no cover letter, no identity"""
    box.refuses("series", says="lists no patch")
    box.series()
    (box.top / "patches/v5.10/cover-letter.txt").rename(box.top / "cover")
    box.refuses("series", says="cover-letter.txt is missing")
    (box.top / "cover").rename(box.top / "patches/v5.10/cover-letter.txt")
    done = box.make("series", GIT_CONFIG_GLOBAL=os.devnull)
    assert "git config --global user.name" in done.stderr and done.stderr.count("no git identity") == 1, done.stderr


def mails_in_parts(box):
    """make series, am and refresh: a series in parts; the mails give exactly the tree"""
    box.series()
    series = box.top / "patches/v5.10/series"
    steps = series.read_text().splitlines(True)
    for lines, says in (([*steps[:2], "# Part: use\n", *steps[2:]], "steps before its first part"),
                        ([*steps, "# Part: end\n"], "a step behind it: # Part: end"),
                        ([steps[0], "# Part: a b\n", *steps[1:]], "a step behind it: # Part: a b")):
        series.write_text("".join(lines))
        box.refuses("series", says=says)
    marked = "".join([steps[0], "# Part: edit\n", *steps[1:3], "# Part: use\n", *steps[3:]])
    series.write_text(marked)
    box.refuses("series", says="cover-letter-edit.txt is missing")
    for part in ("edit", "use"):
        box.write(f"patches/v5.10/cover-letter-{part}.txt", f"KVM: To {part}\n\nWhy.\n")
    where = Path(box.make("series").stdout.splitlines()[-1])
    subjects = [re.search("^Subject: (.*)$", path.read_text(), re.M)[1] for path in sorted(where.rglob("*.patch"))]
    assert subjects == ["[PATCH 5.10 0/2] KVM: To edit", "[PATCH 5.10 1/2] KVM: Edit a line", "[PATCH 5.10 2/2] KVM: Add a file",
                        "[PATCH 5.10 0/1] KVM: To use", "[PATCH 5.10 1/1] KVM: Use the file"], subjects
    first = {path: path.read_text() for path in where.rglob("*.patch")}
    linux = box.linux("somebody")
    done = box.make("am", f"LINUX={linux}")
    assert first == {path: path.read_text() for path in where.rglob("*.patch")}
    assert len(done.stdout.splitlines()) == 3 and "Toy Maker" in box.git("log", "-1", "--format=%an", where=linux), done.stdout
    assert box.git("rev-parse", "HEAD^{tree}", where=linux) == box.git("rev-parse", "series^{tree}")
    # The parts stay, unless the first step of one goes.
    box.git("rebase", "-q", "-i", "base", GIT_SEQUENCE_EDITOR="sed -i 1d")
    box.refuses("refresh", says="part edit starts with KVM-Edit-a-line.patch, which is gone: name its first step")
    series.write_text("".join([*steps[:2], "# Part: edit\n", steps[2], "# Part: use\n", *steps[3:]]))
    box.make("refresh")
    assert series.read_text() == marked.replace(steps[1], "").replace("0002-", "0001-").replace("0003-", "0002-")


def am_conflict(box):
    """make am: a conflict in the middle is aborted cleanly, named with patch and base"""
    box.series()
    where = box.linux("somebody")
    box.commit("Mine", {"virt/kvm/kvm_main.c": KVM_MAIN.replace("line_50;", "mine;")}, where=where)
    (where / "untracked").write_text("mine\n")
    before = box.snapshot(where)
    box.refuses("am", f"LINUX={where}", says="patch 3 of 3, 0003-KVM-Use-the-file.patch, does not apply to Linux 5.10.262"
                ".*left as it was.*made for toy")
    assert box.snapshot(where) == before and (where / "untracked").read_text() == "mine\n"
    # A file in the way, which git am finds before it has begun with that patch.
    box.git("reset", "-q", "--hard", "HEAD~", where=where)
    (where / "virt/kvm/new.c").write_text("mine\n")
    before = box.snapshot(where)
    box.refuses("am", f"LINUX={where}", says="patch 2 of 3.*left as it was")
    assert box.snapshot(where) == before and (where / "virt/kvm/new.c").read_text() == "mine\n"


def am_refuses(box):
    """make am: no tree, no git, a subdirectory, another version, dirty, in the middle of a rebase"""
    box.series()
    where = box.linux("somebody")
    box.refuses("am", says="which tree")
    box.refuses("am", "LINUX=/nowhere", says="no directory")
    box.refuses("am", f"LINUX={box.toy}", says="not the top of a git tree")
    box.refuses("am", f"LINUX={where}/virt", says="not the top of a git tree")
    box.refuses("am", f"LINUX={box.linux('new', version=(6, 1, 1))}", says="Linux 6.1.1.*5.10.y")
    (where / "MAINTAINERS").write_text("mine\n")
    before = box.snapshot(where)
    box.refuses("am", f"LINUX={where}", says="uncommitted changes")
    assert box.snapshot(where) == before
    box.git("checkout", "-q", "MAINTAINERS", where=where)
    (where / ".git/rebase-apply").mkdir()
    box.refuses("am", f"LINUX={where}", says="in the middle of")


def lint_finds(box):
    """make lint: clean as it is; finds a Signed-off-by, white space, a spelling, a shell mistake, what checkpatch says"""
    box.checkpatch().make("tree")
    box.commit("KVM: Edit a line\n\nBecause of this.", {"virt/kvm/kvm_main.c": KVM_MAIN.replace("line_5;", "five;")})
    box.make("refresh")
    clean = box.make("lint", ok=False)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    patch = box.top / "patches/v5.10/0001-KVM-Edit-a-line.patch"
    text = patch.read_text()
    for path, content, says in (
            (patch, text.replace("this.", "this.\n\nSigned-off-by: A B <a@example.invalid>"), "person who exports"),
            (patch, text.replace("Because", "Becau" + "es"), "Becau" + "es"),
            (patch, text.replace("int five;", "int five ;"), "SPACING"),
            (box.top / "README.md", "blank \n", "README.md:1: trailing white space"),
            (box.top / "scripts/bad", "#!/bin/sh\ncd $1\n", "SC2086"),
            (box.top / "scripts/bad.py", "if:\n", "bad.py:1"),
            (box.top / "patches/v5.10/checkpatch", "LONG_LINE | x | why\n", "not needed any more")):
        had = path.read_text() if path.exists() else None
        path.write_text(content)
        done = box.make("lint", ok=False)
        assert done.returncode and says in done.stdout, f"{says}: {done.stdout}{done.stderr}"
        path.unlink() if had is None else path.write_text(had)


def another_base(box):
    """another base: a directory is enough for make tree, series, am, lint and refresh"""
    box.checkpatch().series()
    tree = box.second_base()
    assert box.git("rev-parse", "HEAD^{tree}", where=tree) == box.git("rev-parse", "HEAD^{tree}")
    assert box.make("series", "BASE=v5.10-copy").stdout.splitlines()[-1] == str(tree.parent / "mails")
    where = box.top.parent / "somebody"
    box.git("clone", "-q", tree, where)
    box.git("reset", "-q", "--hard", "base", where=where)
    box.make("am", "BASE=v5.10-copy", f"LINUX={where}")
    assert box.git("rev-parse", "HEAD^{tree}", where=where) == box.git("rev-parse", "HEAD^{tree}", where=tree)
    assert "3 findings" in box.make("lint", "BASE=v5.10-copy", ok=False).stderr
    box.write("patches/v5.10-copy/checkpatch", "SPDX_LICENSE_TAG | . | a toy\nFILE_PATH_CHANGES | . | a toy\n")
    box.make("lint", "BASE=v5.10-copy")
    files = box.patches()
    box.make("refresh", "BASE=v5.10-copy")
    assert box.patches() == files


def shared_files(box):
    """make refresh: a change to a shared file builds the other series anew, unless that one has edits"""
    box.series()
    tree = box.second_base()
    box.commit("KVM: More\n\nWhy.", {"virt/kvm/new.c": "int more;\n"})
    files = box.patches()
    (tree / "MAINTAINERS").write_text("changed\n")
    box.refuses("refresh", says="v5.10-copy shares files.*uncommitted.*make refresh BASE=v5.10-copy first")
    assert box.patches() == files
    box.git("checkout", "-q", "MAINTAINERS", where=tree)
    assert "v5.10-copy shares files" in box.make("refresh").stderr
    assert box.git("show", "HEAD:virt/kvm/new.c", where=tree) == "int more;\n"
    # What only one of them has goes, what both have stays.
    box.git("reset", "-q", "--hard", "base")
    box.make("refresh")
    assert (box.top / "virt/kvm/new.c").exists()
    # A new file that differs from another base's stays in its patch, until it is the same.
    box.commit("KVM: Both\n\nWhy.", {"virt/kvm/both.c": "int a;\n"}, where=tree)
    box.make("refresh", "BASE=v5.10-copy")
    for content, whole in (("int b;\n", False), ("int a;\n", True)):
        box.git("reset", "-q", "--hard", "base")
        box.commit("KVM: Both\n\nWhy.", {"virt/kvm/both.c": content})
        box.make("refresh")
        patch = (box.top / "patches/v5.10/0001-KVM-Both.patch").read_text()
        assert ("New-file: virt/kvm/both.c\n" in patch, "+int b;" in patch) == (whole, not whole)
        assert (box.top / "virt/kvm/both.c").read_text() == "int a;\n"


def own_file(box):
    """patches/BASE/own: comes before the shared file, both ways; lint finds a long one, and one that no step brings"""
    box.checkpatch().series()
    own = box.top / "patches/v5.10-copy/own"
    tree = box.second_base()
    box.write(own / "virt/kvm/new.c", "int own;\n")
    box.make("tree", "BASE=v5.10-copy")
    assert box.git("show", "HEAD:virt/kvm/new.c", where=tree) == "int own;\n"
    box.commit("KVM: Own\n\nWhy.", {"virt/kvm/new.c": "int own;\n" * 151}, where=tree)
    box.make("refresh", "BASE=v5.10-copy")
    assert (own / "virt/kvm/new.c").read_text().count("own") == 151
    assert (box.top / "virt/kvm/new.c").read_text() == "int a;\nint b;\n"
    box.write(own / "virt/kvm/old.c", "int old;\n")
    said = box.make("lint", "BASE=v5.10-copy", ok=False).stdout
    assert "new.c: 151 lines, more than 150" in said and "old.c: no step brings it" in said, said
    box.git("reset", "-q", "--hard", "base", where=tree)
    box.make("refresh", "BASE=v5.10-copy")
    assert not (own / "virt/kvm/new.c").exists() and (box.top / "virt/kvm/new.c").exists()


def runs_again(box):
    """a failed test runs again in fresh boots, and is reported; what always fails and a warning stay failures"""
    from boot import Boot, Test, retried
    verdicts = {"good": ["PASS"], "late": ["FAIL", "FAIL", "PASS"], "hangs": ["HANG", "PASS"], "bad": ["NOT RUN", "FAIL"],
                "skips": ["NOT RUN", "SKIP"]}
    boots = []

    def attempt(left, log):
        one = Boot("toy", box.top / log)
        boots.append([test.name for test in left])
        one.results = [(test.name, verdicts[test.name][min(len(boots), len(verdicts[test.name])) - 1], 1.0)
                       for test in left]
        one.splats = [("late", "BUG")] if len(boots) == 2 else []
        one.words = {"late": ": not ok 1 cause"} if len(boots) == 2 else {}
        return one

    result = retried(attempt, "log", [Test(name, 1, "", None) for name in verdicts],
                     lambda _, verdict: verdict in ("PASS", "SKIP"))
    assert boots == [[*verdicts], ["late", "bad", "skips", "hangs"], ["late", "bad"]], boots
    assert [verdict for _, verdict, _ in result.results] == ["PASS", "PASS", "PASS", "FAIL", "SKIP"], result.results
    assert result.splats and result.console.parent.name == "log-2", result.console
    assert result.history["good"].startswith("PASS (") and ", then" not in result.history["good"]
    assert re.fullmatch(r"FAIL \(\S+log/results\), then FAIL \(\S+log-2/results: not ok 1 cause\), then PASS \(\S+log-3/results\)",
                        result.history["late"]), result.history["late"]


def excerpt(box):
    """the first warning of a kernel log is kept with what follows it"""
    from boot import Boot, Test, collect
    one = Boot("toy", box.top)
    one.log.write_text("@boot 5.10 1.0 EPYC\n@start good\n@end good 0 1.0 2.0\n")
    one.console.write_text("ok\nWARNING: a\n" + "".join(f"line {number}\n" for number in range(20)) + "BUG: b\n")
    collect(one, [Test("good", 9, "", None)])
    assert [line for _, line in one.splats] == ["WARNING: a", "BUG: b"], one.splats
    assert one.excerpt[0] == "WARNING: a" and one.excerpt[-1] == "line 14", one.excerpt


def disk_full(box):
    """disk full: one line that says so, and the next try works"""
    (box.top / "out").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", box.top / "out"], check=False,
                      capture_output=True).returncode:
        return "skipped: needs root to mount a small file system"
    try:
        box.refuses("tree", says="free some space")
    finally:
        subprocess.run(["umount", box.top / "out"], check=True)
    box.make("tree")
    return None


def helps(box):
    """--help of every program, and make help"""
    for path in sorted((box.top / "scripts").rglob("*")):
        if path.is_file() and os.access(path, os.X_OK) and path.name not in ("init", "workshop.py"):
            done = subprocess.run([path, "--help"], env=box.env, capture_output=True, text=True, check=False)
            assert done.returncode == 0 and "usage" in done.stdout, path.name
    assert "make run" in box.make("help").stdout and box.make().stdout == box.make("help").stdout


# A test is a function of the box alone; its docstring is its name.
CASES = [one for one in list(globals().values()) if inspect.isfunction(one) and inspect.getfullargspec(one).args == ["box"]]


def run_case(function):
    """(name, verdict, seconds, detail) of a case."""
    start = time.monotonic()
    verdict, detail = "PASS", ""
    with tempfile.TemporaryDirectory(prefix="workshop-") as temp:
        try:
            detail = function(Sandbox(Path(temp))) or ""
            verdict = "SKIP" if detail else "PASS"
        except (AssertionError, subprocess.CalledProcessError) as error:
            verdict, detail = "FAIL", f"{error} {getattr(error, 'stderr', '') or ''}".strip()
    return function.__name__, verdict, time.monotonic() - start, detail


def run_cases(functions):
    """The results of run_case() for all FUNCTIONS, in their order; each has a sandbox of its own."""
    with ThreadPoolExecutor(int(NPROC)) as pool:
        yield from pool.map(run_case, functions)


def command(*names):
    unknown = set(names) - {function.__name__ for function in CASES}
    if unknown:
        raise Failure(f"no test is named {', '.join(sorted(unknown))}")
    failed = 0
    wanted = [function for function in CASES if not names or function.__name__ in names]
    for function, (name, verdict, seconds, detail) in zip(wanted, run_cases(wanted)):
        failed += verdict == "FAIL"
        print(f"{verdict} {name}: {function.__doc__} ({took(seconds)})", flush=True)
        if detail:
            note(detail)
    return 1 if failed else 0


if __name__ == "__main__":
    main(__doc__, command)
