#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: scripts/guest_driver.py DIR ROUNDS [MACHINE QEMU [on|off]]

Run in the kernel under test (make guest): start a QEMU guest with -accel kvm from DIR/image and DIR/inner, whose load
(guest_load.c) checks its memory all the time. In each round, plug and unplug two DIMMs, grow and shrink a virtio-mem
device, and migrate the guest to another QEMU process, with a DIMM in it. Prints its progress; the guest's console goes
to DIR/console. Exits 0 only if all worked and the memory was intact at the end.

With MACHINE (pc, q35) and a QEMU program, the load also splits and merges the guest's RAM all the time, and every third
migration is by postcopy: by turns, the guest runs there while pages are still missing, or only once all have arrived. on|off
is for that QEMU's -accel kvm,atomic-memslots; its trace events are counted. With on, it must not pause vCPUs but in postcopy.
"""

import os
import re
import subprocess
import sys
import time

from guest_qemu import FIRMWARE, PATIENCE, TRACED, Broken, Qemu, connect, trace_options, traced, wait_for

START = time.monotonic()
DIR = sys.argv[1]
MACHINE, QEMU, ATOMIC = (sys.argv[3:] + [""] * 3)[:3]
MIB = 1 << 20
RAM = 256 * MIB


def say(text):
    print(f"[{time.monotonic() - START:6.1f}] {text}", flush=True)


class Guest(Qemu):
    """A QEMU process; DIMMS are those that an incoming guest comes with."""

    number = kicks = 0      # kicks: how often vCPUs were paused in postcopy
    started = []
    clock = None            # the page of kvm-clock

    def __init__(self, dimms=(), incoming=False, paused=False):
        Guest.number += 1
        path = f"{DIR}/{Guest.number}"
        self.said, self.pending, self.asked = "", b"", 1000 * Guest.number
        command = [QEMU or "qemu-system-x86_64", "-accel", "kvm" + (ATOMIC and f",atomic-memslots={ATOMIC}"),
                   # QEMU's emulation of VMRUN may deliver an injected interrupt once more until the next #VMEXIT. Without
                   # PV EOI, there is one before the guest's handler takes a lock.
                   "-cpu", "EPYC,-xsave,kvm-pv-eoi=off", "-smp", "2", "-nodefaults",
                   "-m", f"{RAM // MIB}M,slots=4,maxmem=2G", "-no-user-config", "-no-reboot", "-display", "none",
                   "-kernel", f"{DIR}/image", "-initrd", f"{DIR}/inner",
                   "-append", "console=ttyS0 ignore_loglevel panic=-1 memhp_default_state=online_movable",
                   "-serial", f"file:{path}.console",
                   "-device", "virtio-serial-pci",
                   "-chardev", f"socket,id=load,path={path}.load,server=on,wait=off",
                   "-device", "virtserialport,chardev=load,name=load",
                   "-object", "memory-backend-ram,id=vmem,size=256M",
                   "-device", "virtio-mem-pci,id=vm0,memdev=vmem,requested-size=0"]
        for dimm in dimms:
            command += ["-object", f"memory-backend-ram,id=m{dimm['id']},size={dimm['size']}", "-device",
                        f"pc-dimm,id={dimm['id']},memdev=m{dimm['id']},addr={dimm['addr']},slot={dimm['slot']}"]
        if QEMU:
            # Where SMRAM is closed, there must be something else.
            command += ["-device", "VGA,romfile=", "-machine", MACHINE, *FIRMWARE,
                        "-global", "virtio-mem.unplugged-inaccessible=off"]
            # KVM's log is cleared in small parts, between which the map changes.
            command += ["-global", "migration.x-clear-bitmap-shift=6"]
        if ATOMIC:
            command += trace_options(path)
        if incoming:
            command += ["-incoming", f"unix:{path}.incoming", *(["-S"] if paused else [])]
        super().__init__(f"QEMU {Guest.number}", path, command, "load")
        Guest.started.append(self)
        self.port = connect(f"{path}.load")
        self.port.settimeout(0.2)

    def runs(self):
        """It has not ended, and is not stopped by an error."""
        self.alive()
        status = self.qmp("query-status")["status"]
        if status in ("internal-error", "guest-panicked", "shutdown"):
            said = [line for line in self.errors() if line.startswith(("KVM", "emulation", "error"))]
            raise Broken(f"{self.name} has stopped: {status}: {', '.join(said[:2])}")

    def happened(self, *names, device):
        """Take the first event of these names about DEVICE."""
        self.qmp("query-status")
        for i, (name, data) in enumerate(self.events):
            if name in names and data.get("device") == device:
                del self.events[i]
                return name
        return None

    def load(self, request="state"):
        """What the load says of itself: (MiB it has, MiB there are), or None."""
        self.asked += 1
        self.alive()
        if request:
            self.port.sendall(f"{self.asked} {request}\n".encode())
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                try:
                    new = self.port.recv(4096)
                except ConnectionError:
                    new = b""
                if not new:
                    if "intact" in self.said:
                        return None
                    self.process.wait(10)
                    self.alive()
                self.pending += new
            except TimeoutError:
                continue
            *lines, self.pending = self.pending.split(b"\n")
            for line in lines:
                number, _, self.said = line.decode("utf-8", "replace").partition(" ")
                if "WRONG" in self.said:
                    raise Broken(self.said)
                found = re.match(r"(\d+) MiB of (\d+)", self.said)
                # an answer may come too late for its question
                if found and number == str(self.asked):
                    return int(found[1]), int(found[2])
        self.runs()
        return None

    def size(self, mib):
        wait_for(f"the load to have {mib} MiB", lambda: (self.load(f"size {mib}") or (0, 0))[0] == mib)

    def memory(self):
        return wait_for("the load to answer", self.load)[1]

    def plug(self, name):
        least = self.memory()
        self.qmp("object-add", **{"qom-type": "memory-backend-ram"}, id=f"m{name}", size=128 * MIB)
        self.qmp("device_add", driver="pc-dimm", id=name, memdev=f"m{name}")

        def grown():
            # What virtio-mem gave back may only leave now.
            nonlocal least
            now = self.memory()
            least = min(least, now)
            return now > least + 100

        wait_for(f"the guest to use {name}", grown)
        say(f"plugged {name}: {self.said}")

    def unplug(self, name):
        for _ in range(5):
            self.qmp("device_del", id=name)
            event = wait_for(f"{name} to go", lambda: self.happened(
                "DEVICE_DELETED", "MEM_UNPLUG_ERROR", "DEVICE_UNPLUG_GUEST_ERROR", device=name))
            if event == "DEVICE_DELETED":
                self.qmp("object-del", id=f"m{name}")
                say(f"unplugged {name}: {self.load() and self.said}")
                return
            say(f"the guest keeps {name}: {event}, once more")
            time.sleep(1)
        raise Broken(f"the guest does not give {name} back")

    def resize(self, mib):
        self.qmp("qom-set", path="/machine/peripheral/vm0", property="requested-size", value=mib * MIB)
        wait_for(f"virtio-mem of {mib} MiB",
                 lambda: self.qmp("qom-get", path="/machine/peripheral/vm0", property="size") == mib * MIB)
        say(f"virtio-mem has {mib} MiB: {self.load() and self.said}")

    def differs(self, other):
        """The pages of RAM in which two stopped guests differ."""
        found = []
        for start, end in ((0, 0xa0000), (0x100000, RAM)):
            for guest in (self, other):
                guest.qmp("pmemsave", val=start, size=end - start, filename=f"{guest.path}.memory")
            with open(f"{self.path}.memory", "rb") as one, open(f"{other.path}.memory", "rb") as two:
                found += [place for place in range(start, end, 4096) if one.read(4096) != two.read(4096)]
            for guest in (self, other):
                os.unlink(f"{guest.path}.memory")
        return found

    def migrate(self, postcopy=False, early=False):
        """To another process; returns that Guest. With POSTCOPY and EARLY, it runs there while pages are missing, for some
        seconds. Without EARLY, it stays paused until all are there: RAM below 256 MiB must be as it was, except the
        firmware's. One page may differ, always the same: that of kvm-clock, which KVM writes."""
        dimms = [dimm["data"] for dimm in self.qmp("query-memory-devices") if dimm["type"] == "dimm"]
        other = Guest(dimms, incoming=True, paused=not early)
        for one in (self, other):
            one.qmp("migrate-set-capabilities", capabilities=[
                {"capability": "auto-converge", "state": True}, {"capability": "postcopy-ram", "state": bool(postcopy)}])
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 8 * MIB if postcopy else 0, "downtime-limit": 3000,
                                              "max-postcopy-bandwidth": 8 * MIB})
        self.qmp("migrate", uri=f"unix:{other.path}.incoming")
        before = [0] * len(TRACED)
        if postcopy:
            wait_for("the migration to begin", lambda: self.qmp("query-migrate").get("status") == "active")
            self.qmp("migrate-start-postcopy")
            wait_for("the guest to be there",
                     lambda: other.qmp("query-status")["status"] == ("running" if early else "paused"))
            before = traced(other.path)

        def done():
            info = self.qmp("query-migrate")
            if info["status"] in ("failed", "cancelled", "postcopy-paused"):
                raise Broken(f"migration {info['status']}: {info.get('error-desc')}")
            return info if info["status"] == "completed" else None

        info = wait_for("the migration", done, 2 * PATIENCE)
        wait_for("its end there", lambda: other.qmp("query-migrate").get("status") == "completed")
        if postcopy:
            Guest.kicks += traced(other.path)[1]
        if not early:
            pages = self.differs(other)
            Guest.clock = Guest.clock or (pages or [None])[0]
            if set(pages) - {Guest.clock}:
                raise Broken(f"after the migration, {len(pages)} pages differ: {', '.join(map(hex, pages[:10]))}")
            other.qmp("cont")
        ram, commits = info["ram"], traced(other.path)[0] - before[0]
        other.memory()
        # Until here, state() can tell of both.
        self.qmp("quit")
        self.process.wait()
        how = f", {ram['postcopy-requests']} pages asked for" if postcopy else ""
        how += f", {commits} commits of the map meanwhile" if early else ""
        say(f"migrated from {self.name} to {other.name} with {len(dimms)} DIMMs, {ram['transferred'] // MIB} MiB in "
            f"{ram['dirty-sync-count']} rounds, down {info['downtime']} ms{how}: {other.said}")
        return other


def counts():
    """How often each event was traced, by all QEMUs; and in words."""
    sums = [sum(count) for count in zip(*(traced(f"{DIR}/{i}") for i in range(1, Guest.number + 1)))]
    return sums, ", ".join(f"{count} {name}" for count, name in zip(sums, TRACED.values()))


def play(rounds):
    guest = Guest()
    say(f"the guest has {guest.memory()} MiB" + (f", {counts()[1]} up to here" if ATOMIC else ""))
    guest.size(100)
    if MACHINE:
        wait_for("the load to split", lambda: guest.load("split 1"))
    for i in range(rounds):
        say(f"round {i + 1} of {rounds}")
        for name in ("a", "b"):
            guest.plug(f"dimm{i}{name}")
        guest.resize(64)
        guest.size(240)
        guest.resize(128)
        guest.resize(32)
        guest.size(100)
        guest.unplug(f"dimm{i}a")
        guest = guest.migrate(MACHINE and i % 3 == 2, MACHINE and i % 6 == 2)
        guest.resize(96)
        guest.unplug(f"dimm{i}b")
        guest.resize(0)
    guest.load("stop")
    wait_for("the load to have checked all", lambda: "intact" in guest.said or guest.load(None) and False)
    say(guest.said)
    if guest.process.wait(PATIENCE):
        raise Broken(f"{guest.name} ended with {guest.process.returncode}")


def main():
    try:
        play(int(sys.argv[2]))
        code = 0
    except (Broken, OSError, subprocess.TimeoutExpired) as error:
        say(f"FAILED: {error}")
        for guest in Guest.started:
            if guest.process.poll() is None:
                try:
                    for line in guest.state():
                        say(f"{guest.name}: {line}")
                except (Broken, OSError) as late:
                    say(f"{guest.name}: {late}")
        code = 1
    if ATOMIC:
        sums, words = counts()
        say(f"traced: {words}, {Guest.kicks} of the pauses in postcopy")
        if ATOMIC == "on" and sums[1] > Guest.kicks:
            say(f"FAILED: {sums[1] - Guest.kicks} pauses of all vCPUs with atomic-memslots=on")
            code = 1
    with open(f"{DIR}/console", "w", encoding="utf-8") as console:
        for i in range(1, Guest.number + 1):
            with open(f"{DIR}/{i}.console", encoding="utf-8", errors="replace") as part:
                console.writelines(f"QEMU {i}: {line}" for line in part)
    sys.exit(code)


if __name__ == "__main__":
    main()
