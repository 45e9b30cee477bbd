"""What processes cost, read from /proc, and how ours are ended: by their ids, never by name."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def children() -> dict[int, list[int]]:
    """Every living process's children."""
    tree: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, IndexError):
                fields = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
                tree.setdefault(int(fields[1]), []).append(int(name))
    return tree


def family(pid: int) -> list[int]:
    """A process and all its living descendants."""
    tree = children()
    found = [pid]
    for each in found:
        found.extend(tree.get(each, []))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its living descendants, and all of theirs that were reaped."""
    ticks = 0
    for each in family(pid):
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{each}/stat").read_bytes().rpartition(b")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICK


def memory(pid: int) -> int:
    """Octets held by a process and its descendants; what they share is counted once (PSS)."""
    total = 0
    for each in family(pid):
        with suppress(OSError, IndexError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_bytes().splitlines():
                if line.startswith(b"Pss:"):
                    total += int(line.split()[1]) * 1024
                    break
    return total


class Watch:
    """Samples the memory of a family of processes from a thread until it is told to stop.

    A look at Postfix's two hundred processes costs 40 ms of CPU, so it is taken seldom, and once at the end.
    """

    def __init__(self, pid: int, every: float = 2.0) -> None:
        self._pid = pid
        self._every = every
        self._end = threading.Event()
        self.samples: list[tuple[float, int]] = []  # seconds since the start, octets
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(self._every):
            self._look()

    def _look(self) -> None:
        self.samples.append((round(time.monotonic() - self._begun, 2), memory(self._pid)))

    def stop(self) -> int:
        """End and return the peak in octets."""
        self._end.set()
        self._thread.join()
        self._look()
        return max(octets for _, octets in self.samples)


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def greets(port: int) -> bool:
    """Whether an SMTP server on 127.0.0.1 says 220."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
        return sock.recv(512).startswith(b"220")
    return False


def wait_for(what: str, ready: Callable[[], bool], seconds: float, every: float = 0.02) -> None:
    """Ask `ready` until it is true; TimeoutError says what did not come."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)
