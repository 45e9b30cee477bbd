"""A naive server that says what it is told, and a wire between it and our client's dialogue; both without sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from attrs import define, field, frozen

from relaymta.mail.address import parse_mailbox
from relaymta.mail.content import Content, MemoryContent
from relaymta.mail.envelope import Envelope, Recipient
from relaymta.smtp.actions import (
    Action,
    Answer,
    Close,
    Finished,
    Opened,
    Parcel,
    Refused,
    SendContent,
    Stage,
    StartTls,
    Write,
)
from relaymta.smtp.data import stuff
from relaymta.smtp.dialogue import Dialogue

DROP = b""  # an answer that is none: the connection ends
Answers = Callable[[str, str], bytes | None]


@frozen
class Taken:
    """One message as the server took it, its dots unstuffed by the book."""

    mail: str
    recipients: tuple[str, ...]
    content: bytes


@define(eq=False)
class Server:
    """Reads lines, one after the other, as RFC 5321 has it; `answers(verb, argument)` may say something else.

    The verbs are those of the protocol, and "BANNER" and "DOT". An answer of DROP ends the connection.
    """

    offers: Sequence[str] = ("PIPELINING", "8BITMIME", "SIZE 10000000")
    lmtp: bool = False
    answers: Answers = lambda verb, argument: None
    recipients_max: int = 1000
    taken: list[Taken] = field(factory=list)
    commands: list[str] = field(factory=list)
    transcript: bytearray = field(factory=bytearray)
    closed: bool = False
    _rest: bytes = b""
    _content: bytearray | None = None
    _mail: str | None = None
    _recipients: list[str] = field(factory=list)

    def greet(self) -> bytes:
        """What it says first."""
        return self._say("BANNER", "", "220 peer.test ESMTP")

    def feed(self, octets: bytes) -> bytes:
        """What it says to that."""
        self.transcript += octets
        self._rest += octets
        said = b""
        while not self.closed and b"\r\n" in self._rest:
            line, self._rest = self._rest.split(b"\r\n", 1)
            said += self._line(line)
        return said

    def _line(self, line: bytes) -> bytes:
        if self._content is None:
            return self._command(line.decode())
        if line != b".":
            self._content += line.removeprefix(b".") + b"\r\n"
            return b""
        content, self._content = bytes(self._content), None
        recipients, self._recipients = self._recipients, []
        mail, self._mail = self._mail, None
        replies = b""
        for recipient in recipients if self.lmtp else recipients[:1]:
            replies += self._say("DOT", recipient, "250 2.0.0 taken")
            if self.closed:
                return replies
        if not recipients:
            return self._say("DOT", "", "554 5.5.1 no valid recipients")
        if mail is not None and replies.startswith(b"2"):
            self.taken.append(Taken(mail, tuple(recipients), content))
        return replies

    def _command(self, line: str) -> bytes:
        self.commands.append(line)
        verb, _, argument = line.partition(" ")
        if verb in ("EHLO", "LHLO"):
            lines = ["peer.test greets", *self.offers]
            text = "\r\n".join(f"250{'-' if n < len(lines) - 1 else ' '}{one}" for n, one in enumerate(lines))
            return self._say(verb, argument, text)
        if verb == "MAIL":
            said = self._say(verb, argument, "250 2.1.0 sender ok")
            self._mail = argument if said.startswith(b"2") else None
            self._recipients = []
            return said
        if verb == "RCPT":
            return self._rcpt(argument)
        if verb == "DATA":
            default = "354 go" if self._recipients else "554 5.5.1 no valid recipients"
            said = self._say(verb, argument, default)
            if said.startswith(b"354"):
                self._content = bytearray()
            return said
        if verb == "RSET":
            self._mail, self._recipients = None, []
        if verb == "QUIT":
            said = self._say(verb, argument, "221 2.0.0 bye")
            self.closed = True
            return said
        return self._say(verb, argument, "220 go" if verb == "STARTTLS" else "250 2.0.0 ok")

    def _rcpt(self, argument: str) -> bytes:
        if self._mail is None:
            return self._say("RCPT", argument, "503 5.5.1 no sender")
        full = len(self._recipients) >= self.recipients_max
        said = self._say("RCPT", argument, "452 4.5.3 too many recipients" if full else "250 2.1.5 recipient ok")
        if said.startswith(b"2"):
            self._recipients.append(argument)
        return said

    def _say(self, verb: str, argument: str, default: str) -> bytes:
        told = self.answers(verb, argument)
        if told is None:
            return default.encode() + b"\r\n"
        if told == DROP or told.startswith(b"421"):
            self.closed = True
        return told


@define(eq=False)
class Wire:
    """Runs the dialogue against the server. `cut` splits what the server says, as a network may."""

    dialogue: Dialogue
    server: Server
    cut: Callable[[bytes], Iterable[bytes]] = lambda octets: [octets]
    opened: bool = False
    refused: Answer | None = None
    results: list[list[Answer | None]] = field(factory=list)
    closed: bool = False
    contents: int = 0

    def open(self) -> Wire:
        """Up to the end of the session's beginning."""
        self._hear(self.server.greet())
        return self

    def send(self, parcel: Parcel) -> list[Answer | None]:
        """Send one parcel; its answers."""
        before = len(self.results)
        self._do(self.dialogue.send(parcel))
        self._hang_up()
        assert len(self.results) == before + 1, "exactly one Finished"
        return self.results[-1]

    def quit(self) -> None:
        """Take leave."""
        self._do(self.dialogue.quit())

    def _hear(self, said: bytes) -> None:
        for piece in self.cut(said) if said else ():
            self._do(self.dialogue.receive(piece))
        self._hang_up()

    def _hang_up(self) -> None:
        if self.server.closed and not self.closed:
            self.closed = True
            self._do(self.dialogue.lost("Connection was closed cleanly"))

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Write):
                if not self.closed:
                    self._hear(self.server.feed(action.octets))
            elif isinstance(action, SendContent):
                octets = b"".join(action.content.chunks())
                self.contents += 1
                self.dialogue.content_sent()
                if not self.closed:
                    self._hear(self.server.feed(stuff(octets)))
            elif isinstance(action, StartTls):
                self._do(self.dialogue.secured())
            elif isinstance(action, Opened):
                self.opened = True
            elif isinstance(action, Refused):
                assert self.refused is None
                self.refused = action.answer
            elif isinstance(action, Finished):
                self.results.append(action.answers)
            elif isinstance(action, Close):
                self.closed = True
                assert self.dialogue.stage is Stage.CLOSED


def envelope(*recipients: str | Recipient, sender: str = "s@from.test", **more: object) -> Envelope:
    """An envelope for these recipients; "" is the null sender."""
    made = tuple(one if isinstance(one, Recipient) else Recipient(parse_mailbox(one)) for one in recipients)
    return Envelope(parse_mailbox(sender) if sender else None, made, 0.0, **more)  # type: ignore[arg-type]


BODY = b"Subject: x\r\n\r\nhello\r\n.dot\r\n"


def parcel(
    *recipients: str | Recipient, content: bytes | Content = BODY, sender: str = "s@from.test", **more: object
) -> Parcel:
    """A parcel for all of these recipients."""
    made = MemoryContent(content) if isinstance(content, bytes) else content
    return Parcel(envelope(*recipients, sender=sender, **more), made, tuple(range(len(recipients))))


def told(answers: list[Answer | None]) -> list[tuple[str, int | str] | None]:
    """Answers in short: (stage, code or trouble)."""
    return [
        None
        if one is None
        else (one.stage.name, one.reply.code if one.reply else one.trouble.name if one.trouble else "?")
        for one in answers
    ]
