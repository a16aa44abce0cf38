# SPDX-License-Identifier: GPL-2.0
"""Shared by all programs: paths, bases, stages, logs, errors, git."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "out"
NPROC = str(len(os.sched_getaffinity(0)))

# Variables of our make must not reach the kernel's make, nor those that name a git tree our git.
for _name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "GNUMAKEFLAGS",
              *(name for name in os.environ if re.match("GIT_(DIR|WORK|INDEX|OBJECT|PREFIX)", name))):
    os.environ.pop(_name, None)
VARS = {name: os.environ.pop(name, "") for name in
        ("BASE", "SERIES", "CONFIG", "ARCH", "TESTS", "APPEND", "CPU", "MODE", "EMULATOR", "FORCE", "LINUX", "LINUX_SRC",
         "QEMU", "QEMU_SRC", "ATOMIC", "MACHINE", "STEPS", "ARCHS", "LINK", "QUICK", "ROUNDS", "MINUTES", "PEERS", "SLOTS",
         "LIMIT", "GAP", "TRUST")}
os.environ.update(LC_ALL="C.UTF-8", GIT_TERMINAL_PROMPT="0")


class Failure(Exception):
    """An error that the user can fix: one line with the reason and what to do, and a log."""

    def __init__(self, text, log=None):
        super().__init__(text)
        self.log = log


class Unavailable(Failure):
    """The archive lacks something: tests of it are skipped."""


def pretty(path):
    """PATH, relative to the top of the repository."""
    path = Path(path)
    return str(path.relative_to(TOP)) if path.is_relative_to(TOP) else str(path)


def choice(name, allowed, default):
    """The make variable NAME, which must be one of ALLOWED."""
    value = VARS[name] or default
    if value not in allowed:
        raise Failure(f"{name}={value} is unknown: use one of {', '.join(x or '(empty)' for x in allowed)}")
    return value


def number_of(name, default="", least=1):
    """The make variable NAME as a number."""
    value = VARS[name] or default
    if not re.fullmatch(r"\d+", value) or int(value) < least:
        raise Failure(f"{name}={value} is wrong: give a number from {least} on")
    return int(value)


def facts(path):
    """The NAME=VALUE lines of PATH, in shell syntax."""
    return dict(word.split("=", 1) for word in shlex.split(read(path), comments=True)) if path.exists() else {}


class Base:
    """The source a series is for: its files base and tests in WHERE/NAME, and its places under out/."""

    def __init__(self, name=None, where=TOP / "patches"):
        known = {path.parent.name: facts(path) for path in sorted(where.glob("*/base"))}
        name = name or VARS["BASE"] or next((one for one in known if "DEFAULT" in known[one]), "")
        if name not in known:
            raise Failure(f"BASE={name} is unknown: use one of {', '.join(known)}")
        self.name, self.patches, self.out = name, where / name, OUT / name
        self.vars = known[name] | facts(self.patches / "tests")
        self.project = {"kernel": "Linux", "qemu": "QEMU"}[self["KIND"]]
        self.tree = self.out / self.project.lower()

    def __getitem__(self, key):
        return self.vars.get(key, "")

    def words(self, key):
        return self[key].split()

    def file(self, path):
        """Where the new file PATH is: the base's own version, or the one that all bases share."""
        own = self.patches / "own" / path
        return own if own.exists() else TOP / path


def bases():
    return [Base(path.parent.name) for path in sorted(TOP.glob("patches/*/base"))]


# ---------------------------------------------------------------- progress and logs

def note(text):
    print(text, file=sys.stderr, flush=True)


def took(seconds):
    seconds = int(seconds)
    return f"{seconds // 60}m{seconds % 60:02}s" if seconds >= 60 else f"{seconds}s"


class stage:
    """with stage("building"): print "[2/6] building … 1m58s", and .note. Silent inside another stage."""

    total = count = depth = 0

    def __init__(self, text):
        self.text, self.note, self.start, self.done = text, "", time.monotonic(), threading.Event()

    @classmethod
    def plan(cls, total):
        cls.count, cls.total = 0, total

    def _tick(self):
        while sys.stderr.isatty():
            over = self.done.wait(1)
            print(f"\r{self.head} … {took(time.monotonic() - self.start)}{self.note}\033[K", end="", file=sys.stderr, flush=True)
            if over:
                return

    def __enter__(self):
        stage.depth += 1
        if stage.depth == 1:
            stage.count += 1
            self.head = f"[{stage.count}/{max(stage.total, stage.count)}] {self.text}"
            print(f"{self.head} … ", end="", file=sys.stderr, flush=True)
            self.ticker = threading.Thread(target=self._tick, daemon=True)
            self.ticker.start()
        return self

    def __exit__(self, kind, value, traceback):
        stage.depth -= 1
        if not stage.depth:
            self.done.set()
            self.ticker.join()
            note(" failed" if kind else "" if sys.stderr.isatty() else took(time.monotonic() - self.start) + self.note)


def run(cmd, log, what, cwd=None, env=None, append=False, **kwargs):
    """Run CMD with its output in out/log/LOG; WHAT is the error if it fails."""
    path = OUT / "log" / log
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a" if append else "w", encoding="utf-8") as out:
        out.write(f"$ {shlex.join(map(str, cmd))}\n")
        out.flush()
        try:
            done = subprocess.run([str(c) for c in cmd], cwd=cwd, env={**os.environ, **(env or {})},
                                  stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                  check=False, **kwargs)
        except FileNotFoundError as missing:
            raise Failure(f"{what}: there is no {missing.filename}") from None
    if done.returncode:
        text = path.read_text(encoding="utf-8", errors="replace")
        if "No space left on device" in text:
            what += " (disk full: free some space and repeat)"
        raise Failure(what, path)
    return path


def table(head, rows):
    rows = [head, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows)


def install(*groups):
    """Install what parts of the workshop need."""
    if subprocess.run([TOP / "scripts/install-deps", *groups], check=False).returncode:
        raise Failure("packages are missing")


def main(doc, function, commands=()):
    """Run a program: --help; the first word is one of COMMANDS; errors are printed as one line, after the end of their log."""
    if any(arg in ("-h", "--help") for arg in sys.argv[1:]):
        print(doc.strip())
        sys.exit(0)
    try:
        if commands and not set(sys.argv[1:2]) & set(commands):
            raise Failure(f"{pretty(sys.argv[0])}: give one of {', '.join(commands)} (see --help)")
        sys.exit(function(*sys.argv[1:]))
    except Failure as failure:
        where = ""
        if failure.log:
            note("\n".join("    " + line for line in read(failure.log).splitlines()[-15:]))
            where = f" (all of it: {pretty(failure.log)})"
        note(f"error: {failure}{where}")
    except KeyboardInterrupt:
        note("\ninterrupted: run the same command to continue")
        sys.exit(130)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        note(f"error: disk full at {error.filename}: free some space and repeat")
    sys.exit(1)


# ---------------------------------------------------------------- files

@contextlib.contextmanager
def lock(path):
    """Hold the lock PATH."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"waiting for another command of the workshop ({pretty(path)})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(path, data):
    """Write DATA to PATH atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    temp.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape"))
    temp.replace(path)


def read(path):
    return Path(path).read_text(encoding="utf-8", errors="surrogateescape")


def remove(path):
    if path.exists():
        shutil.rmtree(path)


@contextlib.contextmanager
def stage_dir(path):
    """A temporary directory at PATH."""
    remove(path)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        remove(path)


def digest(*parts):
    """A hash of PARTS."""
    sha = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")
        sha.update(b"%d:" % len(data) + data)
    return sha.hexdigest()[:32]


# ---------------------------------------------------------------- git

# Do not depend on the user's settings.
QUIET_GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def git(repo, *args, stdin=None, env=None, ok=(0,), own=True):
    """The output of git in REPO; OWN repositories ignore the user's configuration."""
    done = subprocess.run(["git", "-C", str(repo), *map(str, args)], capture_output=True, check=False,
                          input=stdin.encode("utf-8", "surrogateescape") if stdin is not None else b"",
                          env={**os.environ, **(QUIET_GIT if own else {}), **(env or {})})
    if done.returncode not in ok:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        raise Failure(f"git {args[0]} in {pretty(repo)}: {said[0] if said else done.returncode}")
    return done.stdout.decode("utf-8", "surrogateescape")


def identity():
    """(name, mail, whether they are real) of the person who builds and exports the series."""
    found = re.match(r"(.+) <(.+)> ", git(TOP, "-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT", own=False, ok=(0, 128),
                                             env={"GIT_AUTHOR_DATE": ""}))
    return (found[1], found[2], True) if found else ("Nobody Yet", "nobody@example.invalid", False)


@functools.cache
def person():
    """identity() as git's environment."""
    name, mail, real = identity()
    if not real:
        note('note: no git identity, using a placeholder: git config --global user.name "You" '
             "(and user.email)")
    return {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", name), ("EMAIL", mail))}
