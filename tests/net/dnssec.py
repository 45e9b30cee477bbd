"""A signed world on loopback: zones signed by ldnsutils, served by NSD, validated by unbound.

    with signed_world({"signed.test": "@ MX 10 mx\nmx A 127.0.0.2"}) as world:
        ...                      # world.resolver is "127.0.0.1:40123", whose AD bit can be believed

`unsigned` zones have no signatures; `forged` changes the text of the signed zones behind their signatures; `elsewhere`
maps zones to name servers of the test's own. `DNSSEC_MISSING` is "" or why there is none.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from tests.net.nsd import NSD_MISSING, free_port, master_file, nsd

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_UNBOUND = shutil.which("unbound", path=_PATH)
_KEYGEN, _SIGN = shutil.which("ldns-keygen", path=_PATH), shutil.which("ldns-signzone", path=_PATH)
DNSSEC_MISSING = (
    NSD_MISSING
    or ("" if _UNBOUND else "unbound is not installed (Debian: apt-get install unbound)")
    or ("" if _KEYGEN and _SIGN else "ldns-signzone is not installed (Debian: apt-get install ldnsutils)")
)
_READY = 10.0  # seconds that the resolver may take to start
_ATTEMPTS = 5  # another program may take the port between our choice and unbound's bind


class UnboundError(Exception):
    """unbound did not start; the text is what it said."""


@frozen
class SignedWorld:
    """Where the validating resolver is, and the name server behind it."""

    resolver: str
    name_server: str


@contextmanager
def signed_world(
    signed: Mapping[str, str],
    unsigned: Mapping[str, str] | None = None,
    *,
    forged: Callable[[str], str] = lambda text: text,
    elsewhere: Mapping[str, str] | None = None,
) -> Iterator[SignedWorld]:
    """Serve and validate these zones (origin to master file text) for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="relaymta-dnssec-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        zones = {origin: forged(_sign(folder, origin, text)) for origin, text in signed.items()}
        with nsd({**zones, **(unsigned or {})}) as name_server:
            stubs = dict.fromkeys([*zones, *(unsigned or {})], name_server) | dict(elsewhere or {})
            for _ in range(_ATTEMPTS):
                port = free_port("127.0.0.1")
                process = _start(folder, list(signed), stubs, port)
                try:
                    if _ready(process, port):
                        yield SignedWorld(f"127.0.0.1:{port}", name_server)
                        return
                finally:
                    process.terminate()
                    process.wait(10)
            raise UnboundError((folder / "log").read_text())


def _sign(folder: Path, origin: str, text: str) -> str:
    """The signed master file; the key stays in the folder as the trust anchor."""
    assert _KEYGEN is not None and _SIGN is not None, DNSSEC_MISSING
    command = [_KEYGEN, "-k", "-a", "ECDSAP256SHA256", "-r", "/dev/urandom", origin]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=30)
    base = made.stdout.strip()
    (folder / f"{base}.key").rename(folder / f"{origin}.anchor")
    shutil.copy(folder / f"{origin}.anchor", folder / f"{base}.key")
    (folder / "plain").write_text(master_file(origin, text))
    command = [_SIGN, "-f", "signed", "plain", base]
    subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=30)
    return (folder / "signed").read_text()


def _start(folder: Path, anchors: list[str], stubs: Mapping[str, str], port: int) -> subprocess.Popen[bytes]:
    assert _UNBOUND is not None, DNSSEC_MISSING
    lines = [
        "server:",
        f"  interface: 127.0.0.1@{port}",
        "  access-control: 127.0.0.0/8 allow",
        "  do-daemonize: no",
        "  do-not-query-localhost: no",
        "  do-ip6: no",
        "  num-threads: 1",
        '  chroot: ""',
        '  username: ""',
        f'  directory: "{folder}"',
        '  pidfile: ""',
        "  use-syslog: no",
        '  logfile: ""',
        "  val-log-level: 2",
        '  module-config: "validator iterator"',
        "  ede: yes",
        '  local-zone: "test." nodefault',
        *(f'  trust-anchor-file: "{folder}/{origin}.anchor"' for origin in anchors),
        "remote-control:",
        "  control-enable: no",
    ]
    for origin, server in stubs.items():
        lines += ["stub-zone:", f'  name: "{origin}"', f"  stub-addr: {server.replace(':', '@')}", "  stub-prime: no"]
    (folder / "conf").write_text("\n".join(lines) + "\n")
    with open(folder / "log", "wb") as log:
        return subprocess.Popen(
            [_UNBOUND, "-d", "-c", str(folder / "conf")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _ready(process: subprocess.Popen[bytes], port: int) -> bool:
    """Ask for localhost until the answer comes; False when the process ends or time runs out."""
    question = struct.pack("!6H", 4711, 0x0100, 1, 0, 0, 0) + b"\x09localhost\0" + struct.pack("!HH", 1, 1)
    end = time.monotonic() + _READY
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.05)
        while time.monotonic() < end and process.poll() is None:
            try:
                sock.sendto(question, ("127.0.0.1", port))
                if len(sock.recv(4096)) > 12:
                    return True
            except OSError:
                continue
    return False
