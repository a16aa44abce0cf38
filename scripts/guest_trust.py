#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: scripts/guest_trust.py DIR QEMU KILLS

Runs in the kernel under test (make guest TRUST=KILLS). KILLS times, kill QEMU while its main thread sleeps in
KVM_SET_USER_MEMORY_REGIONS. Then, where the kernel has fault injection, split RAM while the first, second, ... allocation
of the main thread fails, with atomic-memslots on and off, and print what QEMU said. Split RAM, and add some, while a vCPU
waits for a page from a source that does not answer. Then run DIR/kvm-memslots-test, QEMU's own test; with KILLS 0, that alone, which needs
no such ioctl. Exits 0 only if all went as it should.
"""

import itertools
import os
import signal
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


def thread(machine, name, number=0):
    """A file of the main thread's, or of that of this NUMBER."""
    return Path(f"/proc/{machine.process.pid}/task/{number or machine.process.pid}/{name}")


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
        ended = machine.process.wait(60)
        return f"ends with {ended}: " + next((line for line in machine.errors() if "memory" in line), "nothing said")


def split(machine):
    machine.pam(1, 0)


def plug(machine):
    machine.qmp("object-add", **{"qom-type": "memory-backend-ram"}, id="m", size=2 << 20)
    machine.qmp("device_add", driver="pc-dimm", id="d", memdev="m")


def stalled(atomic, change):
    """CHANGE the RAM of a guest that came by postcopy, while a vCPU waits for a page and the source does not answer for 10
    seconds. Returns how long that took: QEMU's main loop must not wait for the page, or the migration cannot be
    recovered."""
    path, cold = f"unix:{DIR}/stalled", 0x90000
    source, machine = Machine(2, 0, atomic), Machine(2, 0, atomic, path)
    timer = threading.Timer(10, source.process.send_signal, [signal.SIGCONT])
    try:
        # What is not zero takes long to send, 64 pages aside.
        for place, size in ((0x1000, 0x9f000), (0x100000, 0x3f00000)):
            source.qtest(f"memset {place:#x} {size:#x} 0xff")
        for one in (source, machine):
            one.qmp("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": True}])
        source.qmp("migrate-set-parameters", **{"max-bandwidth": 4096, "max-postcopy-bandwidth": 4096})
        source.qmp("migrate", uri=path)
        wait_for("the migration to begin", lambda: source.qmp("query-migrate").get("status") == "active", 5)
        source.write(cold, b"\xff")      # if it was sent, it is once more
        source.qmp("migrate-start-postcopy")
        wait_for("the guest to run there", lambda: machine.qmp("query-status")["status"] == "running", 5)
        before = machine.ticks()
        # An interrupt of the APIC's timer that is not delivered yet may not be migrated: then they sleep for ever.
        wait_for("the vCPUs to run there", lambda: machine.ticks() != before, 5)
        source.process.send_signal(signal.SIGSTOP)
        timer.start()
        machine.records_at(0, cold >> 4)
        wait_for("a vCPU to wait for its page", lambda: "handle_userfault" in [
            thread(machine, "wchan", cpu["thread-id"]).read_text() for cpu in machine.qmp("query-cpus-fast")], 5)
        start = time.monotonic()
        change(machine)
        machine.qmp("query-status")
        return time.monotonic() - start
    except Broken as error:
        print(f"[trust] {error}, once more", flush=True)
        return None
    finally:
        timer.cancel()
        for one in (machine, source):
            one.process.kill()
            one.process.wait(60)


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
    if times:
        off, on, add = (wait_for("a vCPU that waits", lambda: stalled(*args), 120)
                        for args in (("off", split), ("on", split), ("on", plug)))
        print(f"[trust] a split while a vCPU waits for its page: off {off:.1f} s, on {on:.1f} s; added RAM: on {add:.1f} s",
              flush=True)
        if off < 5 <= max(on, add):
            raise Broken("with atomic-memslots=on, QEMU waits for the page")
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
