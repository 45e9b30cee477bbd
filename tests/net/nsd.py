"""A real name server (NSD) on loopback for as long as a `with` block lasts, with the zones of a test.

    with nsd({"example.test": "@ MX 10 mx\nmx A 127.0.0.2"}) as server:
        ...                      # server is "127.0.0.1:40123", ready to answer

Each zone gets an SOA and an NS record where its text has none. `NSD_MISSING` is "" or why there is none. A class of
tests has one for all of them:

    name_server = serving({"example.test": ZONE})

    @pytest.mark.usefixtures("name_server")
    class NsdTests(TestCase):
        server: ClassVar[str]
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = shutil.which("nsd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
NSD_MISSING = "" if _PROGRAM else "nsd is not installed (Debian: apt-get install nsd)"

_READY = 10.0  # seconds that the server may take to start
_ATTEMPTS = 5  # another program may take the port between our choice and NSD's bind


class NsdError(Exception):
    """NSD did not start; the text is what it said."""


@contextmanager
def nsd(zones: dict[str, str], address: str = "127.0.0.1") -> Iterator[str]:
    """Serve `zones` (origin to master file text) on `address` and a free port; yields "address:port"."""
    with tempfile.TemporaryDirectory(prefix="relaymta-nsd-") as folder:
        for _ in range(_ATTEMPTS):
            port = free_port(address)
            process = _start(Path(folder), zones, address, port)
            try:
                if _ready(process, address, port, next(iter(zones))):
                    yield f"{address}:{port}"
                    return
            finally:
                _stop(process)
        raise NsdError((Path(folder) / "log").read_text())


def serving(zones: dict[str, str]) -> Any:
    """A fixture of class scope: one NSD, whose "address:port" is the class's `server`."""

    @pytest.fixture(scope="class")
    def name_server(request: pytest.FixtureRequest) -> Iterator[None]:
        with nsd(zones) as address:
            request.cls.server = address
            yield

    return name_server


def master_file(origin: str, text: str) -> str:
    """The text of a zone's master file (RFC 1035 §5)."""
    head = f"$ORIGIN {origin.rstrip('.')}.\n$TTL 300\n"
    if "SOA" not in text.split():
        head += "@ IN SOA ns.invalid. hostmaster.invalid. 1 3600 900 604800 60\n@ IN NS ns.invalid.\n"
    return f"{head}{text}\n"


def _start(folder: Path, zones: dict[str, str], address: str, port: int) -> subprocess.Popen[bytes]:
    assert _PROGRAM is not None, NSD_MISSING
    lines = [
        "server:",
        f"  ip-address: {address}@{port}",
        "  server-count: 1",
        '  username: ""',
        '  database: ""',
        f'  zonesdir: "{folder}"',
        f'  pidfile: "{folder}/pid"',
        f'  xfrdfile: "{folder}/xfrd"',
        f'  xfrdir: "{folder}"',
        f'  zonelistfile: "{folder}/zones"',
        "  rrl-ratelimit: 0",
        "remote-control:",
        "  control-enable: no",
    ]
    for number, (origin, text) in enumerate(zones.items()):
        (folder / f"zone{number}").write_text(master_file(origin, text))
        lines += ["zone:", f'  name: "{origin}"', f'  zonefile: "zone{number}"']
    (folder / "conf").write_text("\n".join(lines) + "\n")
    with open(folder / "log", "wb") as log:
        return subprocess.Popen(
            [_PROGRAM, "-d", "-c", str(folder / "conf")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its children are stopped with it
        )


def _ready(process: subprocess.Popen[bytes], address: str, port: int, origin: str) -> bool:
    """Ask for an SOA until the answer comes; False when the process ends or time runs out."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in origin.rstrip(".").split("."))
    question = struct.pack("!6H", 4711, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 6, 1)
    end = time.monotonic() + _READY
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.05)
        while time.monotonic() < end and process.poll() is None:
            try:
                sock.sendto(question, (address, port))
                reply = sock.recv(4096)
            except OSError:
                continue
            if len(reply) > 12 and reply[3] & 15 == 0:
                return True
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Its parent process ends and reaps its children when asked; only when it does not, the group is killed."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port(address: str) -> int:
    """A port that is free for both UDP and TCP at the moment."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    while True:
        with socket.socket(family, socket.SOCK_DGRAM) as datagrams, socket.socket(family, socket.SOCK_STREAM) as stream:
            datagrams.bind((address, 0))
            port = int(datagrams.getsockname()[1])
            try:
                stream.bind((address, port))
            except OSError:
                continue
            return port
