"""Other people's programs, run on loopback: Postfix's smtp-source and smtp-sink, swaks and haproxy.

Each is a small class or function around a command line; the fixtures in conftest.py start and end them, and skip the
test with the reason where a program is not installed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import define, field, frozen

_PORTS = range(10_240, 32_768)  # below those that Linux gives to clients: a server can be started there again


def program(name: str, package: str) -> str:
    """The path of a program; where it is missing the test is skipped, and says which package to install."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (apt-get install {package})")
    return path


def free_port(host: str = "127.0.0.1") -> int:
    """A port of `host` that nobody listens on at this moment, and that the kernel gives to no client meanwhile."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as sock:
            try:
                sock.bind((host, port))
            except OSError:
                continue
            return port


def wait_until(
    what: str, ready: Callable[[], bool], seconds: float = 20.0, instead: Callable[[], str] = lambda: ""
) -> None:
    """Ask `ready` again and again; AssertionError says what did not come in time, and what was there `instead`."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s; {instead()}"
        time.sleep(0.02)  # another program's state: there is nothing to be told by


def listens(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


@frozen
class Dumped:
    """A message as smtp-sink wrote it down. `content` has LF line ends and no fields of smtp-sink's own."""

    sender: str
    recipients: tuple[str, ...]
    helo: str
    content: bytes

    @classmethod
    def read(cls, octets: bytes) -> Dumped:
        """Parse one file of `smtp-sink -d`: its X- fields, its Received field, then the message."""
        sender, helo, recipients, lines = "", "", [], octets.split(b"\n")
        index = 0
        while lines[index].startswith(b"X-"):
            name, _, value = lines[index].decode().partition(": ")
            path = value.split(" ")[0].strip("<>")
            if name == "X-Mail-Args":
                sender = path
            elif name == "X-Rcpt-Args":
                recipients.append(path)
            elif name == "X-Helo-Args":
                helo = value
            index += 1
        if lines[index].startswith(b"Received: "):
            index += 1
            while lines[index].startswith((b"\t", b" ")):
                index += 1
        return cls(sender, tuple(recipients), helo, b"\n".join(lines[index:]))


@define
class SmtpSink:
    """One smtp-sink. `options` are its own; it dumps what it takes into `folder`, one file a message."""

    program: str
    folder: Path
    host: str = "127.0.0.1"
    port: int = field(factory=free_port)
    options: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> SmtpSink:
        """Run it until it listens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [self.program]
        if os.geteuid() == 0:
            self.folder.chmod(0o777)
            words += ["-u", "nobody"]  # it refuses to stay root
        words += ["-R", str(self.folder), "-d", "%s.", *self.options, f"{self.host}:{self.port}", "1024"]
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.folder / "stderr").open("wb")
        )
        wait_until("smtp-sink", lambda: listens(self.host, self.port))
        return self

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _files(self) -> Iterator[Path]:
        return (path for path in self.folder.iterdir() if path.name != "stderr")

    def count(self) -> int:
        """Files so far; the last ones may not be whole yet, nor may all be messages."""
        return sum(1 for _ in self._files())

    def messages(self) -> list[Dumped]:
        """Every message that it took to its end; a session that brought none leaves an empty file."""
        found = []
        for path in self._files():
            octets = path.read_bytes()
            if b"\nX-Rcpt-Args: " in octets:
                found.append(Dumped.read(octets))
        return found

    def wait_for(self, messages: int, seconds: float = 60.0) -> list[Dumped]:
        """Wait until so many messages are there, and return them."""
        wait_until(f"{messages} messages at smtp-sink", lambda: self.count() >= messages, seconds)
        wait_until(f"{messages} whole messages", lambda: len(self.messages()) >= messages, seconds)
        return self.messages()


@frozen
class SmtpSource:
    """smtp-source: many messages of so many octets, `sessions` at a time."""

    program: str

    def send(
        self,
        port: int,
        messages: int,
        *,
        host: str = "127.0.0.1",
        sessions: int = 20,
        length: int = 4096,
        recipients: int = 1,
        reuse: bool = True,
        sender: str = "source@example.net",
        recipient: str = "sink@example.org",
        lmtp: bool = False,
        seconds: float = 120.0,
    ) -> None:
        """Send them all; AssertionError with its words when one was refused."""
        words = [self.program, "-s", str(sessions), "-m", str(messages), "-l", str(length), "-r", str(recipients)]
        words += ["-f", sender, "-t", recipient, *(["-d"] if reuse else []), *(["-L"] if lmtp else [])]
        words.append(f"{host}:{port}")
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "fatal" not in done.stderr, done.stderr


@frozen
class Said:
    """What swaks saw: `transcript` of the dialogue, and its exit status (0: taken)."""

    status: int
    transcript: str


@frozen
class Swaks:
    """swaks, the Swiss army knife for SMTP."""

    program: str

    def __call__(self, port: int, *words: str, host: str = "127.0.0.1", seconds: float = 60.0) -> Said:
        """Run it against host:port with further options, such as "--to", "a@example.org"."""
        return self._run("--server", host, "--port", str(port), *words, seconds=seconds)

    def on_socket(self, path: str, *words: str, seconds: float = 60.0) -> Said:
        """Run it against a UNIX socket."""
        return self._run("--socket", path, *words, seconds=seconds)

    def _run(self, *words: str, seconds: float) -> Said:
        command = [self.program, "--helo", "client.example.net", *words]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
        return Said(done.returncode, done.stdout + done.stderr)


HAPROXY = """\
global
{user}defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout check 5s
"""

HAPROXY_WAY = """\
listen way{number}
    bind {host}:{port}
    server relay 127.0.0.1:{relay} source {source} {options}
"""


@define
class Haproxy:
    """haproxy before a relay at 127.0.0.1:`relay`: one port for each of `ways`, which are options of its `server` line.

    Clients connect to any address of loopback; the relay sees `source`.
    """

    program: str
    folder: Path
    relay: int
    source: str
    ways: tuple[str, ...]
    ports: list[int] = field(factory=list)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> Haproxy:
        """Run it until it listens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ports = [free_port() for _ in self.ways]
        text = HAPROXY.format(user="    user nobody\n" if os.geteuid() == 0 else "")
        for number, (port, options) in enumerate(zip(self.ports, self.ways, strict=True)):
            text += HAPROXY_WAY.format(
                number=number, host="127.0.0.1", port=port, relay=self.relay, source=self.source, options=options
            )
        (self.folder / "haproxy.cfg").write_text(text)
        self._process = subprocess.Popen(
            [self.program, "-db", "-f", self.folder / "haproxy.cfg"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "stderr").open("wb"),
        )
        for port in self.ports:
            wait_until("haproxy", lambda port=port: listens("127.0.0.1", port), 20, self._complaints)  # type: ignore[misc]
        return self

    def _complaints(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
