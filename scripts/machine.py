# SPDX-License-Identifier: GPL-2.0
"""
The emulated machines: how to start QEMU and Bochs, and the modes of KVM's MMU on each processor.

QEMU emulates AMD's SVM, Bochs also Intel's VMX. Bochs is built from the distribution's source with the fixes in
patches/bochs-3.0 (not a series: its file "source" names the source).
"""

import contextlib
import os
import shlex
import subprocess
import time
from pathlib import Path

from source import ask_archive, mirrors
from workshop import NPROC, OUT, TOP, VARS, choice, digest, facts, install, lock, pretty, read, run, stage, stage_dir, write

# Kernel parameters on all machines.
COMMON = "ignore_loglevel printk.devkmsg=on panic=-1 log_buf_len=4M"


class Qemu:
    """A machine that QEMU emulates: the program, its options, and the kernel's parameters there."""

    name = "QEMU"

    def __init__(self, arch, words, parameters, parallel=False):
        self.arch, self.words, self.parameters, self.parallel = arch, words, parameters, parallel
        self.threads = f",thread={'multi' if parallel else 'single'}" if "-icount" not in words else ""

    def ready(self):
        """Nothing to prepare."""

    def identity(self):
        """What a result depends on, except kernel and tests."""
        return repr((self.words, self.threads, self.parameters))

    def start(self, image, initrd, append, console, results, log, more=()):
        """Start it in the background; its own output goes to LOG/emulator."""
        command = [self.words[0], "-accel", f"tcg{self.threads}", *self.words[1:], "-nodefaults", "-no-user-config",
                   "-no-reboot", "-display", "none", "-kernel", image, "-initrd", initrd,
                   "-serial", f"file:{escape(console)}", "-append", f"{self.parameters} {COMMON} {append}".strip(),
                   "-chardev", f"file,id=results,path={escape(results)}", "-device", "virtio-serial-pci",
                   "-device", "virtserialport,chardev=results,name=results", "-monitor", "stdio", *more]
        return launch(command, log)

    def clock(self, process):
        """Seconds, to detect a hang by."""
        return time.monotonic()

    def inspect(self, process):
        """Log the state of the vCPUs of a machine that hangs."""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"info registers -a\ninfo lapic 0\ninfo lapic 1\ninfo lapic 2\ninfo status\n")
            process.stdin.flush()


class Bochs:
    """A machine that Bochs emulates. One thread runs its CPUs in turns; time counts instructions."""

    name, arch, parallel = "Bochs", "x86_64", False
    # There is no RTC to calibrate the TSC, and no timer tick when it is checked.
    parameters = ("console=ttyS0,115200 nokaslr mitigations=off no_timer_check tsc_early_khz=100000 idle=halt "
                  "workshop.results=ttyS1")

    def __init__(self, model, msrs=None, processors=2, megabytes=2048):
        self.model, self.msrs, self.processors, self.megabytes = model, msrs or {}, processors, megabytes

    def ready(self):
        build_bochs()

    def identity(self):
        return repr((self.model, self.processors, self.megabytes, self.parameters, self.msrs, bochs_stamp()))

    def start(self, image, initrd, append, console, results, log, more=()):
        iso(log / "boot.iso", {"kernel": image, "initrd": initrd},
            [("test", "kernel", f"{self.parameters} {COMMON} {append}".strip())], log / "iso")
        return self.start_iso(log / "boot.iso", console, results, log)

    def start_iso(self, path, console, results, log):
        """As start(), from an ISO image."""
        write(log / "msrs", "".join(f"{number:#x} 0 0 {value:#x} 0 0 0 0\n" for number, value in self.msrs.items()))
        ignore = int(not self.msrs)
        write(log / "bochsrc", f"""display_library: nogui
cpu: model={self.model}, count={self.processors}, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs={ignore}, msrs="{log}/msrs"
memory: guest={self.megabytes}, host={self.megabytes}
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0-master: type=cdrom, path="{path}", status=inserted
boot: cdrom
clock: sync=none
com1: enabled=1, mode=file, dev="{console}"
com2: enabled=1, mode=file, dev="{results}"
log: "{log}/bochs"
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
""")
        return launch([BOCHS, "-q", "-f", log / "bochsrc"], log)

    def clock(self, process):
        """CPU time: Bochs never sleeps, and CPU time does not depend on the load of the host."""
        fields = read(f"/proc/{process.pid}/stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def inspect(self, process):
        """Bochs has no monitor, only its log."""


# x86's check of the timer interrupt waits for ticks that do not come when the machine stalls, and panics.
# QEMU 7.2 loses the flags where the store of a setg, setle, ... (not of sete or setne) faults, as the first one to a page
# does: the instruction then stores anything. So no test keeps the result of "> 0" in a static variable.
SVM = ["-cpu", "EPYC,+svm,+npt"]
X86 = "console=ttyS0 no_timer_check"
MACHINES = {
    "qemu-amd": Qemu("x86_64", ["qemu-system-x86_64", *SVM, "-smp", "2", "-m", "2G"], X86),
    # Processors do not take turns, which is much slower on a busy host. XRSTOR on any processor writes the flags of
    # processor 0 that include GIF, IF of the host, and nested paging (QEMU's cpu_clear_ignne()), without a lock. It may undo
    # updates by processor 0, which then sleeps for ever, takes interrupts while they are disabled, or saves the host's state
    # as the guest's. Without a guest, processor 0 does not update them: keep tests off it.
    "qemu-amd-parallel": Qemu("x86_64", ["qemu-system-x86_64", *SVM, "-smp", "3", "-m", "2G"], f"{X86} workshop.cpus=6",
                              parallel=True),
    "qemu-arm64": Qemu("arm64", ["qemu-system-aarch64", "-machine", "virt,virtualization=on,gic-version=3", "-cpu",
                                 "max", "-smp", "2", "-m", "2G"], "console=ttyAMA0", parallel=True),
    # Virtual time is a count of instructions, whatever the machine does: for measuring.
    "icount": Qemu("x86_64", ["qemu-system-x86_64", "-icount", "shift=1,sleep=off", *SVM, "-smp", "1", "-m", "4G"],
                   f"{X86} tsc_early_khz=1000000"),
    # A register that Bochs does not know reads as 0. On Intel it faults, as on a processor: else KVM lists some of AMD's as
    # its own, and cannot set them. Linux counts on some: PLATFORM_ID, microcode version, PLATFORM_INFO, MPERF, APERF,
    # MISC_ENABLE, DEBUGCTL, PERF_CAPABILITIES. AMD's that Linux counts on have numbers that cannot be given.
    "bochs-amd": Bochs("ryzen"),
    "bochs-intel": Bochs("corei7_skylake_x", {0x17: 0, 0x8b: 1, 0xce: 0, 0xe7: 0, 0xe8: 0, 0x1a0: 1, 0x1d9: 0, 0x345: 0}),
}
# Two vCPUs and what is in their way have processors of their own, and time still counts instructions: for measuring, too.
for _cpu in ("amd", "intel"):
    MACHINES[f"bochs-{_cpu}-4"] = Bochs(MACHINES[f"bochs-{_cpu}"].model, MACHINES[f"bochs-{_cpu}"].msrs, processors=4)


class Mode:
    """A mode of KVM's MMU: its processor, KVM's parameter, and the emulators that run it, the best first."""

    def __init__(self, cpu, name, parameter, *machines):
        self.cpu, self.name, self.parameter, self.machines = cpu, name, parameter, machines
        self.title = name if cpu == "amd" else f"{cpu} {name}"

    def machine(self, arch="x86_64"):
        """The name of the machine, by EMULATOR if set; other architectures have one machine, and no modes."""
        if arch != "x86_64":
            return f"qemu-{arch}"
        if not VARS["EMULATOR"]:
            return self.machines[0]
        known = {"parallel" if MACHINES[name].parallel else name.partition("-")[0]: name for name in self.machines}
        return known[choice("EMULATOR", tuple(known), "")]


MODES = {(mode.cpu, mode.name): mode for mode in (
    Mode("amd", "npt", "kvm_amd.npt=1", "qemu-amd", "bochs-amd", "qemu-amd-parallel"),
    Mode("amd", "npt0", "kvm_amd.npt=0", "qemu-amd-parallel", "qemu-amd", "bochs-amd"),
    Mode("amd", "tdp_mmu", "kvm.tdp_mmu=1", "qemu-amd", "bochs-amd", "qemu-amd-parallel"),
    Mode("amd", "legacy", "kvm.tdp_mmu=0", "qemu-amd", "bochs-amd", "qemu-amd-parallel"),
    Mode("intel", "ept", "kvm_intel.ept=1", "bochs-intel"),
    Mode("intel", "ept0", "kvm_intel.ept=0", "bochs-intel"),
    Mode("intel", "tdp_mmu", "kvm.tdp_mmu=1", "bochs-intel"),
    Mode("intel", "legacy", "kvm.tdp_mmu=0", "bochs-intel"),
)}


def modes_of(base):
    """The Modes that the tests of BASE are run in."""
    return {key: mode for key, mode in MODES.items() if "_".join(key) in base.words("MODES")}


def mode_of():
    """The Mode that CPU and MODE select (default: nested paging on AMD)."""
    cpu = choice("CPU", tuple(dict.fromkeys(cpu for cpu, _ in MODES)), "amd")
    names = tuple(name for known, name in MODES if known == cpu)
    return MODES[cpu, choice("MODE", names, names[0])]


def escape(path):
    return str(path).replace(",", ",,")


def launch(command, log):
    with open(log / "emulator", "wb") as said:
        said.write((shlex.join(map(str, command)) + "\n").encode())
        said.flush()
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=said, stderr=said)


# ---------------------------------------------------------------- Bochs

PATCHES, BOCHS = TOP / "patches/bochs-3.0", OUT / "bochs/build/bochs"
CONFIGURE = """--enable-vmx=2 --enable-svm --enable-x86-64 --enable-cpu-level=6 --enable-smp --with-nogui
    --enable-repeat-speedups --enable-fast-function-calls --enable-handlers-chaining --enable-avx --enable-evex
    --enable-memtype --enable-protection-keys --enable-cet --enable-perfmon --disable-docbook --disable-show-ips
    CXXFLAGS=-O2""".split()


def bochs_stamp():
    return digest(read(PATCHES / "source"), *(read(path) for path in sorted(PATCHES.glob("*.patch"))), CONFIGURE)


def build_bochs():
    """Build Bochs if needed: one stage."""
    stamp, done = bochs_stamp(), BOCHS.with_name("stamp")

    def built():
        return done.exists() and read(done) == stamp and BOCHS.exists()

    if built():
        return
    with lock(OUT / "bochs/lock"), contextlib.ExitStack() as held:
        if built():
            return
        install("bochs")
        held.enter_context(stage("building Bochs"))
        source = facts(PATCHES / "source")
        tar = OUT / "download" / source["FILE"].rpartition("/")[2]
        log = "bochs/build"
        if not tar.exists():
            tar.parent.mkdir(parents=True, exist_ok=True)
            # apt verifies the hash; until then the file has another name.
            part = tar.with_name(f"{tar.name}.part")
            ask_archive(["/usr/lib/apt/apt-helper", "-oAPT::Sandbox::User=root", "download-file",
                         f"{mirrors()[0]}/{source['FILE'].replace('+', '%2b')}", part, f"SHA256:{source['SHA256']}"], log,
                        source["FILE"], f"put it at {pretty(tar)}")
            part.rename(tar)
        with stage_dir(OUT / "bochs/src") as src:
            run(["tar", "-C", src, "--strip-components=1", "-xf", tar], log,
                f"{pretty(tar)} is broken: remove it and repeat", append=True)
            run(["git", "-C", src, "init", "-q"], log, "git init failed", append=True)
            for patch in sorted(PATCHES.glob("*.patch")):
                run(["git", "-C", src, "apply", patch], log, f"{pretty(patch)} does not apply", append=True)
            run(["./configure", *CONFIGURE], log, "configuring Bochs failed", cwd=src, append=True)
            run(["make", f"-j{NPROC}"], log, "building Bochs failed", cwd=src, append=True)
            BOCHS.parent.mkdir(exist_ok=True)
            (src / "bochs").rename(BOCHS)
            write(done, stamp)


def iso(path, files, entries, log):
    """Write the ISO image PATH with FILES {name: path}, bootable from CD and USB stick; ENTRIES of its menu are (title,
    kernel, parameters), all with the same "initrd"."""
    menu = "".join(f"menuentry '{title}' {{\n linux /{kernel} {parameters}\n initrd /initrd\n}}\n"
                   for title, kernel, parameters in entries)
    with stage_dir(path.with_name(f"{path.name}.d")) as root:
        write(root / "boot/grub/grub.cfg", f"set timeout={5 if len(entries) > 1 else 0}\n{menu}")
        for name, source in files.items():
            write(root / name, Path(source).read_bytes())
        run(["grub-mkrescue", "--locales=", "--themes=", "--fonts=", "-o", path, root], log, "making the ISO failed")
