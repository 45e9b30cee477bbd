"""The client's side on Twisted: a socket, a timer and a producer around smtp.dialogue.

RFC 5321 §4.5.3.2 (time limits), RFC 3207 (STARTTLS). One connection carries many messages. Twisted's ESMTPSender and
its factory are the frame; reading, writing and the states are ours, since the stock ones lose or change mail
(RelaySender's docstring says where). Which host, which TLS and what an answer means are left to delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IConnector,
    IDelayedCall,
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IPullProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.mail import smtp
from twisted.python.failure import Failure
from zope.interface import implementer

from relaymta.mail.content import Content
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
    Trouble,
    Verdict,
    Write,
)
from relaymta.smtp.data import Encoder, stuff
from relaymta.smtp.dialogue import Dialogue

SMALL = 128 * 1024  # octets; ours: content up to this size is one write, above it is streamed
CLOSE_LIMIT = 5.0  # seconds; ours: how long a peer may take to answer QUIT or a closing TLS before it is cut off

Done = Callable[[list[Answer | None]], None]
Judge = Callable[[SSL.Connection], Verdict]
UNPROVEN = Verdict()

# Seconds for each stage (RFC 5321 §4.5.3.2.1 to §4.5.3.2.6); HELLO, TLS and AUTH are ours by the same measure.
TIMEOUTS: Mapping[Stage, float] = {
    Stage.BANNER: 300.0,
    Stage.HELLO: 300.0,
    Stage.STARTTLS: 300.0,
    Stage.HANDSHAKE: 300.0,
    Stage.AUTH: 300.0,
    Stage.RSET: 300.0,
    Stage.MAIL: 300.0,
    Stage.RCPT: 300.0,
    Stage.DATA: 120.0,
    Stage.CONTENT: 180.0,  # a block of content
    Stage.DOT: 600.0,  # RFC 5321 §4.5.3.2.6: shorter ones have made floods of duplicates
    Stage.QUIT: CLOSE_LIMIT,
    Stage.CLOSED: CLOSE_LIMIT,
}


class SessionError(Exception):
    """No session came about; `answer` says where it ended, `local` is our address where there was a connection."""

    def __init__(self, answer: Answer, local: str = "") -> None:
        super().__init__(str(answer.reply) if answer.reply is not None else answer.text)
        self.answer = answer
        self.local = local


@implementer(IHandshakeListener)
class RelaySender(smtp.ESMTPSender):
    """A session with one peer, from greeting to QUIT, and one message after the other in it.

    What the stock class does and this one does not: stuff dots per chunk of a file (smuggling), quote addresses by
    email.utils (misdelivery), read on after STARTTLS's 220 (response injection), keep passwords in its log, let a
    chattering peer reset its timer and fill its memory, leave Nagle's algorithm on.
    """

    debug = False
    noisy = False
    transport: Any
    # ESMTPClient's own runs Python for each assignment, to warn of an attribute that went in Twisted 13.
    __setattr__ = object.__setattr__

    def __init__(
        self,
        dialogue: Dialogue,
        clock: IReactorTime,
        *,
        opened: Deferred[RelaySender],
        creator: IOpenSSLClientConnectionCreator | None = None,
        timeouts: Mapping[Stage, float] = TIMEOUTS,
    ) -> None:
        super().__init__(b"", b"", None, b"", 1)  # type: ignore[no-untyped-call]
        self._dialogue = dialogue
        self._clock = clock
        self._creator = creator
        self._timeouts = timeouts
        self._opened: Deferred[RelaySender] | None = opened
        self._done: Done | None = None
        self._producer: _ContentProducer | None = None
        self._timer: IDelayedCall | None = None
        self._due = 0.0  # when the timer fires
        self._deadline = 0.0  # 0: no limit
        self._gone = False
        self.messages = 0
        self.local = ""  # our IP address
        self.tls = ""
        self.verdict = UNPROVEN
        self.on_gone: Callable[[], None] | None = None

    # What the owner calls

    @property
    def dialogue(self) -> Dialogue:
        """Its state, to look at: `offers`, `secure`, `stage`."""
        return self._dialogue

    @property
    def usable(self) -> bool:
        """Whether it can take a message now."""
        return self._dialogue.usable

    def send(self, parcel: Parcel, done: Done) -> None:
        """Send a message; only while `usable`. `done` is called once, perhaps before this returns.

        Raises ValueError, with nothing said and `done` not called, where a command cannot be written.
        """
        actions = self._dialogue.send(parcel)
        self.messages += 1
        self._done = done
        self._perform(actions)

    def quit(self) -> None:
        """Take leave; what is under way is given up. `on_gone` is called when the connection is closed."""
        self._perform(self._dialogue.quit())

    def abort(self) -> None:
        """Cut the connection now; whoever waits gets the answer LOST."""
        self._perform(self._dialogue.lost("the connection was given up"))
        if not self._gone:
            self.transport.abortConnection()

    # What the transport calls

    def connectionMade(self) -> None:
        """The greeting is next."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)  # a message is two writes; Nagle would wait 40 ms for the peer's ACK
            self.local = getattr(self.transport.getHost(), "host", "").partition("%")[0]  # a UNIX socket has none
        self._watch()

    def dataReceived(self, data: bytes) -> None:
        """Whatever came, in whatever pieces."""
        dialogue = self._dialogue
        heard = dialogue.heard
        actions = dialogue.receive(data)
        self._act(actions)
        # What still comes after our end, as it may over TLS, brings no actions and must not move its limit.
        if dialogue.heard != heard or (actions and dialogue.stage is Stage.CLOSED):
            self._watch()

    def handshakeCompleted(self) -> None:
        """TLS stands. A creator that has a `judge` says now whether the peer is who it must be, before EHLO."""
        if self._dialogue.stage is not Stage.HANDSHAKE:
            return  # given up meanwhile
        connection = self.transport.getHandle()
        judge: Judge | None = getattr(self._creator, "judge", None)
        self.verdict = verdict = UNPROVEN if judge is None else judge(connection)
        if verdict.fatal:
            self._perform(self._dialogue.unverified(verdict.text, verdict.result))
            return
        verified = f" (verified: {verdict.how})" if verdict.how else ""
        self.tls = f"{connection.get_protocol_version_name()} {connection.get_cipher_name()}{verified}"
        self._perform(self._dialogue.secured())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, in whatever way it came."""
        self._gone = True
        self._producer = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._perform(self._dialogue.lost(_describe(reason)))
        if self.on_gone is not None:
            self.on_gone()

    # What the dialogue wants

    def _perform(self, actions: list[Action]) -> None:
        self._act(actions)
        self._watch()

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if type(action) is Write:
                self.transport.write(action.octets)
            elif type(action) is SendContent:
                self._send_content(action.content)
            elif type(action) is Finished:
                done, self._done = self._done, None
                assert done is not None
                done(action.answers)  # may send the next message from within
            else:
                self._act_rarely(action)

    def _act_rarely(self, action: Action) -> None:
        if isinstance(action, StartTls):
            self.transport.startTLS(self._creator)
        elif isinstance(action, Opened):
            opened, self._opened = self._opened, None
            if opened is not None:
                opened.callback(self)
        elif isinstance(action, Refused):
            opened, self._opened = self._opened, None
            if opened is not None:
                opened.errback(SessionError(action.answer, self.local))
        elif isinstance(action, Close) and not self._gone:
            if self._producer is not None:
                self._producer.stopProducing()
                self._producer = None
                self.transport.unregisterProducer()
            if action.abruptly:
                self.transport.abortConnection()
            else:
                self.transport.loseConnection()

    def _send_content(self, content: Content) -> None:
        if content.size > SMALL:
            self._producer = _ContentProducer(self, content.chunks())
            self.transport.registerProducer(self._producer, False)
            return
        try:
            octets = b"".join(content.chunks())
        except OSError as error:
            self._content_failed(error)
            return
        self._dialogue.content_sent()
        self.transport.write(stuff(octets))

    def _content_sent(self) -> None:
        self._producer = None
        self.transport.unregisterProducer()
        self._dialogue.content_sent()
        self._watch()

    def _content_failed(self, error: OSError) -> None:
        self._perform(self._dialogue.content_failed(f"the content could not be read: {error.strerror or error}"))

    # Time: one delayed call a connection, looked at when it is due and not moved for each reply

    def _watch(self) -> None:
        limit = self._timeouts.get(self._dialogue.stage)
        if limit is None or self._gone:
            self._deadline = 0.0
            return
        self._deadline = deadline = self._clock.seconds() + limit
        if self._timer is None:
            self._due = deadline
            self._timer = self._clock.callLater(limit, self._look)
        elif self._due > deadline:
            self._due = deadline
            self._timer.reset(limit)

    def _look(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        left = self._deadline - self._clock.seconds()
        if left > 0:
            self._due = self._deadline
            self._timer = self._clock.callLater(left, self._look)
            return
        if self._dialogue.stage is not Stage.CLOSED:
            self._perform(self._dialogue.expired())
        if not self._gone:
            self.transport.abortConnection()


@implementer(IPullProducer)
class _ContentProducer:
    """Large content on its way: one chunk in memory, the next one when the transport has room."""

    def __init__(self, sender: RelaySender, chunks: Iterator[bytes]) -> None:
        self._sender = sender
        self._chunks = chunks
        self._encoder = Encoder()
        self._stopped = False

    def resumeProducing(self) -> None:
        """Write one more piece."""
        if self._stopped:
            return
        octets = b""
        try:
            for chunk in self._chunks:
                octets = self._encoder.feed(chunk)
                if octets:  # nothing written is nothing to be woken by
                    break
        except OSError as error:
            self._stopped = True
            self._sender._content_failed(error)
            return
        if octets:
            self._sender.transport.write(octets)
            self._sender._watch()  # RFC 5321 §4.5.3.2.5: the limit is for each block
        else:
            self._stopped = True
            self._sender.transport.write(self._encoder.finish())
            self._sender._content_sent()

    def stopProducing(self) -> None:
        """Nobody reads any more."""
        self._stopped = True


class RelaySenderFactory(smtp.ESMTPSenderFactory):
    """Makes the RelaySender of one connection. `opened` fires with it when the session stands, or with SessionError."""

    noisy = False

    def __init__(
        self,
        dialogue: Dialogue,
        clock: IReactorTime,
        *,
        creator: IOpenSSLClientConnectionCreator | None = None,
        timeouts: Mapping[Stage, float] = TIMEOUTS,
    ) -> None:
        self.opened: Deferred[RelaySender] = Deferred()
        super().__init__(b"", b"", b"", (), None, Deferred(), retries=0)  # type: ignore[no-untyped-call]
        self._dialogue = dialogue
        self._clock = clock
        self._creator = creator
        self._timeouts = timeouts
        self._connector: IConnector | None = None
        self._sender: RelaySender | None = None

    def abort(self) -> None:
        """Give up, however far it has come."""
        if self._sender is not None:
            self._sender.abort()
        elif self._connector is not None:
            self._connector.disconnect()

    def startedConnecting(self, connector: IConnector) -> None:
        """The attempt has begun."""
        self._connector = connector

    def buildProtocol(self, addr: Any) -> RelaySender:
        """The connection stands."""
        self._sender = sender = RelaySender(
            self._dialogue, self._clock, opened=self.opened, creator=self._creator, timeouts=self._timeouts
        )
        sender.factory = self
        return sender

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        """No connection."""
        self._connector = None
        self.opened.errback(
            SessionError(Answer(Stage.CONNECT, trouble=Trouble.UNREACHABLE, text=_describe(reason)))
        )

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        """The sender knows already; nothing is tried again from here."""
        self._connector = None


def _describe(reason: Failure) -> str:
    """A short sentence for the log and the notice: what the operating system or the TLS library says."""
    error = reason.value
    if isinstance(error, VerificationError):
        return "the certificate is not for this host"
    text = str(reason.getErrorMessage())
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        text = "; ".join(str(part[-1]) for part in error.args[0] if part)  # [(library, function, reason), ...]
    return " ".join(text.split()).rstrip(".") or type(error).__name__
