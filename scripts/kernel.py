#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make kernel [SERIES=0|N] [CONFIG=debug|kcsan|bundle] [ARCH=x86_64|arm64]   prints the path of the image
       make selftests [ARCH=...]                                    prints their directory

SERIES=0 is the pristine kernel, SERIES=N the kernel after step N (default: the whole series). Each has its build
directory in out/BASE/build, with the compiler's warnings in the file "warnings".
"""

import functools
import os
import re
import shutil
import subprocess
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from tree import materialise
from workshop import (NPROC, OUT, TOP, VARS, Base, Failure, choice, digest, git, install, lock, main, note, pretty, read, remove,
                      run, stage, write)

# Without depend mode, what is not in the cache is preprocessed twice, which takes a quarter of the time.
CCACHE = {"PATH": f"/usr/lib/ccache:{os.environ['PATH']}", "CCACHE_DIR": str(OUT / "ccache"), "CCACHE_DEPEND": "1"}
CONFIGS = ("", "debug", "kcsan", "bundle")


class Arch:
    """How an architecture is built and booted; KERNEL is what the kernel's make calls it. CROSS is the prefix of its tools,
    or LLVM=-VERSION."""

    def __init__(self, name, cross, target, image, tools, kernel=None):
        self.name, self.cross, self.target, self.image, self.tools = name, cross, target, image, tools
        self.kernel = kernel or name


ARCHS = {arch.name: arch for arch in (
    Arch("x86_64", "", "bzImage", "arch/x86/boot/bzImage", "x86_64"),
    Arch("arm64", "aarch64-linux-gnu-", "Image", "arch/arm64/boot/Image", "aarch64"),
)}


def arch_of():
    arch = ARCHS[choice("ARCH", tuple(ARCHS), "x86_64")]
    if arch.cross and os.uname().machine != arch.tools:
        install(arch.name)
    return arch


def fragment(base, name):
    """The config fragment NAME, with what BASE adds to it."""
    paths = [where / "configs" / f"{name}.config" for where in (TOP, base.patches)]
    return "".join(read(path) for path in paths if path.exists())


class Variant:
    """A kernel: which step (0: the base), which config, which architecture."""

    preset = "allnoconfig"      # what the fragments are added to

    def __init__(self, base, commits, step, config, arch):
        self.base, self.step, self.config, self.arch = base, step, config, arch
        self.commit = commits[step]
        self.name = {len(commits) - 1: "series", 0: "base"}.get(step, f"step-{step}")
        extra = [x for x in (config, arch.name if arch.name != "x86_64" else "") if x]
        self.suffix = "".join("-" + x for x in extra)
        self.dir = base.out / "build" / (self.name + self.suffix)
        self.title = f"{base.name}{'+' + self.name if step else ''}" + "".join(f" {x}" for x in extra)

    def fragments(self):
        names = ["kvm", self.arch.name, *([self.config] if self.config else [])]
        return "".join(fragment(self.base, name) for name in names)

    def demanded(self):
        """The fragments all of whose options must take effect."""
        return self.fragments()

    def variables(self):
        """More words for make: variables that no option sets."""
        path = TOP / "configs" / f"{self.config}.make"
        return [line for line in read(path).splitlines() if not line.startswith("#")] if path.exists() else []

    def sources(self):
        """What identifies all compiled files."""
        return git(self.base.tree, "rev-parse", self.commit + "^{tree}")

    def log(self):
        return f"{self.base.name}/build-{self.dir.name}"

    def stamp(self):
        return digest(self.sources(), self.fragments(), compiler(self.arch), *self.variables())


def child(base, parent, message, change):
    """The commit PARENT with what CHANGE, a function of the environment for git, does to an index; always the same."""
    index = {"GIT_INDEX_FILE": str(base.tree / f".git/workshop-{os.getpid()}.index")}
    who = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in
           (("NAME", "Workshop"), ("EMAIL", "workshop@example.invalid"), ("DATE", base["DATE"]))}
    try:
        git(base.tree, "read-tree", parent, env=index)
        change(index)
        tree = git(base.tree, "write-tree", env=index).strip()
    finally:
        Path(index["GIT_INDEX_FILE"]).unlink(missing_ok=True)
    return git(base.tree, "commit-tree", tree, "-p", parent, "-m", message, env=who).strip()


def wanted_step(commits, series=None):
    """The number of the step that SERIES selects (default: the last one)."""
    last = len(commits) - 1
    series = VARS["SERIES"] if series is None else series
    if series and not (series.isdigit() and int(series) <= last):
        raise Failure(f"SERIES={series} is unknown: use 0 (pristine) to {last} (the whole series)")
    return int(series) if series else last


def pick(base, commits, config=None, arch=None, series=None):
    """The Variant that the make variables select."""
    config = choice("CONFIG", CONFIGS, "") if config is None else config
    return Variant(base, commits, wanted_step(commits, series), config, arch or arch_of())


def source(base, commit):
    """The work tree for all builds, out/BASE/src, with COMMIT checked out (build.lock is held)."""
    src = base.out / "src"
    # A copy of the workshop must not use the original's tree.
    if not (src / ".git").exists() or f" {base.tree}/" not in read(src / ".git"):
        remove(src)
        git(base.tree, "worktree", "prune")
        git(base.tree, "worktree", "add", "-q", "--detach", src, commit)
    Path(git(src, "rev-parse", "--absolute-git-dir").strip(), "index.lock").unlink(missing_ok=True)
    # Only files that differ get a new time stamp.
    git(src, "checkout", "-q", "-f", "--detach", commit)
    return src


def make_args(arch, src):
    return ["make", "-C", src, f"-j{NPROC}", f"ARCH={arch.kernel}",
            *([arch.cross if "=" in arch.cross else f"CROSS_COMPILE={arch.cross}"] if arch.cross else [])]


@functools.cache
def compiler(arch):
    program = f"clang{arch.cross.partition('=')[2]}" if "=" in arch.cross else f"{arch.cross}gcc"
    if not shutil.which(program):
        raise Failure(f"there is no {program}: install it")
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def check_config(variant, fragments):
    """All options of FRAGMENTS must have taken effect."""
    options, got = (dict(re.findall(r"^(CONFIG_\w+)=(\S+)$", text, re.M)) for text in (fragments, read(variant.dir / ".config")))
    missed = [f"{option}={value}" for option, value in options.items() if got.get(option, "n") != value]
    if missed:
        raise Failure(f"Linux {variant.base.name} does not take {', '.join(missed)}: fix the fragments in configs/")


def build(variant):
    """Build the kernel, one stage; returns the path of its image."""
    base, arch = variant.base, variant.arch
    fragments = variant.fragments()
    stamp = variant.stamp()
    image, done = variant.dir / arch.image, variant.dir / "workshop-stamp"

    def ready():
        return done.exists() and done.read_text() == stamp and image.exists()

    # What is up to date does not wait for another build.
    with stage(f"building {variant.title}") as st, nullcontext() if ready() else lock(base.out / "build.lock"):
        if ready():
            st.note = " (up to date)"
            return image
        done.unlink(missing_ok=True)
        if shutil.disk_usage(base.out).free < 2 << 30:
            raise Failure(f"less than 2 GiB free under {pretty(base.out)}: free some space and repeat")
        src = source(base, variant.commit)
        seed(variant)
        env = {"KBUILD_BUILD_TIMESTAMP": "2020-12-13", "KBUILD_BUILD_USER": "workshop",
               "KBUILD_BUILD_HOST": "workshop", "KCONFIG_ALLCONFIG": str(variant.dir / "workshop.config"),
               **CCACHE}
        write(variant.dir / "workshop.config", fragments)
        make = [*make_args(arch, src), f"O={variant.dir}", f"LOCALVERSION=-{variant.name}"]
        log = variant.log()
        run([*make, variant.preset], log, f"configuring {variant.title} failed", env=env)
        check_config(variant, variant.demanded())
        # In depend mode, ccache does not see the .incbin by which bzImage has vmlinux in it, and takes an old one.
        for target in ("vmlinux", arch.target) if arch.target == "bzImage" else (arch.target,):
            path = run([*make, *target.split(), *variant.variables()], log, f"building {variant.title} failed", append=True,
                       env={**env, **({"CCACHE_DISABLE": "1"} if target == "bzImage" else {})})
        # Keep a warning until its file is compiled again.
        said = read(path)
        compiled = set(re.findall(r"^  CC +(?:\[M\] +)?(\S+)\.o$", said, re.M))
        warnings = variant.dir / "warnings"
        kept = [line for line in (read(warnings).splitlines() if warnings.exists() else [])
                if line.split(":")[0].rsplit(".", 1)[0] not in compiled]
        new = [line.replace(f"{src}/", "") for line in said.splitlines() if "warning:" in line.lower()]
        write(warnings, "".join(line + "\n" for line in sorted(set(kept + new))))
        write(done, stamp)
    return image


def new_warnings(variant, other):
    """The lines of VARIANT that OTHER does not have as often."""
    # Line numbers and offsets change with any edit.
    def place(line):
        return re.sub(r"\+0x[0-9a-f]+|(?<=:)\d+:", "", line)
    left = Counter(map(place, other))
    return [line for line in variant if left.subtract([place(line)]) or left[place(line)] < 0]


def seed(variant):
    """Start a new build directory as a copy of a finished one of the same config: only KVM is built again."""
    if (variant.dir / "vmlinux").exists():
        return
    others = [variant.dir.with_name(name + variant.suffix) for name in ("series", "base")]
    finished = [other for other in others if (other / "workshop-stamp").exists()]
    if finished:
        new = variant.dir.with_name(variant.dir.name + ".new")
        remove(new)
        remove(variant.dir)
        subprocess.run(["cp", "-a", "--reflink=auto", finished[0], new], check=True)
        (new / "workshop-stamp").unlink()
        # The name of the directory in objtool's commands would cause a rebuild of objtool, and thus of everything.
        for path in [*new.glob("tools/**/.*.cmd"), *new.glob("tools/**/.*.d")]:
            path.write_text(path.read_text().replace(f"{finished[0]}/", f"{variant.dir}/"))
        new.rename(variant.dir)
    variant.dir.mkdir(parents=True, exist_ok=True)


# ---------------------------------------------------------------- selftests

def programs(base, commit, arch):
    """The KVM selftests that the kernel's Makefile builds for ARCH."""
    makefile = git(base.tree, "show", f"{commit}:{base['SELFTESTS']}")

    def words(variable):
        for word in " ".join(re.findall(rf"^{variable} [:+]?= (.*)$", makefile, re.M)).split():
            inner = re.fullmatch(r"\$\((\w+)\)", word)
            yield from words(inner[1]) if inner else [word]

    return list(words(base[f"PROGRAMS_{arch.name}"]))


def selftests(base, commits, arch):
    """Build the series' KVM selftests, static, out of tree, one stage; returns (directory, names)."""
    names = programs(base, commits[-1], arch)
    where = base.out / "selftests" / arch.name
    # Their own files, and the headers for user space.
    stamp = digest(compiler(arch), *(git(base.tree, "rev-parse", f"{commits[-1]}:{path}") for path in (
        "tools/testing/selftests", "tools/include", "tools/arch", "include/uapi",
        f"arch/{'x86' if arch.name == 'x86_64' else arch.name}/include/uapi")))
    done = where / "stamp"

    def ready():
        return done.exists() and done.read_text() == stamp

    with stage("building the selftests") as st, nullcontext() if ready() else lock(base.out / "build.lock"):
        if ready():
            st.note = " (up to date)"
            return where, names
        remove(where)
        src = source(base, commits[-1])
        make = make_args(arch, src)
        log = f"{base.name}/selftests-{arch.name}"
        run([*make, f"O={where}/headers", f"INSTALL_HDR_PATH={where}/usr", "headers_install"], log,
            "installing the kernel's headers failed")
        kvm = src / "tools/testing/selftests/kvm"
        # Skip the Makefile's own headers_install: it builds in the source tree.
        run(["make", "-C", kvm, f"-j{NPROC}", *make[4:], f"OUTPUT={where}", "KSFT_KHDR_INSTALL=",
             f"INSTALL_HDR_PATH={where}/usr", f"KHDR_INCLUDES=-isystem {where}/usr/include",
             "LDFLAGS=-static -pthread -no-pie", f"LDLIBS={base['LDLIBS_' + arch.name]}"], log, "building the selftests failed", append=True,
            env={"ARCH": arch.name})
        subprocess.run([f"{arch.cross}strip", *(where / name for name in names)], check=True)
        write(done, stamp)
    return where, names


def command(what):
    base = Base()
    arch = arch_of()
    choice("CONFIG", CONFIGS, "")
    stage.plan(3)
    commits = materialise(base)
    if what == "kernel":
        variant = pick(base, commits, arch=arch)
        image = build(variant)
        warned = len(read(variant.dir / "warnings").splitlines())
        if warned:
            note(f"{warned} warnings, in {pretty(variant.dir / 'warnings')}")
        print(image)
    else:
        print(selftests(base, commits, arch)[0])


if __name__ == "__main__":
    main(__doc__, command, ("kernel", "selftests"))
