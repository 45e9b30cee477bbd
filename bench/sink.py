"""The sink: takes every letter, checks every octet, and writes into the ledger what arrived, when and how often.

Its processes share listening sockets. It offers what a good receiver offers (PIPELINING, SIZE, 8BITMIME) and stores
nothing. A sink that `defers` answers each recipient with 450, as the deep queue needs it.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterable, Sequence
from time import monotonic

from attrs import define

from bench.ledger import CONNECTIONS, COUNT, DEFERRED, FIRST, LAST, STRAY, WIDTH, WRONG, Ledger
from bench.letter import Letter

END = b"\r\n.\r\n"
EXTENSIONS = b"250-sink.bench.test\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n"
EXTENSIONS += b"250 ENHANCEDSTATUSCODES\r\n"


def listening(addresses: Iterable[tuple[str, int]]) -> list[socket.socket]:
    """Sockets that sink processes inherit; port 0 is any free port."""
    sockets = []
    for address in addresses:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(1024)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


@define(eq=False)
class Receiving:
    """One connection: what was heard and not yet understood, and which part of the dialogue it is."""

    sock: socket.socket
    heard: bytearray
    content: bool = False
    searched: int = 0  # octets of `heard` in which there is no end of data
    recipients: int = 0
    leaving: bool = False


class Sink:
    """One sink process."""

    def __init__(
        self, sockets: Sequence[socket.socket], letter: Letter, ledger: Ledger, slot: int, defers: bool = False
    ) -> None:
        self._letter = letter
        self._ledger = ledger
        self._slot = slot * WIDTH
        self._defers = defers
        self._epoll = select.epoll()
        self._doors = {sock.fileno(): sock for sock in sockets}
        self._open: dict[int, Receiving] = {}
        for sock in sockets:
            self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)

    def run(self) -> None:
        """Serve until the process is ended."""
        while True:
            for descriptor, _ in self._epoll.poll():
                door = self._doors.get(descriptor)
                if door is not None:
                    self._accept(door)
                else:
                    receiving = self._open.get(descriptor)
                    if receiving is not None:
                        self._read(receiving)

    def _accept(self, door: socket.socket) -> None:
        for _ in range(16):
            try:
                sock, _ = door.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open[sock.fileno()] = Receiving(sock, bytearray())
            self._epoll.register(sock.fileno(), select.EPOLLIN)
            self._ledger.sinks[self._slot + CONNECTIONS] += 1
            sock.send(b"220 sink.bench.test ESMTP\r\n")

    def _read(self, receiving: Receiving) -> None:
        try:
            octets = receiving.sock.recv(262144)
        except OSError:
            octets = b""
        if not octets:
            self._close(receiving)
            return
        receiving.heard += octets
        replies = self._understand(receiving)
        if replies:
            try:
                receiving.sock.send(replies)
            except OSError:
                receiving.leaving = True
        if receiving.leaving:
            self._close(receiving)

    def _close(self, receiving: Receiving) -> None:
        del self._open[receiving.sock.fileno()]
        receiving.sock.close()

    def _understand(self, receiving: Receiving) -> bytes:
        heard = receiving.heard
        replies = []
        while heard and not receiving.leaving:
            if receiving.content:
                end = heard.find(END, max(receiving.searched - len(END), 0))
                if end < 0:
                    receiving.searched = len(heard)
                    break
                self._arrived(heard[: end + 2], receiving.recipients)
                del heard[: end + len(END)]
                receiving.content, receiving.searched, receiving.recipients = False, 0, 0
                replies.append(b"250 2.0.0 taken\r\n")
                continue
            end = heard.find(b"\n")
            if end < 0:
                break
            replies.append(self._command(receiving, bytes(heard[: min(end, 4)]).upper()))
            del heard[: end + 1]
        return b"".join(replies)

    def _command(self, receiving: Receiving, verb: bytes) -> bytes:
        if verb == b"MAIL":
            receiving.recipients = 0
            return b"250 2.1.0 ok\r\n"
        if verb == b"RCPT":
            if self._defers:
                self._ledger.sinks[self._slot + DEFERRED] += 1
                return b"450 4.2.0 not now\r\n"
            receiving.recipients += 1
            return b"250 2.1.5 ok\r\n"
        if verb == b"DATA":
            if not receiving.recipients:
                return b"554 5.5.1 no valid recipients\r\n"
            receiving.content = True
            return b"354 go on\r\n"
        if verb == b"EHLO":
            return EXTENSIONS
        if verb in (b"HELO", b"RSET", b"NOOP"):
            return b"250 2.0.0 ok\r\n"
        if verb == b"QUIT":
            receiving.leaving = True
            return b"221 2.0.0 bye\r\n"
        return b"502 5.5.1 unknown command\r\n"

    def _arrived(self, content: bytearray, recipients: int) -> None:
        slots, slot, ledger = self._ledger.sinks, self._slot, self._ledger
        try:
            run, number = self._letter.read(content)
        except ValueError as error:
            slots[slot + WRONG] += 1
            ledger.complain(f"sink: {error}: {bytes(content[:800])!r}")
            return
        if run != ledger.round[0] or number >= ledger.capacity:
            slots[slot + STRAY] += 1
            return
        now = monotonic()
        ledger.copies[number] += recipients
        ledger.arrived[number] = now
        slots[slot + COUNT] += recipients
        slots[slot + LAST] = now
        if not slots[slot + FIRST]:
            slots[slot + FIRST] = now


def receive(
    sockets: Sequence[socket.socket], letter: Letter, ledger: Ledger, slot: int, defers: bool = False
) -> None:
    """The life of a sink process."""
    try:
        Sink(sockets, letter, ledger, slot, defers).run()
    except KeyboardInterrupt:
        pass
    except OSError as error:
        ledger.complain(f"sink: {error}")
    os._exit(0)
