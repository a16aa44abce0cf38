#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""
usage: scripts/guest_gap.py DIR QEMU CHANGES

Runs in the kernel under test (make guest GAP=CHANGES): measure how long a vCPU stands still while QEMU changes the memory
map, with -accel kvm,atomic-memslots=off and =on in turn. All vCPUs run DIR/gap (guest_gap.S). By qtest, a PAM register
splits the RAM that they run in, and merges it. Windows of the same length without a change are "idle". Then logging is
switched on and off for all slots by a migration that is cancelled.

Prints a line for each case: "[gap] CHANGE VCPUS SLOTS off|on longest US... lost US...": the longest gap of any vCPU, and
the time that a vCPU lost on average, for each change. table() and plot() take those lines.
"""

import json
import math
import os
import re
import socket
import statistics
import struct
import subprocess
import sys
import time

DIR, QEMU = (sys.argv[1:] + ["", ""])[:2]
RAM, RECORDS, PHASE = 0xd8000, 0x2000, 0x400
CHANGES = ("idle", "split", "merge", "log-on", "log-off")


class Machine:
    def __init__(self, vcpus, slots, atomic):
        self.vcpus, self.phase, base = vcpus, 0, f"{DIR}/gap-{vcpus}-{slots}-{atomic}"
        with open(f"{DIR}/gap.rom", "wb") as rom:
            rom.write(bytes(0xfff0) + b"\xea\x00\x00\x00\xd8" + bytes(11))	# ljmp $0xd800,$0
        # There are about six slots without DIMMs.
        dimms = max(slots - 6, 0)
        command = [QEMU, "-accel", f"kvm,atomic-memslots={atomic}", "-cpu", "EPYC,-xsave,+x2apic", "-smp", str(vcpus),
                   "-machine", "pc", "-nodefaults", "-no-user-config", "-display", "none", "-S",
                   "-bios", f"{DIR}/gap.rom",
                   "-m", f"64M,slots={max(dimms, 1)},maxmem={64 + 2 * max(dimms, 1)}M",
                   "-L", "/usr/share/seabios", "-L", "/usr/share/qemu", "-global", "kvm-apic.vapic=off",
                   "-qtest", f"unix:{base}.qtest,server=on,wait=off", "-qtest-log", "none",
                   "-qmp", f"unix:{base}.qmp,server=on,wait=off", "-D", f"{base}.trace",
                   "-trace", "kvm_region_pause", "-trace", "kvm_set_user_memory", "-trace", "kvm_set_user_memory_regions"]
        for i in range(dimms):
            command += ["-object", f"memory-backend-ram,id=m{i},size=2M", "-device", f"pc-dimm,id=d{i},memdev=m{i}"]
        for end in ("qtest", "qmp"):
            if os.path.exists(f"{base}.{end}"):
                os.unlink(f"{base}.{end}")
        self.trace = f"{base}.trace"
        with open(f"{base}.stderr", "wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)
        self.test, self.monitor = self.connect(f"{base}.qtest"), self.connect(f"{base}.qmp")
        self.monitor.readline()
        self.qmp("qmp_capabilities")
        self.pam(0, 0x30)
        for i in range(1, 7):
            self.pam(i, 0x33)
        with open(f"{DIR}/gap", "rb") as code:
            self.write(RAM, code.read())
        self.write(RAM + 0x1000, struct.pack("<III", 0, 0xffffffff, RECORDS))
        self.qmp("cont")
        end = time.monotonic() + 30
        while struct.unpack("<H", self.read(RAM + 0x1000, 2))[0] != vcpus:
            if time.monotonic() > end:
                raise SystemExit(f"not all of {vcpus} vCPUs run: {self.qmp('query-status')}")
            time.sleep(0.05)
        before, at = self.ticks(), time.monotonic()
        time.sleep(0.3)
        now, then = self.ticks(), time.monotonic()
        self.rate = ((now - before) & 0xffffffff) / (then - at) / 1e6
        self.write(RAM + 0x1004, struct.pack("<I", int(self.rate * 20)))	# a gap: 20 us

    def connect(self, path):
        for _ in range(600):
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(path)
                return link.makefile("rw")
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("QEMU ended: " + open(path.rpartition(".")[0] + ".stderr").read()[-300:])
                time.sleep(0.05)
        raise SystemExit(f"no {path}")

    def qtest(self, line):
        self.test.write(line + "\n")
        self.test.flush()
        answer = self.test.readline().split()
        if answer[:1] != ["OK"]:
            raise SystemExit(f"qtest: {line[:60]}: {answer}")
        return answer[-1]

    def write(self, place, data):
        self.qtest(f"write {place:#x} {len(data):#x} 0x{data.hex()}")

    def read(self, place, size):
        return bytes.fromhex(self.qtest(f"read {place:#x} {size:#x}")[2:])

    def qmp(self, command, **arguments):
        self.monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.monitor.flush()
        while True:
            answer = json.loads(self.monitor.readline())
            if "event" not in answer:
                return answer.get("return", answer)

    def ticks(self):
        return struct.unpack("<I", self.read(RAM + RECORDS + 16, 4))[0]

    def pam(self, number, value):
        register = 0x59 + number
        self.qtest(f"outl 0xcf8 {0x80000000 | register & ~3:#x}")
        self.qtest(f"outb {0xcfc + register % 4:#x} {value:#x}")

    def window(self, change=lambda: None, length=0.02):
        """Run CHANGE; returns the longest gap of any vCPU and the time that each lost on average, in microseconds."""
        self.phase = self.phase % 40 + 1
        place = RECORDS + self.phase * PHASE
        self.write(RAM + place, bytes(self.vcpus * 64))
        self.write(RAM + 0x1008, struct.pack("<I", place))
        change()
        time.sleep(length)
        self.write(RAM + 0x1008, struct.pack("<I", RECORDS))
        raw = self.read(RAM + place, self.vcpus * 64)
        records = [struct.unpack_from("<IIII", raw, 64 * i) for i in range(self.vcpus)]
        return max(r[3] for r in records) / self.rate, sum(r[1] for r in records) / self.vcpus / self.rate

    def counts(self):
        with open(self.trace, encoding="utf-8") as trace:
            lines = trace.read().splitlines()
        return [sum(event in line for line in lines) for event in
                ("kvm_region_pause ", "kvm_set_user_memory ", "kvm_set_user_memory_regions ")]

    def end(self):
        self.qmp("quit")
        self.process.wait(30)


def migration(machine):
    machine.qmp("migrate-set-parameters", **{"max-bandwidth": 4096})
    on = machine.window(lambda: machine.qmp("migrate", uri="exec:cat >/dev/null"), 0.2)
    for _ in range(100):
        if machine.qmp("query-migrate").get("status") == "active":
            break
        time.sleep(0.05)
    off = machine.window(lambda: machine.qmp("migrate_cancel"), 0.2)
    for _ in range(100):
        if machine.qmp("query-migrate").get("status") == "cancelled":
            break
        time.sleep(0.05)
    return on, off


def measure(vcpus, slots, atomic, changes, found):
    machine = Machine(vcpus, slots, atomic)

    def add(change, window):
        found.setdefault((change, vcpus, slots, atomic), []).append(window)

    before = machine.counts()
    for _ in range(changes):
        add("idle", machine.window())
        add("split", machine.window(lambda: machine.pam(1, 0)))
        add("merge", machine.window(lambda: machine.pam(1, 0x33)))
    after = machine.counts()
    for _ in range(max(changes // 5, 1)):
        on, off = migration(machine)
        add("log-on", on)
        add("log-off", off)
    status = machine.qmp("query-status")["status"]
    if status != "running":
        raise SystemExit(f"the guest is not running any more: {status}")
    machine.end()
    pauses, one, every = (b - a for a, b in zip(before, after))
    print(f"[counts] {vcpus} vCPUs, {slots} slots, {atomic}: {changes} splits and merges: {pauses} pauses, "
          f"{one} ioctls for a slot, {every} ioctls for all", flush=True)


def main():
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
    """{(change, vCPUs, slots, on or off): (all longest gaps, all lost times)} of what main() has printed."""
    found = {}
    for line in re.findall(r"^\[gap\] (.*)", text, re.M):
        head, _, rest = line.partition(" longest ")
        gaps, _, lost = rest.partition(" lost ")
        change, vcpus, slots, atomic = head.split()
        found[change, int(vcpus), int(slots), atomic] = [int(us) for us in gaps.split()], [int(us) for us in lost.split()]
    return found


def rows(text):
    """Of a table: medians in microseconds, off and on, and on / off."""
    found = cases(text)
    for change in CHANGES:
        for what, vcpus, slots, atomic in sorted(found):
            if (what, atomic) != (change, "off") or (what, vcpus, slots, "on") not in found:
                continue
            cells = []
            for off, on in zip(found[what, vcpus, slots, "off"], found[what, vcpus, slots, "on"]):
                off, on = statistics.median(off), statistics.median(on)
                cells += [f"{off:.0f}", f"{on:.0f}", f"{on / off:.2f}" if off else "-"]
            yield [change, str(vcpus), str(slots), *cells]


HEAD = ["change", "vCPUs", "slots", "longest off", "on", "on/off", "lost off", "on", "on/off"]


def plot(text):
    """An SVG: each longest gap as a dot, the median as a line, by case; logarithmic."""
    found, height, left = cases(text), 300, 60
    keys = [(c, v, s) for c in CHANGES for v, s in sorted({key[1:3] for key in found}) if (c, v, s, "on") in found]
    step, parts = 40, []
    width = left + step * len(keys) + 20

    def y(us):
        return height - height * min(math.log10(max(us, 10) / 10), 5) / 5

    for power in range(6):
        at = y(10 ** (power + 1))
        parts.append(f'<path d="M{left} {at}H{width}" stroke="#ccc"/><text x="{left - 5}" y="{at + 4}" text-anchor="end">'
                     f'{10 ** (power + 1)}</text>')
    for i, key in enumerate(keys):
        for atomic, shift, color in (("off", 12, "#c33"), ("on", 28, "#36c")):
            x, gaps = left + i * step + shift, found[(*key, atomic)][0]
            parts += [f'<circle cx="{x}" cy="{y(us):.1f}" r="2" fill="{color}" fill-opacity=".4"/>' for us in gaps]
            parts.append(f'<path d="M{x - 7} {y(statistics.median(gaps)):.1f}h14" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<text transform="translate({left + i * step + 24} {height + 8}) rotate(90)">'
                     f'{key[0]}, {key[1]} vCPUs, {key[2]} slots</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -30 {width} {height + 200}" font-family="sans-serif" '
            f'font-size="11"><rect y="-30" width="100%" height="100%" fill="#fff"/><text x="{left}" y="-12">'
            'Longest gap of a vCPU while the map changes, microseconds. <tspan fill="#c33">atomic-memslots=off</tspan>, '
            '<tspan fill="#36c">on</tspan></text>' + "".join(parts) + "</svg>\n")


if __name__ == "__main__":
    main()
