"""Clients of our own: one that says exactly what a test wants, and a load that counts its 250s."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Iterator
from types import TracebackType

from attrs import define, field

from tests.peers.letters import letter
from tests.peers.programs import wait_until


class Client:
    """One connection to a server, in lockstep. Replies are str, their lines joined by LF."""

    def __init__(self, port: int, host: str = "127.0.0.1", source: str = "", seconds: float = 30.0) -> None:
        self._sock = socket.create_connection((host, port), seconds, (source, 0) if source else None)
        self._stream = self._sock.makefile("rb")
        self.greeting = self.reply()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, _type: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave without a word."""
        self._stream.close()
        self._sock.close()

    def send(self, octets: bytes) -> None:
        """Send, and wait for nothing."""
        self._sock.sendall(octets)

    def reply(self) -> str:
        """One whole reply; "" when the server has closed the connection."""
        lines = []
        while True:
            try:
                line = self._stream.readline()
            except ConnectionError:
                line = b""
            if not line:
                return ""
            lines.append(line.decode().rstrip("\r\n"))
            if line[3:4] != b"-":
                return "\n".join(lines)

    def say(self, line: str | bytes) -> str:
        """One command, its reply."""
        self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return self.reply()

    def start_tls(self, hello: str = "EHLO", certificate: tuple[str, str] | None = None) -> str:
        """STARTTLS, with the files of a certificate and its key where one is to be shown; the offers under TLS.

        Any certificate of the server will do.
        """
        self.say(f"{hello} client.example.net")
        said = self.say("STARTTLS")
        assert said.startswith("220 "), said
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if certificate is not None:
            context.load_cert_chain(*certificate)
        self._sock = context.wrap_socket(self._sock)
        self._stream = self._sock.makefile("rb")
        return self.say(f"{hello} client.example.net")

    def log_in(self, name: str, password: str) -> str:
        """AUTH PLAIN; the reply."""
        return self.say(b"AUTH PLAIN " + base64.b64encode(f"\0{name}\0{password}".encode()))

    def begin(self, sender: str = "sender@example.net", *recipients: str, options: str = "") -> None:
        """EHLO, MAIL and RCPT, each of which must be answered 250."""
        for line in (
            "EHLO client.example.net",
            f"MAIL FROM:<{sender}>{options}",
            *(f"RCPT TO:<{one}>" for one in recipients or ("recipient@example.org",)),
        ):
            said = self.say(line)
            assert said.startswith("250"), f"{line}: {said}"

    def data(self, content: bytes) -> str:
        """DATA with content of CRLF lines, stuffed here; the last reply."""
        said = self.say("DATA")
        if not said.startswith("354"):
            return said
        self.send((b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
        return self.reply()

    def bdat(self, content: bytes, size: int = 1 << 20) -> str:
        """BDAT chunks of `size` octets, pipelined; the last reply."""
        chunks = [content[at : at + size] for at in range(0, len(content), size)] or [b""]
        said = ""
        for position, chunk in enumerate(chunks):
            last = b" LAST" if position == len(chunks) - 1 else b""
            self.send(b"BDAT %d%s\r\n" % (len(chunk), last) + chunk)
            said = self.reply()
            if not said.startswith("250"):
                return said
        return said


def send_letter(port: int, number: int, *, size: int = 500, sender: str = "sender@example.net", **kwargs: str) -> str:
    """Send one letter to `recipient`; returns its queue id."""
    with Client(port) as client:
        client.begin(sender, kwargs.get("recipient", "recipient@example.org"), options=kwargs.get("options", ""))
        said = client.data(letter(number, size))
        assert said.startswith("250 2.0.0 queued as "), said
        return said.rpartition(" ")[2]


@define(eq=False)
class Load:
    """Letters sent by several sessions at once, until `stop`, or until `messages` have their 250.

    A session that is cut off begins anew, unless stopped, with another letter; the one whose reply it never heard is
    nobody's. `acknowledged`: letters whose 250 was read; `refused`: replies that were not as wished.
    """

    port: int
    messages: int = 1_000_000
    sessions: int = 8
    size: int = 2000
    per_connection: int = 1_000_000
    acknowledged: set[int] = field(factory=set)
    refused: list[str] = field(factory=list)
    cut: int = 0
    _numbers: Iterator[int] = field(init=False)
    _threads: list[threading.Thread] = field(factory=list)
    _lock: threading.Lock = field(factory=threading.Lock)
    _stopping: threading.Event = field(factory=threading.Event)

    def start(self, first: int = 0) -> Load:
        """Begin, with letter `first`."""
        self._numbers = iter(range(first, first + self.messages))
        self._stopping.clear()
        self._threads = [threading.Thread(target=self._run) for _ in range(self.sessions)]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self, seconds: float = 60.0) -> None:
        """No new letter; wait until every session has ended."""
        self._stopping.set()
        self.wait(seconds)

    def wait(self, seconds: float = 120.0) -> None:
        """Wait until all letters are sent."""
        try:
            wait_until("the end of the load", lambda: not any(t.is_alive() for t in self._threads), seconds)
        finally:
            self._stopping.set()

    def wait_for(self, messages: int, seconds: float = 60.0) -> None:
        """Wait until so many have their 250."""
        wait_until(
            f"{messages} acknowledged", lambda: len(self.acknowledged) >= messages, seconds,
            lambda: f"{len(self.acknowledged)} are, {self.cut} sessions cut, refused: {self.refused[:3]}",
        )  # fmt: skip

    def _next(self) -> int | None:
        with self._lock:
            return None if self._stopping.is_set() else next(self._numbers, None)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._converse():
                    return
            except OSError:
                with self._lock:
                    self.cut += 1
                self._stopping.wait(0.05)  # the server is down: do not hammer it

    def _converse(self) -> bool:
        """One connection; False when there is nothing left to send. Raises OSError when it is cut."""
        with socket.create_connection(("127.0.0.1", self.port), 30) as sock:
            stream = sock.makefile("rb")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._expect(stream.readline(), b"220")
            sock.sendall(b"EHLO load.example.net\r\n")
            while (line := stream.readline())[3:4] == b"-":
                pass
            self._expect(line, b"250")
            for _ in range(self.per_connection):
                number = self._next()
                if number is None:
                    sock.sendall(b"QUIT\r\n")
                    return False
                sock.sendall(b"MAIL FROM:<sender@example.net>\r\nRCPT TO:<recipient@example.org>\r\nDATA\r\n")
                for code in (b"250", b"250", b"354"):
                    self._expect(stream.readline(), code)
                sock.sendall((b"\r\n" + letter(number, self.size)).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
                self._expect(stream.readline(), b"250")
                with self._lock:
                    self.acknowledged.add(number)
            sock.sendall(b"QUIT\r\n")
            self._expect(stream.readline(), b"221")
        return True

    def _expect(self, line: bytes, code: bytes) -> None:
        if not line.endswith(b"\n"):
            raise ConnectionResetError
        if not line.startswith(code):
            with self._lock:
                self.refused.append(line.decode().rstrip())
            raise ConnectionResetError
