"""What the tests of the server share: a handler that notes everything, a transport that notes everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, evolve, field
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from relaymta.directory.account import IAccount
from relaymta.directory.credentials import DirectoryUnavailableError
from relaymta.mail.reply import Reply
from relaymta.smtp import answers
from relaymta.smtp.commands import MailCommand, RcptCommand
from relaymta.smtp.handler import Handler, Peer
from relaymta.smtp.listener import RelayFactory
from relaymta.smtp.server import RelayESMTP
from relaymta.smtp.settings import Limits, ListenerSettings, Timeouts

STORED = Reply(250, "2.0.0", "stored")
Answers = dict[str, Any]  # what a stage answers, when it is not the standard


@define(eq=False)
class Notebook:
    """Everything that the handlers of one factory were asked and told."""

    log: list[tuple[Any, ...]] = field(factory=list)
    messages: list[tuple[str, tuple[str, ...], bytes]] = field(factory=list)
    bugs: list[str] = field(factory=list)
    turned_away: list[int] = field(factory=list)

    def names(self) -> list[str]:
        """The log without its facts."""
        return [entry[0] for entry in self.log]


class NotingSink:
    """Keeps content in memory."""

    def __init__(self, handler: NotingHandler) -> None:
        self._handler = handler
        self._content = b""

    def write(self, octets: bytes) -> None:
        assert octets
        if "write" in self._handler.answers:
            raise self._handler.answers["write"]
        self._content += octets

    def finish(self) -> Any:
        handler = self._handler
        handler.notebook.log.append(("finish", self._content))
        handler.notebook.messages.append((handler.sender, tuple(handler.recipients), self._content))
        return handler.answer("finish", STORED)

    def abort(self) -> None:
        self._handler.notebook.log.append(("abort",))


class NotingHandler:
    """Answers as `answers` says (an exception is raised); `later` may turn each answer into a Deferred."""

    def __init__(self, notebook: Notebook, answers: Answers, later: Callable[[Any], Any]) -> None:
        self.notebook, self.answers, self.later = notebook, answers, later
        self.sender = ""
        self.recipients: list[str] = []

    def answer(self, stage: str, standard: Any = None) -> Any:
        answer = self.answers.get(stage, standard)
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Deferred) else self.later(answer)

    def connect(self) -> Any:
        self.notebook.log.append(("connect",))
        return self.answer("connect")

    def helo(self, name: str, esmtp: bool) -> Any:
        self.notebook.log.append(("helo", name, esmtp))
        return self.answer("helo")

    def mail(self, command: MailCommand) -> Any:
        self.notebook.log.append(("mail", command))
        self.sender, self.recipients = str(command.sender or ""), []
        return self.answer("mail")

    def rcpt(self, command: RcptCommand) -> Any:
        self.notebook.log.append(("rcpt", command))
        address = str(command.address)
        answer = self.answers.get(address)
        if answer is None:
            self.recipients.append(address)
        return self.answer(address)

    def data(self) -> Any:
        self.notebook.log.append(("data",))
        return self.answer("data", NotingSink(self))

    def keys(self, name: str) -> Any:
        self.notebook.log.append(("keys", name))
        return self.answer("keys", lambda: self._asked(self.answers["directory"].keys(name)))

    def auth(self, attempt: Any) -> Any:
        self.notebook.log.append(("auth", attempt.mechanism, attempt.shown.name))
        portal = self.answers["directory"].portal if "directory" in self.answers else None
        return self.answer("auth", lambda: self._asked(portal.login(attempt.shown.credentials, None, IAccount)))

    def _asked(self, answer: Deferred[Any]) -> Any:
        """What a directory says, as a decision: in place where it answers at once."""
        answer.addCallback(lambda found: found[1] if isinstance(found, tuple) else found)
        answer.addErrback(lambda failure: failure.trap(UnauthorizedLogin) and answers.AUTH_FAILED)
        answer.addErrback(lambda failure: failure.trap(DirectoryUnavailableError) and answers.AUTH_UNAVAILABLE)
        return answer.result if answer.called else answer

    def authenticated(self, account: Any, mechanism: str) -> None:
        self.notebook.log.append(("authenticated", account.name, mechanism))

    def reset(self) -> None:
        self.notebook.log.append(("reset",))

    def refused(self, command: str, reply: Reply) -> None:
        self.notebook.log.append(("refused", command, reply.code))

    def closed(self, reason: str) -> None:
        self.notebook.log.append(("closed", reason))


class NotingTransport(StringTransport):
    """A TCP transport in memory that can be closed half."""

    half_closed = False
    aborted = False
    no_delay = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    @property
    def closing(self) -> bool:
        """Whether the server has closed its side in any way."""
        return bool(self.half_closed or self.disconnecting)


@define(eq=False)
class House:
    """A factory on a Clock with a notebook."""

    clock: Clock = field(factory=Clock)
    notebook: Notebook = field(factory=Notebook)
    answers: Answers = field(factory=dict)
    later: Callable[[Any], Any] = lambda answer: answer
    settings: ListenerSettings = field(factory=ListenerSettings)
    context: Any = None
    factory: RelayFactory = field(init=False)

    def __attrs_post_init__(self) -> None:
        def handler(peer: Peer) -> Handler:
            made = self.answers.get("handler")
            if made is not None:
                raise made
            return NotingHandler(self.notebook, self.answers, self.later)

        self.factory = RelayFactory(
            self.settings,
            "relay.test",
            handler,
            self.clock,
            iter(f"S{number}" for number in range(10**6)).__next__,
            on_bug=lambda where, trace: self.notebook.bugs.append(where),
            on_turned_away=lambda peer, reply: self.notebook.turned_away.append(reply.code),
            tls_context=self.context,
            directory=self.answers.get("directory"),
        )

    def connect(self, client: str = "192.0.2.1") -> Wire:
        """A new connection."""
        made = IPv6Address if ":" in client else IPv4Address
        transport = NotingTransport(hostAddress=made("TCP", "198.51.100.1", 25), peerAddress=made("TCP", client, 1025))
        protocol = self.factory.buildProtocol(transport.getPeer())
        protocol.makeConnection(transport)
        return Wire(protocol, transport)


@define(eq=False)
class Wire:
    """The client's end."""

    protocol: RelayESMTP
    transport: NotingTransport

    def read(self) -> bytes:
        """What the server has said since the last look."""
        octets = self.transport.value()
        self.transport.clear()
        return octets

    def say(self, octets: bytes) -> bytes:
        """Send in one segment; the answer."""
        self.protocol.dataReceived(octets)
        return self.read()

    def codes(self, octets: bytes) -> list[str]:
        """Send in one segment; the codes of the answers."""
        return codes(self.say(octets))

    def hello(self) -> Wire:
        """Say EHLO, forget the answer."""
        self.say(b"EHLO client.test\r\n")
        return self


def codes(octets: bytes) -> list[str]:
    """The codes of replies, with their enhanced codes: "250 2.1.0", or "354" where there is none."""
    found = []
    for line in octets.decode().split("\r\n")[:-1]:
        if line[3] == " ":
            code, first = line[:3], line[4:].partition(" ")[0]
            found.append(f"{code} {first}" if first[1:2] == "." and first[0] == code[0] else code)
    return found


def house(
    limits: dict[str, Any] | None = None,
    timeouts: dict[str, Any] | None = None,
    answers: Answers | None = None,
    later: Callable[[Any], Any] | None = None,
    context: Any = None,
    **settings: Any,
) -> House:
    """A House whose settings differ from the standard in these."""
    made = ListenerSettings(
        limits=evolve(Limits(), **(limits or {})), timeouts=evolve(Timeouts(), **(timeouts or {})), **settings
    )
    return House(settings=made, answers=answers or {}, later=later or (lambda answer: answer), context=context)
