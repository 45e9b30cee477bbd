"""The load generator: pipelined SMTP over epoll, one thread a process, every reply read and checked.

RFC 2920: MAIL, all RCPTs and DATA go in one write; the content goes with the next letter's envelope (or QUIT) behind
it. A letter therefore costs one write and one read on a connection that is reused. Without pipelining each command
waits for its reply, as most programs send. Over TLS each connection has a handshake of its own (RFC 3207); nothing is
resumed.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections import deque
from time import monotonic

from attrs import define, frozen

from bench.certificate import CIPHER
from bench.ledger import CONNECTIONS, COUNT, FIRST, LAST, WIDTH, Ledger
from bench.letter import Letter

_EHLO = b"EHLO generator.bench.test\r\n"


def _context() -> ssl.SSLContext:
    """A client that believes every certificate, since it is the server's side that is measured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class RefusedError(Exception):
    """The server said something else than the benchmark needs: the round is worth nothing."""


@frozen
class Load:
    """What one generator process sends. `rate` is letters a second, 0 for as fast as it can."""

    host: str
    port: int
    letter: Letter
    messages: int
    sessions: int
    reuse: bool
    recipients: int = 1
    domains: int = 1  # 1: always the zone itself; more: dNNNN.zone in turn
    zone: bytes = b"bench.test"
    pipelining: bool = True
    tls: bool = False  # STARTTLS first
    rate: float = 0.0
    patience: float = 120.0  # seconds without any reply before the round is given up

    def share(self, part: int, parts: int) -> range:
        """The numbers that process `part` of `parts` sends."""
        return range(part, self.messages, parts)


@define(eq=False)
class Session:
    """One connection. `expected` is the first digits of the replies awaited, in order."""

    sock: socket.socket
    expected: bytes = b"2"
    heard: bytes = b""
    unsent: memoryview | None = None
    number: int = -1  # the letter whose final reply is awaited
    following: int = -1  # the letter whose envelope was sent behind it
    steps: deque[tuple[bytes, bytes]] | None = None  # lockstep: what to say next, what it must answer
    greeted: bool = False
    tls: ssl.SSLSocket | None = None
    shaking: bool = False  # the handshake has begun and has not ended
    idle: bool = False


class Generator:
    """Sends one share of a load and fills its slot of the ledger."""

    def __init__(self, load: Load, ledger: Ledger, part: int = 0, parts: int = 1) -> None:
        self._load = load
        self._ledger = ledger
        self._slot = part * WIDTH
        self._slots = ledger.generators
        self._run = int(ledger.round[0])
        self._part = part
        self._numbers = iter(load.share(part, parts))
        self._todo = len(load.share(part, parts))
        self._parts = parts
        self._epoll = select.epoll()
        self._sessions: dict[int, Session] = {}
        self._waiting: deque[Session] = deque()  # for their turn, when the rate is limited
        self._released = 0
        self._begun = 0.0
        self._opened = 0
        self._names = [
            [b"r%02d@%b" % (who, self._domain(which)) for who in range(load.recipients)]
            for which in range(load.domains)
        ]
        self._envelopes = [
            b"MAIL FROM:<generator@bench.test>\r\n"
            + b"".join(b"RCPT TO:<%b>\r\n" % name for name in names)
            + b"DATA\r\n"
            for names in self._names
        ]
        self._context = _context() if load.tls else None
        self._envelope_replies = b"2" + b"2" * load.recipients + b"3"

    def _domain(self, which: int) -> bytes:
        return self._load.zone if self._load.domains == 1 else b"d%04d.%b" % (which, self._load.zone)

    def run(self) -> None:
        """Send it all; returns when the last letter has its 250. Raises RefusedError, OSError."""
        load = self._load
        self._begun = self._slots[self._slot + FIRST] = monotonic()
        for _ in range(min(load.sessions // self._parts or 1, self._todo)):
            self._connect()
        heard = monotonic()
        while self._todo:
            pause = 1.0
            if self._waiting:
                pause = self._release()
            events = self._epoll.poll(pause)
            if events:
                heard = monotonic()
            elif monotonic() - heard > load.patience:
                raise RefusedError(f"no reply within {load.patience:.0f} s")
            for descriptor, event in events:
                session = self._sessions.get(descriptor)
                if session is None:
                    continue
                if event & select.EPOLLOUT:
                    self._flush(session)
                if event & ~select.EPOLLOUT:
                    self._read(session)
        self._slots[self._slot + LAST] = monotonic()
        for session in list(self._sessions.values()):
            self._close(session)

    # Connections

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Twenty source addresses, so that a minute of short connections does not use up a port range.
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        sock.bind((f"127.0.0.{101 + self._opened % 20}", 0))
        sock.setblocking(False)
        failure = sock.connect_ex((self._load.host, self._load.port))
        if failure not in (0, errno.EINPROGRESS):
            raise OSError(failure, os.strerror(failure))
        self._opened += 1
        self._slots[self._slot + CONNECTIONS] += 1
        session = Session(sock)
        self._sessions[sock.fileno()] = session
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _close(self, session: Session) -> None:
        del self._sessions[session.sock.fileno()]
        session.sock.close()

    def _write(self, session: Session, octets: bytes) -> None:
        sent = 0
        try:
            sent = session.sock.send(octets)
        except (BlockingIOError, ssl.SSLWantWriteError):
            pass
        if sent < len(octets):
            session.unsent = memoryview(octets)[sent:]
            self._epoll.modify(session.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _flush(self, session: Session) -> None:
        if session.unsent is not None:
            try:
                session.unsent = session.unsent[session.sock.send(session.unsent) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                return
            if not session.unsent:
                session.unsent = None
                self._epoll.modify(session.sock.fileno(), select.EPOLLIN)

    def _read(self, session: Session) -> None:
        octets = session.sock.recv(65536) if session.tls is None else self._read_tls(session, session.tls)
        if octets is None:
            return
        if not octets:
            raise RefusedError(f"connection lost in the midst of letter {session.number}")
        heard = session.heard + octets if session.heard else octets
        if not session.greeted:
            self._greet(session, heard)
            return
        if heard.count(b"\n") < len(session.expected):
            session.heard = heard
            if not heard.startswith((b"2", b"3")) and heard.endswith(b"\n"):
                raise RefusedError(heard.decode(errors="replace"))
            return
        session.heard = b""
        digits = b"".join([line[:1] for line in heard.split(b"\r\n")])
        if digits != session.expected:
            raise RefusedError(f"expected {session.expected!r}, heard {heard[:1000]!r}")
        self._answered(session)

    def _greet(self, session: Session, heard: bytes) -> None:
        """220, then EHLO, whose reply has as many lines as it likes."""
        lines = heard.split(b"\r\n")
        if len(lines) < 2 or lines[-1] or lines[-2][3:4] == b"-":
            session.heard = heard
            return
        session.heard = b""
        if not heard.startswith(b"2"):
            raise RefusedError(heard.decode(errors="replace"))
        if session.expected == b"2":
            session.expected = b""
            self._write(session, _EHLO)
        elif self._context is None or session.tls is not None:
            session.greeted = True
            self._next(session)
        elif session.expected == b"":
            session.expected = b"220"
            self._write(session, b"STARTTLS\r\n")
        else:
            session.sock = session.tls = self._context.wrap_socket(session.sock, do_handshake_on_connect=False)
            session.shaking = True
            self._shake(session, session.tls)

    # TLS

    def _shake(self, session: Session, sock: ssl.SSLSocket) -> None:
        """Go on with the handshake; behind it EHLO is said anew."""
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            return
        session.shaking = False
        cipher = sock.cipher()
        if cipher is None or cipher[0] != CIPHER:
            raise RefusedError(f"the server wants {cipher}, and the other would be measured with {CIPHER}")
        session.expected = b""
        self._write(session, _EHLO)

    def _read_tls(self, session: Session, sock: ssl.SSLSocket) -> bytes | None:
        """All that has come; None for nothing that is ours to read."""
        if session.shaking:
            self._shake(session, sock)
            return None
        octets = b""
        try:
            while True:
                piece = sock.recv(65536)
                octets += piece
                if not piece or not sock.pending():
                    return octets
        except ssl.SSLWantReadError:
            return octets or None

    # Letters

    def _take(self) -> int:
        return next(self._numbers, -1)

    def _next(self, session: Session) -> None:
        """Begin a letter on a connection that is at rest, when it is its turn."""
        if self._load.rate and not session.idle:
            session.idle = True
            self._waiting.append(session)
            return
        session.idle = False
        number = self._take()
        if number < 0:
            self._close(session)
            return
        session.following = number
        if self._load.pipelining:
            session.expected = self._envelope_replies
            self._write(session, self._envelopes[number % self._load.domains])
        else:
            lines = self._envelopes[number % self._load.domains].splitlines(keepends=True)
            session.steps = deque(zip(lines, (b"%c" % digit for digit in self._envelope_replies), strict=True))
            self._step(session)

    def _release(self) -> float:
        """Let as many idle connections go as the rate allows; return seconds until the next may."""
        due = (monotonic() - self._begun) * self._load.rate / self._parts
        while self._waiting and self._released < due:
            self._next(self._waiting.popleft())
            self._released += 1
        return max((self._released - due) * self._parts / self._load.rate, 0.0005) if self._waiting else 1.0

    def _step(self, session: Session) -> None:
        assert session.steps is not None
        line, session.expected = session.steps.popleft()
        self._write(session, line)

    def _answered(self, session: Session) -> None:
        """All replies of a group are in and good."""
        load = self._load
        if session.steps:
            self._step(session)
            return
        if session.number >= 0:
            self._ledger.accepted[session.number] = monotonic()
            self._slots[self._slot + COUNT] += 1
            self._todo -= 1
            session.number = -1
        if session.following < 0:  # at rest: after QUIT, or in lockstep or at a measured pace
            self._rested(session)
            return
        number, session.number, session.following = session.following, session.following, -1
        content = load.letter.wire(self._run, number)
        if load.rate or not load.pipelining:
            session.expected = b"2"
        elif load.reuse and (following := self._take()) >= 0:
            session.following = following
            session.expected = b"2" + self._envelope_replies
            content += self._envelopes[following % load.domains]
        else:
            session.expected = b"22"
            content += b"QUIT\r\n"
        self._write(session, content)

    def _rested(self, session: Session) -> None:
        load = self._load
        if load.reuse and (load.rate or not load.pipelining):
            self._next(session)
        elif not load.pipelining and session.expected == b"2" and not session.idle:
            session.idle = True  # the letter is done; say goodbye before the next connection
            self._write(session, b"QUIT\r\n")
        else:
            self._close(session)
            if not load.reuse and self._todo > len(self._sessions):
                self._connect()


def send(load: Load, ledger: Ledger, part: int, parts: int) -> None:
    """The life of a generator process."""
    try:
        Generator(load, ledger, part, parts).run()
    except (RefusedError, OSError) as error:
        ledger.complain(f"generator: {error}")
        os._exit(1)
    os._exit(0)
