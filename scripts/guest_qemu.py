# SPDX-License-Identifier: GPL-2.0
"""A QEMU process with its QMP monitor, for programs that run in the kernel under test (make guest)."""

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path

PATIENCE = 300
FIRMWARE = ("-L", "/usr/share/seabios", "-L", "/usr/share/qemu")      # our QEMU has none of its own
TRACED = {"kvm_region_commit": "commits", "kvm_region_pause": "pauses", "kvm_set_user_memory": "ioctls for a slot",
          "kvm_set_user_memory_regions": "ioctls for all"}


class Broken(Exception):
    pass


def wait_for(what, function, patience=PATIENCE, pause=0.1):
    """The first result of FUNCTION that is true."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        result = function()
        if result:
            return result
        time.sleep(pause)
    raise Broken(f"waited {patience} s for {what}")


def connect(path):
    """A connection to the socket PATH, which exists before its owner listens."""
    def connected():
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(path)
            return link
        except ConnectionRefusedError:
            return link.close()
    return wait_for(f"{path} to accept", connected, patience=30)


class Qemu:
    """COMMAND with -qmp; its files are PATH.*. It is ready when PATH.LAST, the last socket that it makes, is there too."""

    def __init__(self, name, path, command, last="qmp"):
        self.name, self.path, self.events = name, path, []
        for end in ("qmp", last):
            if os.path.exists(f"{path}.{end}"):
                os.unlink(f"{path}.{end}")
        with open(f"{path}.stderr", "wb") as errors:
            self.process = subprocess.Popen([*command, "-qmp", f"unix:{path}.qmp,server=on,wait=off"],
                                            stdin=subprocess.DEVNULL, stderr=errors)
        wait_for(f"{name} to start", lambda: self.alive() and all(os.path.exists(f"{path}.{end}") for end in ("qmp", last)))
        self.monitor = connect(f"{path}.qmp")
        self.link = self.monitor.makefile("rw", encoding="utf-8")
        self.link.readline()
        self.qmp("qmp_capabilities")

    def errors(self):
        """What it has written to standard error, in lines."""
        return Path(f"{self.path}.stderr").read_text("utf-8", "replace").splitlines()

    def alive(self):
        if self.process.poll() is not None:
            last = ([line for line in self.errors() if "warning" not in line] or ["no error"])[-1].strip()
            # Without an error: with -no-reboot, a guest that resets itself or has a triple fault.
            raise Broken(f"{self.name} ended with {self.process.returncode}: {last}")
        return True

    def state(self):
        """What it said last, its state, what its threads wait for and its vCPUs do, in lines: for one that stands still."""
        yield from self.errors()[-5:]
        for task in sorted(Path(f"/proc/{self.process.pid}/task").iterdir()):
            with contextlib.suppress(OSError):
                yield " ".join([task.name] + [(task / name).read_text().strip() for name in ("comm", "wchan", "syscall")])
        self.monitor.settimeout(30)
        yield from (f"{name}: {self.qmp(name)}" for name in ("query-status", "query-migrate"))
        for cpu in self.qmp("query-cpus-fast"):
            def human(command, number=cpu["cpu-index"]):
                return self.qmp("human-monitor-command", **{"command-line": command, "cpu-index": number})
            said = human("info registers") + human("info lapic")
            yield from (line.strip() for line in said.splitlines() if re.search(r"CPU|[RE][IS]P|CR2|LVTT\s|Timer|ISR|IRR", line))
            # For its call trace, with System.map.
            stack = re.search("RSP=([0-9a-f]+)", said)
            yield from (line for line in (human(f"x /64gx 0x{stack[1]}") if stack else "").splitlines() if "0xffffffff8" in line)

    def qmp(self, command, **arguments):
        self.link.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.link.flush()
        while True:
            line = self.link.readline()
            if not line:
                raise Broken(f"{self.name} is gone, after {command}")
            answer = json.loads(line)
            if "event" in answer:
                self.events.append((answer["event"], answer.get("data", {})))
            elif "error" in answer:
                raise Broken(f"{command} {arguments}: {answer['error']['desc']}")
            else:
                return answer["return"]


def trace_options(path):
    """Options that have QEMU write the events of TRACED to PATH.trace."""
    return ["-D", f"{path}.trace", *(word for event in TRACED for word in ("-trace", event))]


def traced(path):
    """How often each event of TRACED is in PATH.trace."""
    if not os.path.exists(f"{path}.trace"):
        return [0] * len(TRACED)
    with open(f"{path}.trace", encoding="utf-8", errors="replace") as trace:
        lines = trace.read().splitlines()
    return [sum(f"{event} " in line for line in lines) for event in TRACED]
