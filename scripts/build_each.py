#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: make build-each [STEPS="1 8-10"] [ARCHS="s390 ppc64"] [LINK=1] [QUICK=1]

Build each step of the series. Compile KVM of the pristine kernel and after each step for every architecture in COMPILED
of patches/BASE/base, and fail a step that adds a warning; boot x86_64 (ARCHS=boot) and run the tests RUN of
patches/BASE/tests. LINK=1 also links the pristine kernel and the last step with modpost, from small configs: vmlinux
and KVM's modules, on x86_64 with and without DRM; and it compiles both with W=1 and sparse. The configs are
configs/build-each/ARCH.config on top of the architecture's defconfig. QUICK=1 compiles only the files that a step
changes, and has the compiler parse those that include them.

Good results are cached, so it can be interrupted. A step that changes nothing an architecture compiles has the result
of the step before. Ends with a table; details are in
out/build-each/results.json, logs under out/log/BASE/build-each. Exit 1 if anything in the table is bad.
"""

import copy
import functools
import json
import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import qemu
from boot import SPLAT, boot, tests_of
from kernel import ARCHS, Arch, Variant, build, fragment, new_warnings, selftests, source
from machine import MACHINES, MODES
from tree import materialise, read_series
from workshop import NPROC, OUT, TOP, VARS, Base, Failure, digest, git, install, lock, main, note, pretty, read, remove, stage, table, took, write

EXTRA = ("linked", "strict")        # kinds of cells of only the pristine kernel and the last step
# What is not compiled. Of arch/, only the architecture's own directory is; arm64 uses files of arm.
UNREAD = ("Documentation", "MAINTAINERS", "samples", "arch", "tools", "tools/testing")
READ = {"x86_64": ("x86",), "i386": ("x86",), "arm64": ("arm64", "arm")}


class Target(Arch):
    """An architecture's KVM, compiled with DEFCONFIG (files of arch/*/configs; without any, it is only linked). GROUP of
    scripts/install-deps has the tools, if "cross" has not."""

    def __init__(self, name, kernel, cross, defconfig, kvm, group=""):
        # Left to itself, make compiles no module of a directory.
        super().__init__(name, cross, f"KBUILD_MODULES=1 {kvm}", "virt/kvm/kvm_main.o", "", kernel)
        self.defconfig, self.group = defconfig.split(), group


MALTA = "mips/configs/malta_kvm_defconfig"
TARGETS = {target.name: target for target in (
    Target("x86_64", "x86_64", "", "x86/configs/x86_64_defconfig", "arch/x86/kvm/ drivers/gpu/drm/i915/gvt/kvmgt.o"),
    Target("x86_64-nodrm", "x86_64", "", "", ""),
    Target("i386", "i386", "", "x86/configs/i386_defconfig", "arch/x86/kvm/"),
    Target("arm64", "arm64", "aarch64-linux-gnu-", "arm64/configs/defconfig", "arch/arm64/kvm/"),
    Target("s390", "s390", "s390x-linux-gnu-", "s390/configs/defconfig", "arch/s390/kvm/"),
    Target("ppc64", "powerpc", "powerpc64le-linux-gnu-", "powerpc/configs/ppc64_defconfig powerpc/configs/le.config",
           "arch/powerpc/kvm/"),
    Target("e500", "powerpc", "powerpc-linux-gnu-", " ".join(f"powerpc/configs/{name}.config" for name in (
        "mpc85xx_base", "85xx-32bit", "85xx-smp", "85xx-hw", "fsl-emb-nonhw")), "arch/powerpc/kvm/"),
    Target("mips-te", "mips", "mips64el-linux-gnuabi64-", MALTA, "arch/mips/kvm/"),
    Target("mips-vz", "mips", "mips64el-linux-gnuabi64-", MALTA, "arch/mips/kvm/"),
    Target("riscv", "riscv", "riscv64-linux-gnu-", "riscv/configs/defconfig", "arch/riscv/kvm/", "riscv"),
    Target("loongarch", "loongarch", "LLVM=-19", "loongarch/configs/loongson64_defconfig", "arch/loongarch/kvm/", "loongarch"),
)}


def target_of(name):
    """The Target NAME, with its tools installed."""
    target = TARGETS[name]
    if target.group:
        install(target.group)
    return target


class Cell(Variant):
    """A field of the table: a step built for an architecture."""

    kind, words = "", ""        # words: of its title

    def __init__(self, base, commits, step, arch, name):
        super().__init__(base, commits, step, "", arch)
        self.dir = base.out / "build" / f"each-{name}"

    def head(self):
        return f"{self.arch.name} {self.name}{self.words}"

    def log(self):
        return f"{self.base.name}/build-each/{self.dir.name.removeprefix('each-')}-{self.name}"

    def own(self):
        """Its directories in arch/."""
        return [f"arch/{name}" for name in READ.get(self.arch.kernel, (self.arch.kernel,))]

    def sources(self):
        lines = [line for paths in ([], ["tools/", "arch/Kconfig", *self.own()])
                 for line in git(self.base.tree, "ls-tree", self.commit, *paths).splitlines()]
        return "\n".join(line for line in lines if line.split("\t")[1] not in UNREAD)

    def key(self):
        """All that the result depends on."""
        return digest(self.kind, self.stamp(), self.arch.target)

    @functools.cached_property
    def record(self):
        # In the build directory: only the first build there shows the warnings of files that no step changes.
        return self.dir / "cells" / self.key()

    def finished(self):
        """Whether the last build in the directory was completed, so that all of its warnings are known."""
        return (self.dir / "workshop-stamp").exists()

    def kvm(self):
        """The directories of KVM."""
        return {"virt/kvm", f"{self.own()[0]}/kvm",
                *(path.rpartition("/")[0] for path in self.arch.target.split() if "/" in path)}

    def forget(self):
        """Have all of KVM compiled again."""
        for path in self.kvm():
            remove(self.dir / path)
        for name in ("workshop-stamp", "warnings"):
            (self.dir / name).unlink(missing_ok=True)


class Compiled(Cell):
    """A step compiled, with the architecture's defconfig."""

    kind, preset = "compiled", "alldefconfig"

    def __init__(self, base, commits, step, arch, suffix="", **changes):
        self.target, self.defconfig = arch, arch.defconfig
        super().__init__(base, commits, step, Arch(arch.name, arch.cross, changes.get("target", arch.target),
                                                   changes.get("image", arch.image), "", arch.kernel), arch.name + suffix)
        self.suffix = f"-each-{arch.name}{suffix}"        # no other build directory is like this one

    def demanded(self):
        return fragment(self.base, f"build-each/{self.arch.name}")

    def defaults(self):
        return "".join(git(self.base.tree, "show", f"{self.commit}:arch/{path}") for path in self.defconfig)

    def fragments(self):
        """The defconfig and the fragment; of an option that is in both, the latter's line."""
        options = {}
        for line in (self.defaults() + self.demanded()).splitlines():
            option = re.match(r"(?:# )?(CONFIG_\w+)(?:=| is not set)", line)
            if option:
                options[option.group(1)] = line
        return "".join(line + "\n" for line in options.values())

    def work(self, before):
        """Build it; before() returns the pristine kernel's warnings. Returns changes to the default result."""
        if not self.finished():
            self.forget()
        if not build(self).exists():
            raise Failure(f"{self.head()}: KVM was not compiled: fix configs/build-each/{self.arch.name}.config")
        warnings = self.warnings()
        new = new_warnings(warnings, before()) if self.step and warnings else []
        return {"verdict": "WARN" if new else "ok", "detail": "; ".join(new), "warnings": warnings,
                "compiled": self.compiled()}

    def warnings(self):
        return read(self.dir / "warnings").splitlines()

    def compiled(self):
        """The source files of KVM's objects."""
        lists = [path for name in self.kvm() for pattern in ("*.mod", ".built-in.a.cmd")
                 for path in (self.dir / name).rglob(pattern)]
        objects = " ".join([self.arch.target, *(read(path).partition("\n")[0] for path in lists)])
        return sorted({os.path.normpath(name) + ".c" for name in re.findall(r"(\S+)\.o\b", objects)})


class Parsed(Compiled):
    """A step of which only the files that it changes are compiled; what includes them is parsed, for errors and warnings."""

    kind = "parsed"

    def __init__(self, base, commits, step, arch):
        super().__init__(base, commits, step, arch, "-parsed")
        self.src = self.base.out / "src"

    def commands(self, touched):
        """For the C files that TOUCHED, a set of paths, affects: (the command as kbuild wrote it down, the file if it is
        compiled rather than only parsed)."""
        for path in (path for name in self.kvm() for path in (self.dir / name).rglob(".*.o.cmd")):
            text = read(path)
            found = re.match(r"(?:saved)?cmd_\S+ := (.+? -c -o \S+ (\S+\.c))(?: ;|$)", text, re.M)
            # The last run's own list of what it read is newer.
            listed = path.with_suffix(".d")
            files = re.findall(r"[^\s:\\]+", read(listed) if listed.exists() else text)
            read_too = {os.path.relpath(self.dir / name, self.src) for name in files if name.endswith((".c", ".h"))}
            if found and read_too & touched:
                file = os.path.relpath(self.dir / found[2], self.src)
                yield (found[1], file) if file in touched else (f"{found[1]} -fsyntax-only", None)

    def work(self, before):
        seen = self.dir / "parsed"      # the commit whose files were compiled or parsed last
        if not (self.finished() and seen.exists()):
            result = super().work(before)
            write(seen, self.commit)
            return result
        touched = set(git(self.base.tree, "diff", "--name-only", "--no-renames", read(seen), self.commit).split())
        seen.unlink()
        said = []
        if any(re.search(r"^(virt|arch)/(.*/)?(Makefile|Kbuild|Kconfig)[^/]*$", path) for path in touched):
            # kbuild has to say how the files that are new are compiled.
            own = f"{self.own()[0]}/kvm"
            objects = [f"{own}/../../../{path[:-2]}.o" if path.startswith("virt/") else f"{path[:-2]}.o"
                       for path in git(self.base.tree, "ls-tree", "--name-only", self.commit, *touched).split()
                       if path.endswith(".c") and path.startswith(("virt/kvm/", own))]
            part = copy.copy(self)
            part.arch = copy.copy(self.arch)
            part.arch.target = f"KBUILD_MODULES=1 {' '.join(objects) or 'prepare'}"
            build(part)
            said = self.warnings()
        with lock(self.base.out / "build.lock"), ThreadPoolExecutor(int(NPROC)) as pool:
            source(self.base, self.commit)
            commands = list(self.commands(touched))
            runs = list(pool.map(lambda command: subprocess.run(command[0], shell=True, cwd=self.dir, text=True,
                                                                capture_output=True), commands))
        log = OUT / "log" / self.log()
        write(log, "".join(f"{run.args}\n{run.stderr}" for run in runs))
        if any(run.returncode for run in runs):
            raise Failure(f"{self.head()}: compiling failed", log)
        said += [line.replace(f"{self.src}/", "") for run in runs for line in run.stderr.splitlines() if "warning:" in line]
        new = new_warnings(said, before()) if said else []
        write(seen, self.commit)
        return {"verdict": "WARN" if new else "ok", "detail": "; ".join(new),
                "compiled": sorted({*self.compiled(), *(file for _, file in commands if file)})}


class Link(Compiled):
    """A step linked, with a minimal config: what KVM needs, KVM itself has to select."""

    kind, words, preset = "linked", " linked", "allnoconfig"

    def __init__(self, base, commits, step, arch):
        super().__init__(base, commits, step, arch, "-link", target="vmlinux modules", image="vmlinux")

    def defaults(self):
        return fragment(self.base, "kvm")

    def work(self, before):
        result = super().work(before)
        modules = sorted(line.rpartition("/")[2] for line in read(self.dir / "modules.order").splitlines())
        if "=m\n" in self.demanded() and not any(name.startswith("kvm") for name in modules):
            raise Failure(f"{pretty(self.dir)} has no module of KVM: fix configs/build-each/{self.arch.name}.config")
        return {**result, "detail": result["detail"] or " ".join(modules)}


class Strict(Compiled):
    """A step compiled with W=1, kernel-doc's warnings, and sparse."""

    kind, words = "strict", " with sparse and W=1"

    def __init__(self, base, commits, step, arch):
        # powerpc would stop at the first warning.
        super().__init__(base, commits, step, arch, "-strict", target=f"W=1 C=1 CONFIG_PPC_WERROR= {arch.target}")

    def key(self):
        return digest(super().key(), sparse())

    def finished(self):
        """Never: only the log has what sparse says."""
        return False

    def warnings(self):
        # Once each: a header's are repeated for each file that includes it.
        src = self.base.out / "src"
        return list(dict.fromkeys(line.replace(f"{src}/", "") for line in read(OUT / "log" / self.log()).splitlines()
                                  if re.search(r"(warning|error): ", line)))


class Booted(Cell):
    """A step booted on x86_64, with the workshop's own config."""

    kind, words = "booted", " booted"
    machine = MODES["amd", "npt"].machines[0]

    def __init__(self, base, commits, step, tests):
        super().__init__(base, commits, step, ARCHS["x86_64"], "boot")
        self.tests = tests

    def key(self):
        return digest(super().key(), *(test.source.read_bytes() for test in self.tests),
                      self.machine, MACHINES[self.machine].identity(), SPLAT.pattern, read(TOP / "scripts/init"))

    def work(self, before):
        result = boot(self.title, f"{self.log()}-run", build(self), self.tests, self.machine)
        bad = [f"{name} {verdict}: {pretty(result.log)}" for name, verdict, _ in result.results if verdict != "PASS"]
        bad += [f"{text}: {pretty(result.console)}" for _, text in result.splats[:1]]
        if bad:
            raise Failure("; ".join(bad))
        return {"detail": ", ".join(f"{name} {seconds:.1f} s" for name, _, seconds in result.results)}


# ---------------------------------------------------------------- the cells

def reason(failure):
    """Why a cell failed: the compiler's first error rather than make's."""
    if not failure.log:
        return str(failure)
    error = re.search(r"^.*(?:\berror: |\bERROR: |undefined reference|undefined!).*$", read(failure.log), re.M)
    return f"{error.group() if error else failure}: {pretty(failure.log)}"


def done(cell):
    """The kept result of a cell, or None."""
    return json.loads(read(cell.record)) if cell.record.exists() else None


@functools.cache
def sparse():
    return subprocess.run(["sparse", "--version"], capture_output=True, text=True, check=True).stdout


def do(cell, before):
    """The result of a cell; good ones are cached."""
    start = time.monotonic()
    # make compiles what changed; if that fails, compile all of KVM.
    for last in (not cell.finished(), True):
        result = {"verdict": "ok", "detail": "", "warnings": [], "compiled": []}
        try:
            result.update(cell.work(before))
        except Failure as failure:
            result.update(verdict="FAIL", detail=reason(failure))
        if result["verdict"] == "ok" or last:
            break
        cell.forget()
    result["seconds"] = round(time.monotonic() - start, 1)
    if result["verdict"] == "ok":
        write(cell.record, json.dumps(result))
    return result


def wanted_steps(last):
    """STEPS="1 8-10" as a list; 0, the pristine kernel, is always in it for comparison."""
    steps = {0}
    for word in (VARS["STEPS"] or f"0-{last}").replace(",", " ").split():
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        first, end = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= end <= last:
            raise Failure(f"STEPS={VARS['STEPS']} is unknown: use numbers and ranges from 0 (pristine) to {last}")
        steps.update(range(first, end + 1))
    return sorted(steps)


def wanted_archs(base):
    known = [*base.words("COMPILED"), "boot"]
    archs = VARS["ARCHS"].replace(",", " ").split() or known
    unknown = [name for name in archs if name not in known]
    if unknown:
        raise Failure(f"ARCHS={' '.join(unknown)} is unknown: use some of {', '.join(known)}")
    return archs


def plan(base, commits, archs, steps, tests):
    """The cells, in an order that changes few files in a build directory."""
    for name in archs:
        if name == "boot":
            yield from (Booted(base, commits, step, tests) for step in steps)
        elif TARGETS[name].defconfig:
            kind = Parsed if VARS["QUICK"] else Compiled
            target = target_of(name)
            yield from (kind(base, commits, step, target) for step in steps)
    if VARS["LINK"]:
        # The fragments of those with a group are too small for that: riscv's KVM needs vectors.
        yield from (kind(base, commits, step, TARGETS[name]) for kind in (Link, Strict) for name in archs
                    if name != "boot" and not TARGETS[name].group and (kind is Link or TARGETS[name].defconfig)
                    for step in (0, len(commits) - 1))


def forgotten(base, commits, results):
    """The files that a step changes and no cell of it compiled."""
    lines = []
    for step in sorted({result["step"] for result in results} - {0}):
        compiled = {path for result in results if result["step"] == step for path in result["compiled"]}
        touched = git(base.tree, "diff", "--name-only", "--diff-filter=d", commits[step - 1], commits[step], "--",
                      "*.c", ":!tools", ":!samples").splitlines()
        lines += [f"step {step}: {path} was not compiled for any architecture" for path in touched
                  if path not in compiled]
    return lines


def overview(results, titles):
    """Step x architecture."""
    columns = list(dict.fromkeys(result["arch"] for result in results))
    rows = {}
    for result in sorted(results, key=lambda result: (result["kind"] in EXTRA, result["kind"], result["step"])):
        title = f"{result['step']:2} {titles[result['step']]}"
        if result["kind"] in EXTRA:
            title = f"{title[:38]}, {result['kind']}"
        rows.setdefault(title[:46], {})[result["arch"]] = result["verdict"]
    return table(["step", *columns], [[title, *(row.get(column, "-") for column in columns)] for title, row in rows.items()])


def command():
    base = Base()
    if base["KIND"] == "qemu":
        qemu.build_each(base)
        print("every step builds")
        return 0
    archs = wanted_archs(base)
    stage.plan(3)
    commits = materialise(base)
    steps = wanted_steps(len(commits) - 1)
    start = time.monotonic()
    with lock(base.out / "each.lock"):
        x86 = ARCHS["x86_64"]
        tests = tests_of(base, *selftests(base, commits, x86), base.words("RUN")) if "boot" in archs else []
        cells = list(plan(base, commits, archs, steps, tests))
        todo = {cell.record for cell in cells if not done(cell)}
        note(f"{len(cells)} cells, {len(todo)} of them to do, the others are cached")
        stage.plan(len(todo))
        titles = ["pristine", *(step.subject for step in read_series(base))]
        results, before, bad = [], {}, {}
        for cell in cells:
            result = done(cell) or bad.get(cell.record)
            if not result:
                with stage(cell.head()) as st:
                    result = do(cell, lambda: before.get(cell.dir, []))
                    st.note = f" {result['verdict']}, {took(time.monotonic() - start)} in all, " \
                              f"{len(todo) - stage.count} to go"
                if result["verdict"] != "ok":
                    bad[cell.record] = result
            if not cell.step:
                before[cell.dir] = result["warnings"]
            arch = "boot" if cell.kind == "booted" else cell.arch.name
            results.append({"step": cell.step, "title": titles[cell.step], "arch": arch, "kind": cell.kind, **result})
            if result["verdict"] != "ok":
                note(f"    {result['verdict']} {cell.head()}: {result['detail']}")
            write(OUT / "build-each/results.json", json.dumps(results, indent=1))
    print(overview(results, titles))
    bad = [result for result in results if result["verdict"] != "ok"]
    if set(base.words("COMPILED")) <= set(archs) and not bad:
        bad = forgotten(base, commits, results)
        print("".join(f"{line}\n" for line in bad), end="")
    note(f"details: {pretty(OUT / 'build-each/results.json')}, {took(time.monotonic() - start)}")
    print(f"{len(results) - len(bad)} good, {len(bad)} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    main(__doc__, command)
