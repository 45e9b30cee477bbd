"""A server of our own at the other end: keeps every octet, notes every fault of the dialogue, answers as it is told.

It runs in a thread of the test's process, so that a test can look at it, and change its mind, while mail flows.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from enum import Enum
from types import TracebackType

from attrs import define, field, frozen

from tests.peers.programs import wait_until

_END = b"\r\n.\r\n"
_OFFERS = "PIPELINING", "SIZE 104857600", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"


class Act(Enum):
    """What a server may do instead of answering."""

    HANG = "say nothing, and keep the connection"
    DROP = "close the connection"


@frozen
class Delivered:
    """One message that was taken with a 250. `content` is unstuffed, with CRLF; `options` are MAIL's parameters."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    options: str = ""
    tls: bool = False
    at: float = field(factory=time.monotonic)


# Asked with the visit, the stage (CONNECT, a verb, or DOT) and its argument; None is the standard positive answer.
Answer = Callable[["Visit", str, str], str | Act | None]


def welcome(_visit: Visit, _stage: str, _argument: str) -> None:
    """Takes everything."""


@define(eq=False)
class Visit(asyncio.Protocol):
    """One connection."""

    postbox: Postbox
    stages: list[str] = field(factory=list)
    sender: str = ""
    options: str = ""
    recipients: list[str] = field(factory=list)
    messages: int = 0
    tls: bool = False
    _transport: asyncio.Transport | None = None
    _heard: bytearray = field(factory=bytearray)
    _content: bool = False
    _searched: int = 0
    _deaf: bool = False
    _shaking: bool = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody comes."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.postbox.visits.append(self)
        self._answer("CONNECT", "", "220 postbox.example ESMTP")

    def connection_lost(self, exc: Exception | None) -> None:
        """Somebody leaves."""
        self._deaf = True

    def data_received(self, data: bytes) -> None:
        """Read commands and content, as far as they are whole."""
        self._heard += data
        self._read()

    def _read(self) -> None:
        while not self._deaf and not self._shaking and self._heard:
            if not (self._read_content() if self._content else self._read_command()):
                return

    def _answer(self, stage: str, argument: str, standard: str) -> str:
        """What was said; "" for nothing."""
        self.stages.append(stage)
        answer = self.postbox.answer(self, stage, argument)
        assert self._transport is not None
        if isinstance(answer, Act):
            self._deaf = True
            if answer is Act.DROP:
                self._transport.abort()
            return ""
        said = answer or standard
        self._transport.write(said.encode() + b"\r\n")
        if said.startswith("421") or stage == "QUIT":
            self._deaf = True
            self._transport.close()
        return said

    def _read_command(self) -> bool:
        end = self._heard.find(b"\n")
        if end < 0:
            return False
        line = bytes(self._heard[: end + 1])
        del self._heard[: end + 1]
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            self.postbox.faults.append(f"a command not ended by CRLF: {line!r}")
        verb, _, argument = line.strip().decode().partition(" ")
        self._take(verb.upper(), argument)
        return True

    def _take(self, verb: str, argument: str) -> None:
        said = self._answer(verb, argument, self._standard(verb))
        if not said.startswith(("2", "3")):
            return
        if verb == "STARTTLS":
            self._start_tls()
        elif verb == "MAIL":
            path, _, self.options = argument.partition(">")
            self.sender, self.recipients = path.partition("<")[2], []
        elif verb == "RCPT":
            self.recipients.append(argument.partition("<")[2].partition(">")[0])
        elif verb == "DATA":
            self._content, self._searched = True, 0
            self._heard[:0] = b"\r\n"  # DATA's own CRLF is what an empty message's end begins with

    def _start_tls(self) -> None:
        """RFC 3207: what was said before is forgotten; a handshake that fails closes the connection."""
        transport, context = self._transport, self.postbox.context
        assert transport is not None and context is not None
        transport.pause_reading()
        self._heard.clear()
        self._shaking = True  # the first octets may come before the new transport is known
        loop = self.postbox._loop
        shaking = loop.create_task(loop.start_tls(transport, self, context, server_side=True))
        shaking.add_done_callback(self._tls_started)

    def _tls_started(self, shaking: asyncio.Task[asyncio.Transport | None]) -> None:
        if shaking.cancelled() or shaking.exception() is not None:
            assert self._transport is not None
            self._transport.abort()
        else:
            self._transport, self.tls, self._shaking = shaking.result(), True, False
            self._read()

    def _standard(self, verb: str) -> str:
        if verb == "EHLO":
            offers = ["postbox.example", *_OFFERS, *(self.postbox.offers if self.tls else ())]
            if self.postbox.context is not None and not self.tls:
                offers.append("STARTTLS")
            return "\r\n".join(f"250-{offer}" for offer in offers) + "\r\n250 HELP"
        if verb == "STARTTLS":
            return "220 go on" if self.postbox.context is not None and not self.tls else "502 5.5.1 no TLS here"
        if verb == "DATA":
            return "354 go on" if self.recipients else "554 5.5.1 no recipients"
        return {"QUIT": "221 2.0.0 bye", "MAIL": "250 2.1.0 ok", "RCPT": "250 2.1.5 ok"}.get(verb, "250 2.0.0 ok")

    def _read_content(self) -> bool:
        end = self._heard.find(_END, max(self._searched - len(_END), 0))
        if end < 0:
            self._searched = len(self._heard)
            return False
        raw = bytes(self._heard[: end + 2])
        del self._heard[: end + len(_END)]
        self._content = False
        if raw.count(b"\r\n") != raw.count(b"\n") or raw.count(b"\r\n") != raw.count(b"\r") or b"\0" in raw:
            self.postbox.faults.append(f"bare CR, bare LF or NUL in content: {raw[:1000]!r}")
        content = raw.replace(b"\r\n.", b"\r\n")[2:]
        message = Delivered(self.sender, tuple(self.recipients), content, self.options, self.tls)
        self.postbox.seen.append(message)
        answer = self.postbox.answer(self, "DOT", "")
        if answer is None or (isinstance(answer, str) and answer.startswith("2")):
            self.postbox.taken.append(message)
            self.messages += 1
        self.stages.append("DOT")
        self._end(answer)
        return True

    def _end(self, answer: str | Act | None) -> None:
        assert self._transport is not None
        self.recipients = []
        if isinstance(answer, Act):
            self._deaf = True
            if answer is Act.DROP:
                self._transport.abort()
            return
        said = answer or "250 2.0.0 taken"
        self._transport.write(said.encode() + b"\r\n")
        if said.startswith("421"):
            self._deaf = True
            self._transport.close()


@define(eq=False)
class Postbox:
    """One server at host:port. `taken`: messages that got their 250; `seen`: all that came to their end.

    `context`: with which it speaks TLS after STARTTLS, None for not at all; `offers`: what it then offers beside.
    """

    answer: Answer = welcome
    host: str = "127.0.0.1"
    port: int = 0
    context: ssl.SSLContext | None = None
    offers: tuple[str, ...] = ()
    taken: list[Delivered] = field(factory=list)
    seen: list[Delivered] = field(factory=list)
    visits: list[Visit] = field(factory=list)
    faults: list[str] = field(factory=list)
    _loop: asyncio.AbstractEventLoop = field(factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None
    _server: asyncio.Server | None = None

    def start(self) -> Postbox:
        """Listen; `port` 0 becomes the port found. Raises OSError."""
        starting = self._loop.create_server(lambda: Visit(self), self.host, self.port, backlog=1024)
        try:
            server = self._server = self._loop.run_until_complete(starting)
        except OSError:
            self._loop.close()
            raise
        self.port = int(server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"postbox {self.host}:{self.port}")
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close everything."""
        if self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join(20)
        self._thread = None
        self._loop.close()

    def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        for visit in self.visits:
            if visit._transport is not None:
                visit._transport.abort()
        self._loop.call_soon(self._loop.stop)

    def __enter__(self) -> Postbox:
        return self.start()

    def __exit__(self, _type: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.stop()

    def drop_visits(self) -> None:
        """Close every connection that is open now."""
        for visit in self.visits:
            if visit._transport is not None:
                self._loop.call_soon_threadsafe(visit._transport.abort)

    def wait_for(self, messages: int, seconds: float = 30.0) -> list[Delivered]:
        """Wait until so many were taken, and return them; no dialogue may have had a fault."""
        what = f"{messages} messages at {self.host}:{self.port}"
        wait_until(what, lambda: len(self.taken) >= messages, seconds, lambda: f"{len(self.taken)} are there")
        assert self.faults == []
        return list(self.taken)
