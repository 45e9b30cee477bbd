"""A name server of our own on loopback: a thousand domains, each with an MX host of its own.

NSD answers for bench.test and deep.test alone. Port 53 and low ports need root; `why_not` says so.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from attrs import define

from bench.processes import wait_for

RESOLVER = "127.0.153.1"

CONFIGURATION = """\
server:
  ip-address: {resolver}@53
  username: ""
  chroot: ""
  zonesdir: "{directory}"
  database: ""
  pidfile: ""
  xfrdfile: "{directory}/xfrd"
  zonelistfile: "{directory}/zones"
  logfile: "{directory}/nsd.log"
  server-count: 1
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: bench.test
  zonefile: bench.zone
zone:
  name: deep.test
  zonefile: deep.zone
"""

HEAD = "$TTL 3600\n@ SOA ns.{zone}. root.{zone}. 1 3600 600 86400 60\n@ NS ns.{zone}.\nns A {resolver}\n"


def why_not() -> str:
    """ "" where a local name server can be run, else the reason."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    if not shutil.which("nsd", path=path):
        return "nsd is not installed"
    if os.geteuid() != 0:
        return "port 53 needs root"
    return ""


def host(which: int) -> str:
    """The loopback address at which domain number `which` takes its mail."""
    return f"127.0.{160 + which // 250}.{1 + which % 250}"


def grave(which: int) -> str:
    """The loopback address of dead domain number `which`."""
    return f"127.0.{156 + which // 250}.{1 + which % 250}"


def hosts(domains: int) -> Iterator[tuple[str, int]]:
    """Where a sink listens for so many domains."""
    return ((host(which), 25) for which in range(domains))


@define
class Names:
    """One NSD."""

    directory: Path
    domains: int = 1000
    refusing: str = "127.0.154.1"  # where all of deep.test takes mail, or does not
    dead: int = 0  # of deep.test, so many have an address each that never answers
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Write the zones, start, and wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        zone = [HEAD.format(zone="bench.test", resolver=RESOLVER)]
        for which in range(self.domains):
            zone.append(f"d{which:04d} MX 10 mx.d{which:04d}\nmx.d{which:04d} A {host(which)}\n")
        (self.directory / "bench.zone").write_text("".join(zone))
        deep = [HEAD.format(zone="deep.test", resolver=RESOLVER) + f"mx A {self.refusing}\n* MX 10 mx\n"]
        for which in range(self.dead):
            deep.append(f"d{which:05d} MX 10 mx.d{which:05d}\nmx.d{which:05d} A {grave(which)}\n")
        (self.directory / "deep.zone").write_text("".join(deep))
        file = self.directory / "nsd.conf"
        file.write_text(CONFIGURATION.format(directory=self.directory, resolver=RESOLVER))
        self._process = subprocess.Popen(
            ["/usr/sbin/nsd", "-d", "-c", file],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for("the name server", self._answers, 20, 0.05)

    def _answers(self) -> bool:
        question = bytes.fromhex("0001010000010000000000000562656e6368047465737400" + "00060001")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.5)
            try:
                sock.sendto(question, (RESOLVER, 53))
                return sock.recv(512)[3] & 15 == 0
            except OSError:
                return False

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None
