#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: scripts/guest_gap.py DIR QEMU CHANGES

Runs in the kernel under test (make guest GAP=CHANGES): measure how long a vCPU stands still while QEMU changes the memory
map, with -accel kvm,atomic-memslots=off and =on in turn. All vCPUs run DIR/gap (guest_gap.S), which sleeps again and again:
how much longer than usual it takes until it runs again is the gap. By qtest, a PAM register splits the RAM that they run
in, and merges it. Windows of the same length without a change are "idle". Then logging is switched on and off for all slots
by a migration that is cancelled.

The machine's time counts instructions, so that it repeats. It has one processor, on which vCPUs preempt all else but the
kernel, as if each had one of its own; asleep, they are not in each other's way. What an ioctl computes keeps them from
running only here: with atomic-memslots=on, the gap is an upper bound.

Prints a line for each case: "[gap] CHANGE VCPUS SLOTS off|on longest US... lost US...": the longest gap of any vCPU, and
by how much a vCPU was late on average, for each change. table() and plot() take those lines.
"""

import os
import re
import statistics
import struct
import subprocess
import sys
import time

from guest_qemu import FIRMWARE, Broken, Qemu, connect, trace_options, traced, wait_for

DIR, QEMU = (sys.argv[1:] + ["", ""])[:2]
RAM, RECORDS, PHASE = 0xd8000, 0x2000, 0x400
EVERY = 100000		# nanoseconds: one of the vCPUs wakes up


class Machine(Qemu):
    """A guest that sleeps again and again; with INCOMING, a socket, one that migrates to here."""

    def __init__(self, vcpus, slots, atomic, incoming=""):
        self.vcpus, self.phase, self.rate, self.usual = vcpus, 0, 1000, (0, 0)
        path = f"{DIR}/gap-{vcpus}-{slots}-{atomic}" + "-in" * bool(incoming)
        with open(f"{DIR}/gap.rom", "wb") as rom:
            rom.write(bytes(0xfff0) + b"\xea\x00\x00\x00\xd8" + bytes(11))	# ljmp $0xd800,$0
        # There are about six slots without DIMMs.
        dimms = max(slots - 6, 0)
        command = [QEMU, "-accel", f"kvm,atomic-memslots={atomic}", "-cpu", "EPYC,-xsave,+x2apic", "-smp", str(vcpus),
                   "-machine", "pc", "-nodefaults", "-no-user-config", "-display", "none",
                   *(["-incoming", incoming] if incoming else ["-S"]),
                   "-bios", f"{DIR}/gap.rom",
                   "-m", f"64M,slots={max(dimms, 1)},maxmem={64 + 2 * max(dimms, 1)}M",
                   *FIRMWARE, "-global", "kvm-apic.vapic=off",
                   "-qtest", f"unix:{path}.qtest,server=on,wait=off", "-qtest-log", "none", *trace_options(path)]
        for i in range(dimms):
            command += ["-object", f"memory-backend-ram,id=m{i},size=2M", "-device", f"pc-dimm,id=d{i},memdev=m{i}"]
        super().__init__("QEMU", path, command, "qtest")
        self.socket = connect(f"{path}.qtest")
        self.test = self.socket.makefile("rw")
        if incoming:
            return
        self.pam(0, 0x30)
        for i in range(1, 7):
            self.pam(i, 0x33)
        with open(f"{DIR}/gap", "rb") as code:
            self.write(RAM, code.read())
        self.write(0x80, struct.pack("<HH", 2, RAM >> 4))		# interrupt vector 0x20
        self.write(RAM + 0x1000, struct.pack("<II", 0, EVERY * vcpus))
        self.records_at(RECORDS)
        self.qmp("cont")
        wait_for(f"{vcpus} vCPUs to run", lambda: struct.unpack("<H", self.read(RAM + 0x1000, 2))[0] == vcpus, 30)

    def calibrate(self):
        """Let vCPUs go first, as if each had a processor of its own, and find out how long they sleep: most, mean."""
        for cpu in self.qmp("query-cpus-fast"):
            os.sched_setscheduler(cpu["thread-id"], os.SCHED_FIFO, os.sched_param(1))
        before, at = self.ticks(), time.monotonic()
        time.sleep(0.3)
        now, then = self.ticks(), time.monotonic()
        self.rate = ((now - before) & 0xffffffff) / (then - at) / 1e6
        idle = [self.records() for _ in range(10)]
        self.usual = (statistics.median(max(r[2] for r in records) for records in idle) / self.rate,
                      sum(r[1] for records in idle for r in records) /
                      sum(r[0] for records in idle for r in records) / self.rate)

    def qtest(self, line):
        self.test.write(line + "\n")
        self.test.flush()
        answer = self.test.readline().split()
        if answer[:1] != ["OK"]:
            raise Broken(f"qtest: {line[:60]}: {answer}")
        return answer[-1]

    def write(self, place, data):
        self.qtest(f"write {place:#x} {len(data):#x} 0x{data.hex()}")

    def read(self, place, size):
        return bytes.fromhex(self.qtest(f"read {place:#x} {size:#x}")[2:])

    def ticks(self):
        return struct.unpack("<I", self.read(RAM + RECORDS + 12, 4))[0]

    def pam(self, number, value, between=lambda: None):
        """Write a PAM register, and run BETWEEN when only its value is missing."""
        register = 0x59 + number
        self.qtest(f"outl 0xcf8 {0x80000000 | register & ~3:#x}")
        between()
        self.qtest(f"outb {0xcfc + register % 4:#x} {value:#x}")

    def records_at(self, place, segment=RAM >> 4):
        self.write(RAM + 0x1008, struct.pack("<HH", place, segment))

    def records(self, change=lambda: None, length=0.02):
        """Run CHANGE; returns the record of each vCPU: sleeps, ticks in all, longest."""
        self.phase = self.phase % 40 + 1
        place = RECORDS + self.phase * PHASE
        self.write(RAM + place, bytes(self.vcpus * 64))
        self.records_at(place)
        change()
        time.sleep(length + self.phase * 17e-6)     # the next change meets other phases of the timers
        self.records_at(RECORDS)
        raw = self.read(RAM + place, self.vcpus * 64)
        return [struct.unpack_from("<III", raw, 64 * i) for i in range(self.vcpus)]

    def window(self, *args):
        """records(), as the longest gap of any vCPU and the time that each lost on average, in microseconds."""
        records = self.records(*args)
        longest, mean = self.usual
        return (max(r[2] for r in records) / self.rate - longest,
                sum(r[1] / self.rate - r[0] * mean for r in records) / self.vcpus)

    def end(self):
        self.qmp("quit")
        self.process.wait(30)


def migration(machine):
    machine.qmp("migrate-set-parameters", **{"max-bandwidth": 4096})
    on = machine.window(lambda: machine.qmp("migrate", uri=f"file:{machine.path}.migration"), 0.2)
    wait_for("the migration to start", lambda: machine.qmp("query-migrate").get("status") == "active", 5)
    off = machine.window(lambda: machine.qmp("migrate_cancel"), 0.2)
    wait_for("the migration to end", lambda: machine.qmp("query-migrate").get("status") == "cancelled", 5)
    return on, off


def measure(vcpus, slots, atomic, changes, found):
    machine = Machine(vcpus, slots, atomic)
    machine.calibrate()

    def add(change, window):
        found.setdefault((change, vcpus, slots, atomic), []).append(window)

    before = traced(machine.path)
    for _ in range(changes):
        add("idle", machine.window())
        add("split", machine.window(lambda: machine.pam(1, 0)))
        add("merge", machine.window(lambda: machine.pam(1, 0x33)))
    after = traced(machine.path)
    for _ in range(max(changes // 5, 1)):
        on, off = migration(machine)
        add("log-on", on)
        add("log-off", off)
    status = machine.qmp("query-status")["status"]
    if status != "running":
        raise Broken(f"the guest is not running any more: {status}")
    machine.end()
    _, pauses, one, every = (b - a for a, b in zip(before, after))
    print(f"[counts] {vcpus} vCPUs, {slots} slots, {atomic}: {changes} splits and merges: {pauses} pauses, "
          f"{one} ioctls for a slot, {every} ioctls for all", flush=True)


def main():
    subprocess.run([QEMU, "-version"], check=True)      # all files of it are in the page cache then
    for vcpus in (2, 8):
        for slots in (16, 200):
            found = {}
            for _ in range(2):
                for atomic in ("off", "on"):
                    measure(vcpus, slots, atomic, int(sys.argv[3]), found)
            for (change, *case), windows in found.items():
                gaps, lost = zip(*windows)
                print("[gap]", change, *case, "longest", *map(round, gaps), "lost", *map(round, lost), flush=True)


# ---------------------------------------------------------------- outside

def cases(text):
    """{(change, vCPUs, slots, way): (all longest gaps, all lost times)} of what main() has printed, ordered by change."""
    found = {}
    for line in re.findall(r"^(?:# )?\[gap\] (.*)", text, re.M):
        head, _, rest = line.partition(" longest ")
        gaps, _, lost = rest.partition(" lost ")
        change, vcpus, slots, way = head.split()
        found[change, int(vcpus), int(slots), way] = [float(us) for us in gaps.split()], [float(us) for us in lost.split()]
    changes = list(dict.fromkeys(key[0] for key in found))
    return {key: found[key] for key in sorted(found, key=lambda key: (changes.index(key[0]), *key[1:3]))}


def rows(text, before=("off",), after="on"):
    """Of a table, in microseconds: before, after, and after / before of the longest gap (median, worst) and of the time
    lost."""
    found = cases(text)
    for *case, way in found:
        if way not in before or (*case, after) not in found:
            continue
        (gaps, lost), (gaps_on, lost_on) = found[*case, way], found[*case, after]
        cells = []
        for of, off, on in ((statistics.median, gaps, gaps_on), (max, gaps, gaps_on), (statistics.median, lost, lost_on)):
            off, on = max(of(off), 0), max(of(on), 0)
            cells += [f"{off:.0f}", f"{on:.0f}", f"{on / off:.3f}" if off > 10 else "-"]
        yield [*map(str, case), *cells]


HEAD = ["change", "vCPUs", "slots", "gap off", "on", "on/off", "worst off", "on", "on/off", "lost off", "on", "on/off"]
WAYS = (("off", "#D55E00", "atomic-memslots=off"), ("on", "#0072B2", "atomic-memslots=on"))


def plot(text, path, ways=WAYS, low=10):
    """Input of gnuplot for the SVG PATH: each longest gap as a dot, medians as bars, by case; logarithmic, from LOW on."""
    found = cases(text)
    keys = list(dict.fromkeys(key[:3] for key in found))
    tics = ", ".join(f"'{c}, {v} vCPUs, {s} slots' {i}" for i, (c, v, s) in enumerate(keys))
    plots, data = [], []
    for number, (way, colour, title) in enumerate(ways):
        shift = 0.3 * number / (len(ways) - 1) - 0.15
        gaps = [(i + shift, found[(*key, way)][0]) for i, key in enumerate(keys) if (*key, way) in found]
        plots += [f"'-' with points pt 7 ps 0.3 lc '{colour}' title '{title}'",
                  f"'-' with xerrorbars pt 0 lw 3 lc '{colour}' notitle"]
        # Zero has no logarithm.
        data += [*(f"{x} {max(us, low)}" for x, all_ in gaps for us in all_), "e",
                 *(f"{x} {max(statistics.median(all_), low)} 0.12" for x, all_ in gaps), "e"]
    return "\n".join([
        f"set terminal svg size {120 + 45 * len(keys)},560 font 'sans-serif,12' background '#ffffff'", f"set output '{path}'",
        "set logscale y", f"set yrange [{low}:*]", "set grid y", f"set xrange [-0.5:{len(keys) - 0.5}]", "set key outside top noenhanced",
        f"set xtics rotate ({tics})", "set ylabel 'longest gap of a vCPU, microseconds'",
        "plot " + ", ".join(plots), *data]) + "\n"


if __name__ == "__main__":
    try:
        main()
    except Broken as error:
        sys.exit(str(error))
