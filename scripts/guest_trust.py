#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: scripts/guest_trust.py DIR QEMU KILLS

Runs in the kernel under test (make guest TRUST=KILLS). KILLS times, kill QEMU while its main thread sleeps in
KVM_SET_USER_MEMORY_REGIONS. Then, where the kernel has fault injection, split RAM while the first, second, ... allocation
of the main thread fails, with atomic-memslots on and off, and print what QEMU said. Then run DIR/kvm-memslots-test, QEMU's
own test; with KILLS 0, that alone, which needs no such ioctl. Exits 0 only if all went as it should.
"""

import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from guest_gap import DIR, QEMU, Machine
from guest_qemu import Broken, wait_for

SWITCH = 0xaee4     # the low half of KVM_SET_USER_MEMORY_REGIONS
FAULTS = "fail-nth"
TEST = f"{DIR}/kvm-memslots-test"


def thread(machine, name):
    """A file of the main thread's."""
    return Path(f"/proc/{machine.process.pid}/task/{machine.process.pid}/{name}")


def kill():
    """Kill QEMU in mid-switch; returns the seconds until it is gone."""
    machine = Machine(2, 30, "on")

    def toggle():
        try:
            for i in itertools.count():
                machine.pam(1, 0x33 * (i % 2))
        except (Broken, OSError):
            pass

    def switches():
        words = thread(machine, "syscall").read_text().split()
        return words[0] == "16" and int(words[2], 16) & 0xffff == SWITCH

    toggler = threading.Thread(target=toggle)
    toggler.start()
    time.sleep(machine.process.pid % 7 / 100)
    wait_for("a switch", switches, pause=0)
    start = time.monotonic()
    machine.process.kill()
    machine.process.wait(60)
    toggler.join()
    return time.monotonic() - start


def fail(nth, atomic):
    """What QEMU says when the NTH allocation of a split fails; "" if there are fewer, and its answer fails instead."""
    machine = Machine(2, 30, atomic)
    machine.socket.settimeout(20)
    try:
        machine.pam(1, 0, lambda: thread(machine, FAULTS).write_text(str(nth)))
        left = int(thread(machine, FAULTS).read_text())
        thread(machine, FAULTS).write_text("0")
        machine.pam(1, 0x33)
        machine.end()
        return "" if left else "goes on"
    except TimeoutError:
        machine.process.kill()
        machine.process.wait(60)
        return ""
    except (Broken, OSError):
        said = Path(f"{machine.path}.stderr").read_text().splitlines()
        return f"ends with {machine.process.wait(60)}: " + next((line for line in said if "memory" in line), "nothing said")


def main():
    times = [kill() for _ in range(int(sys.argv[3]))]
    if times:
        print(f"[trust] killed {len(times)} times in the ioctl, gone after {max(times) * 1000:.0f} ms at most", flush=True)
    # Without a stack for each failure, which would count as a warning.
    subprocess.run(["mount", "-t", "debugfs", "debug", "/sys/kernel/debug"], check=False)
    for verbose in Path("/sys/kernel/debug").glob("fail*/verbose"):
        verbose.write_text("0")
    for atomic in ("on", "off") if times and os.path.exists(f"/proc/self/{FAULTS}") else ():
        # vmalloc() reports failures nevertheless: see PROVOKED in boot.py.
        Path("/dev/kmsg").write_text("workshop: start guest_trust\n")
        for nth in itertools.count(1):
            said = fail(nth, atomic)
            print(f"[trust] {atomic}, allocation {nth}:", said or "there are not as many", flush=True)
            if not said:
                break
            if "nothing said" in said:
                raise Broken("QEMU ended without a word")
    Path("/dev/kmsg").write_text("workshop: start guest\n")
    program = f"{DIR}/qemu-system-x86_64"      # the test takes the architecture from its name
    os.symlink(QEMU, program)
    done = subprocess.run([TEST], env={**os.environ, "QTEST_QEMU_BINARY": program}, check=False, stdout=subprocess.PIPE,
                          text=True)
    print("".join(f"[trust] qtest: {line}\n" for line in done.stdout.splitlines() if " of " not in line and "exec" not in line),
          end="", flush=True)
    return done.returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Broken as error:
        sys.exit(str(error))
