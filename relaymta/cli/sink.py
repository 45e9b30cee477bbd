"""relaymta sink: a server that takes all mail, shows each message and keeps none, for a newcomer's first minute.

It speaks through our own smtp.server, so that what a sink takes is what the relay takes. With --dump each message
becomes a file as it came: envelope in the first lines, as RFC 5321 §4.4 and Postfix's smtp-sink would say it.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from email.header import decode_header, make_header
from typing import Any, BinaryIO

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from relaymta.cli.output import CommandFailedError, amount, clean, print_json
from relaymta.config import SocketAddress
from relaymta.mail.content import HEADER_MAX, header_of
from relaymta.mail.message import find
from relaymta.mail.queueid import IdMaker
from relaymta.mail.reply import Reply
from relaymta.net.listen import ListenError, bind, serve
from relaymta.smtp.commands import MailCommand, RcptCommand
from relaymta.smtp.handler import NoLogins, Peer
from relaymta.smtp.listener import RelayFactory
from relaymta.smtp.settings import ListenerSettings

TAKEN = Reply(250, "2.0.0", "seen and forgotten")


def run(arguments: Namespace) -> int:
    """Serve until Ctrl-C."""
    try:
        address = SocketAddress.from_text(arguments.listen)
        sock = bind(address)
        if arguments.dump:
            os.makedirs(arguments.dump, exist_ok=True)
    except (ValueError, ListenError) as error:
        raise CommandFailedError(str(error)) from None
    except OSError as error:
        raise CommandFailedError(f"{arguments.dump}: {error.strerror}") from None
    sink = Basin(arguments.dump or "", show=_shower(arguments))

    def serve_until_stopped(reactor: Any) -> Deferred[None]:
        ids = IdMaker(reactor.seconds)
        settings = ListenerSettings(name="sink", address=address)
        factory = RelayFactory(settings, "localhost", sink.guest, reactor, ids.next, on_bug=_show_bug)
        serve(reactor, sock, factory)
        sock.close()
        print(f"waiting for mail at {address}; Ctrl-C ends", file=sys.stderr, flush=True)
        return Deferred()

    try:
        react(serve_until_stopped)
    except SystemExit as end:
        print(f"{sink.messages} message{'s' * (sink.messages != 1)} came", file=sys.stderr)
        return int(end.code or 0)
    return 0


class Basin:
    """Where all sessions end. `directory` "" keeps nothing; `show` gets one row for each message."""

    def __init__(self, directory: str, show: Callable[[dict[str, Any]], None]) -> None:
        self.directory = directory
        self.messages = 0
        self._show = show
        self._numbers: Iterator[int] = itertools.count(1)

    def guest(self, peer: Peer) -> Visitor:
        """The answerer for one session."""
        return Visitor(self, peer)

    def open(self) -> BinaryIO | None:
        """A new file for a message."""
        if not self.directory:
            return None
        name = f"{time.time_ns():016x}-{next(self._numbers):06d}.eml"
        return open(os.path.join(self.directory, name), "xb")

    def took(self, row: dict[str, Any]) -> None:
        """A message came."""
        self.messages += 1
        self._show(row)


class Visitor(NoLogins):
    """One session: smtp.handler.Handler that says yes to everything."""

    def __init__(self, basin: Basin, peer: Peer) -> None:
        self._basin = basin
        self._peer = peer
        self._sender = ""
        self._recipients: list[str] = []

    def connect(self) -> None:
        """Everybody may."""

    def helo(self, name: str, esmtp: bool) -> None:
        """By any name."""

    def mail(self, command: MailCommand) -> None:
        """From anybody."""
        self._sender = str(command.sender) if command.sender is not None else "<>"

    def rcpt(self, command: RcptCommand) -> None:
        """To anybody."""
        self._recipients.append(str(command.address))

    def data(self) -> Drain:
        """Anything."""
        return Drain(self._basin, self._peer, self._sender, self._recipients.copy())

    def reset(self) -> None:
        """The next one."""
        self._recipients.clear()

    def refused(self, command: str, reply: Reply) -> None:
        """What our own dialogue refuses is worth seeing."""
        print(f"{clean(command)}: {reply}", file=sys.stderr, flush=True)

    def closed(self, reason: str) -> None:
        """Gone."""


class Drain:
    """One message: smtp.handler.Sink."""

    def __init__(self, basin: Basin, peer: Peer, sender: str, recipients: list[str]) -> None:
        self._basin = basin
        self._facts = {"client": peer.client, "helo": peer.helo, "sender": sender, "recipients": recipients}
        self._head = b""
        self._size = 0
        self._file = basin.open()
        if self._file is not None:
            lines = [f"X-Sink-Helo: {peer.helo}", f"X-Sink-From: {sender}"]
            lines += [f"X-Sink-To: {recipient}" for recipient in recipients]
            self._file.write("".join(f"{line}\r\n" for line in lines).encode())

    def write(self, octets: bytes) -> None:
        """Count it, and keep the header section."""
        self._size += len(octets)
        if len(self._head) < HEADER_MAX:
            self._head += octets[: HEADER_MAX - len(self._head)]
        if self._file is not None:
            self._file.write(octets)

    def finish(self) -> Reply:
        """Show it."""
        if self._file is not None:
            self._file.close()
        row = {"time": time.time(), **self._facts, "subject": subject(self._head), "size": self._size}
        self._basin.took(row)
        return TAKEN

    def abort(self) -> None:
        """It did not come whole."""
        if self._file is not None:
            self._file.close()
            os.unlink(self._file.name)


def subject(head: bytes) -> str:
    """The Subject field for people (RFC 2047 decoded), or ""."""
    found = find(header_of(head), b"subject")
    if found is None:
        return ""
    text = found.value.decode("utf-8", "replace")
    try:
        return str(make_header(decode_header(text)))
    except (ValueError, LookupError):  # an encoded word that cannot be read is shown as it came
        return text


def _shower(arguments: Namespace) -> Callable[[dict[str, Any]], None]:
    if arguments.quiet:
        return lambda row: None
    if arguments.json:
        return lambda row: print_json([row])
    return _show


def _show(row: dict[str, Any]) -> None:
    when = time.strftime("%H:%M:%S", time.localtime(row["time"]))
    to = ", ".join(row["recipients"][:3]) + (f" +{len(row['recipients']) - 3}" if len(row["recipients"]) > 3 else "")
    print(f"{when}  from {clean(row['sender'])}  to {clean(to)}  {amount(row['size'])}", flush=True)
    print(f"          Subject: {clean(row['subject'])}", flush=True)


def _show_bug(where: str, trace: str) -> None:
    print(f"{where}: {trace}", file=sys.stderr, flush=True)
