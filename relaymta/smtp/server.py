"""The server's shell: Twisted's protocol around smtp.session, which does the talking.

RFC 5321 §3.8 (closing), RFC 3207 and 8314 (TLS). Of twisted.mail's classes the frame is kept and all that reads or
writes is replaced. Here are the socket's side of a session and the one place where an exception becomes a reply.
Deadlines are left to smtp.timing, what all sessions of a listener share to smtp.listener, every decision to the
Handler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from traceback import format_exc
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IPushProducer
from twisted.mail import smtp
from twisted.python.failure import Failure
from zope.interface import implementer

from relaymta.directory.account import Account
from relaymta.directory.credentials import ScramKeys
from relaymta.mail.reply import Reply
from relaymta.smtp import answers
from relaymta.smtp.authing import KeysAsked, LoggedIn, LoggingIn
from relaymta.smtp.channel import channel_of
from relaymta.smtp.commands import MailCommand, RcptCommand, XClient
from relaymta.smtp.ending import server_name, tls_facts, why
from relaymta.smtp.handler import Handler, Sink
from relaymta.smtp.proxy import ProxyHeader
from relaymta.smtp.session import Session
from relaymta.smtp.timing import Patience
from relaymta.smtp.turns import NEED_DATA, PAUSED, Hello, Piece, Refused, Signal, State
from relaymta.smtp.whose import counted, introduced, rules_for

if TYPE_CHECKING:
    from relaymta.smtp.listener import RelayFactory

WAITING_MAX = 64 * 1024  # octets read ahead of a decision before the client is made to wait; ours
_VALUES = (Reply, Account, ScramKeys)  # answers for the session; any other is a Sink
CLOSE_WITHIN = 5.0  # seconds for the client to take the last reply and close; ours


@implementer(IPushProducer, IHandshakeListener)
class RelayESMTP(smtp.ESMTP):
    """One connection. As a producer it is the source of its own replies: a client that does not read is not heard."""

    factory: RelayFactory
    transport: Any
    noisy = False

    def __init__(self, header: ProxyHeader | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._header = header  # what a named proxy said of the connection
        self._handler: Handler | None = None  # none before the greeting, and for who is turned away
        self._sink: Sink | None = None
        self._waiting: Deferred[Any] | None = None  # the decision that is awaited
        self._messages = 0  # accepted
        self._final = False  # whether that decision is the one on a whole message
        self._pumping = False
        self._paused = False
        self._choked = False
        self._closing = False
        self._lost = False
        self._shaking = False  # TLS has begun and is not yet on
        self._timer: IDelayedCall | None = None

    # The connection

    def connectionMade(self) -> None:
        """Let the client in, or say 421 and close."""
        factory, transport = self.factory, self.transport
        self.peer = factory.peer_of(transport, self._header)
        factory.renew()
        self._session = Session(rules_for(self.peer, factory.settings, factory.rules))
        self._seconds = factory.clock.seconds
        self._patience = Patience(factory.settings.timeouts, self._seconds())
        refusal = factory.door.enter(self, counted(self.peer, factory.settings))
        if refusal is not None:
            self._turn_away(refusal)
            return
        transport.registerProducer(self, True)
        if factory.implicit_tls:
            self._start_tls()
        else:
            self._greet()

    def _turn_away(self, reply: Reply) -> None:
        self.factory.on_turned_away(self.peer, reply)
        self._session.give_up(reply, str(reply))
        if not self.factory.implicit_tls:
            self.transport.write(self._session.take_output())
        self._closing = True
        self._ring_in(CLOSE_WITHIN)
        self.transport.loseConnection()

    def _greet(self) -> None:
        self._meet()
        self._ring_in(self._patience.shortest)
        self._pump()

    def _meet(self) -> None:
        """Make whoever decides for this client, and ask whether to greet it."""
        try:
            self._handler = self.factory.handler(self.peer)
        except Exception:  # noqa: BLE001 - the one who decides could not be made: nobody can be served
            self._session.reply(self._bug("connect"))
        else:
            self._ask("connect", self._handler.connect)

    def dataReceived(self, data: bytes) -> None:
        """Octets from the client, of any number of commands."""
        self._patience.heard = self._seconds()
        self._session.receive(data)
        self._pump()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The end, whoever made it."""
        self._lost = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.factory.door.leave(self)
        self._let_go()
        session = self._session
        session.give_up(None, why(reason))
        if self._shaking:
            self.factory.on_tls_failed(self.peer, session.reason)
        handler = self._handler
        if handler is None:
            return
        self.peer.commands = session.commands
        for tell in (self._turn, partial(handler.closed, session.reason)):
            try:
                tell()
            except Exception:  # noqa: BLE001 - nobody is left to be told but the log
                self._bug("closed")

    # Events and decisions

    def _pump(self) -> None:
        """Do all that can be done now, and send what came of it in one write."""
        if self._pumping or self._lost:
            return
        self._pumping = True
        session = self._session
        try:
            signal = self._turn()
        except Exception:  # noqa: BLE001 - not from a decision: the state of the session is not to be trusted
            self._bug("session")
            session.give_up(answers.BROKEN, "an error of ours")
            signal = Signal.CLOSED
        self._pumping = False
        output = session.take_output()
        if output:
            self.transport.write(output)
        if signal is Signal.CLOSED:
            self._close()
        elif signal is Signal.START_TLS:
            self._start_tls()
        elif signal is PAUSED or self._paused:
            self._regulate()

    def _turn(self) -> Signal:
        """Handle events until one of them ends the turn."""
        session, handler = self._session, self._handler
        while True:
            event = session.next_event()
            if event is NEED_DATA or event is PAUSED:
                return event
            if isinstance(event, Signal):
                if event is Signal.CONTENT_ASKED:
                    self._ask("data", handler.data)  # type: ignore[union-attr]
                elif event is Signal.CONTENT_ENDED:
                    self._finish()
                elif event is Signal.RESET:
                    self._reset()
                else:
                    return event
            elif handler is None:
                continue  # the handler could not be made: what is refused now is nobody's to hear
            elif isinstance(event, Piece):
                self._write(event.octets)
            elif isinstance(event, RcptCommand):
                self._ask("rcpt", handler.rcpt, event)
            elif isinstance(event, MailCommand):
                self.peer.forwarded = session.forwarded
                self._ask("mail", handler.mail, event)
            elif isinstance(event, Hello):
                self.peer.helo, self.peer.esmtp = event.name, event.esmtp
                session.account = self.peer.account  # which the handler has taken away where XCLIENT named nobody
                self._ask("helo", handler.helo, event.name, event.esmtp)
                self._note_hello()
            elif isinstance(event, KeysAsked):
                self._ask("auth", handler.keys, event.name)
            elif isinstance(event, LoggingIn):
                self._ask("auth", handler.auth, event)
            elif isinstance(event, LoggedIn):
                self.peer.account = event.account.name
                handler.authenticated(event.account, event.mechanism)
            elif isinstance(event, Refused):
                handler.refused(event.command, event.reply)
            elif isinstance(event, XClient):
                handler = self._begin_again(event, handler)

    def _ask(self, where: str, question: Callable[..., Any], *facts: object) -> None:
        """Put a question and hand on its answer, at once if it can be had at once."""
        try:
            answer = question(*facts)
        except Exception:  # noqa: BLE001 - RFC 5321 §4.2.1: an error of ours is a 4yz, whatever it was
            answer = self._bug(where)
        if answer is None or answer.__class__ is Reply:
            self._session.reply(answer)
        elif hasattr(answer, "__await__"):
            self._await(where, answer)
        else:
            self._answer(answer)

    def _answer(self, answer: Reply | Account | ScramKeys | Sink | None) -> None:
        if answer is None or isinstance(answer, _VALUES):
            self._session.reply(answer)
        else:
            self._sink = answer
            self._patience.begin_content()
            self._session.reply(None)

    def _begin_again(self, command: XClient, handler: Handler) -> Handler | None:
        """XCLIENT: what was is over, and whoever decides for the client that it names is asked from the greeting on."""
        factory, session, before = self.factory, self._session, self.peer
        peer = self.peer = introduced(before, command, factory.new_id())
        before.commands = session.commands
        self._handler = None
        handler.closed(f"goes on as {peer.session}, by XCLIENT")
        session.begin_again(peer.helo)
        refusal = factory.door.rename(self, counted(peer, factory.settings))
        if refusal is not None:
            factory.on_turned_away(peer, refusal)
            session.reply(refusal)
        else:
            self._meet()
        return self._handler

    def _note_hello(self) -> None:
        """An EHLO that was refused has not been said."""
        session = self._session
        if not session.owes:
            self.peer.helo, self.peer.esmtp = session.helo, session.esmtp

    def _await(self, where: str, answer: Awaitable[Any]) -> None:
        waiting: Deferred[Any]
        waiting = answer if isinstance(answer, Deferred) else Deferred.fromCoroutine(_awaited(answer))
        self._waiting = waiting
        facts = (waiting, where)
        waiting.addCallbacks(self._answered, self._failed, callbackArgs=facts, errbackArgs=facts)

    def _answered(self, answer: Any, waiting: Deferred[Any], where: str) -> None:
        if self._waiting is not waiting:  # the session is over
            if answer is not None and not isinstance(answer, _VALUES):
                answer.abort()
            return
        self._waiting = None
        self._patience.heard = self._seconds()  # it is the client's turn from now on
        self._answer(answer)
        self._note_hello()
        self._pump()

    def _failed(self, failure: Failure, waiting: Deferred[Any], where: str) -> None:
        if self._waiting is waiting:
            self._answered(self._bug(where, failure.getTraceback()), waiting, where)
        elif failure.check(CancelledError) is None:
            self._bug(where, failure.getTraceback())

    def _let_go(self) -> None:
        """The session is over: no decision is awaited any more. A whole message is decided to its end all the same."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not self._final:
            waiting.cancel()

    def _bug(self, where: str, trace: str = "") -> Reply:
        """Tell of an exception that no rule foresaw, and give the reply that it becomes."""
        self.factory.on_bug(f"smtp.server {where}", trace or format_exc())
        return answers.BROKEN if where == "connect" else answers.OUR_FAULT

    # Content

    def _write(self, octets: bytes) -> None:
        assert self._sink is not None
        try:
            self._sink.write(octets)
        except Exception:  # noqa: BLE001 - the message is lost, the session is not
            reply = self._bug("write")
            self._abort()
            self._sink = _Broken(reply)

    def _finish(self) -> None:
        sink, self._sink = self._sink, None
        assert sink is not None
        self._final = True
        self._ask("finish", sink.finish)

    def _reset(self) -> None:
        if self._final:
            self._final = False
            if self._session.messages != self._messages:
                self._messages = self._session.messages
                self._patience.accept()
        self._abort()
        if self._handler is not None:
            self._handler.reset()

    def _abort(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.abort()

    # TLS

    def _start_tls(self) -> None:
        factory = self.factory
        self._shaking = True
        self._ring_in(factory.settings.timeouts.handshake)
        try:
            self.transport.startTLS(factory.tls_context)
        except Exception:  # noqa: BLE001 - after 220 the client speaks TLS: there is no reply it could read
            self._bug("tls")
            self.transport.protocol = self  # not a layer that has no connection, and could not tell of its end
            self.transport.abortConnection()

    def handshakeCompleted(self) -> None:
        """TLS is on."""
        peer, connection = self.peer, self.transport.getHandle()
        self._shaking = False
        peer.tls, peer.server_name = tls_facts(connection), server_name(connection)
        if not peer.introduced:  # else the certificate is that of the host that speaks for the client
            peer.certificate, peer.certificate_names = self.factory.certificate_of(connection)
        self._session.tls_started(channel_of(connection, peer.certificate, peer.certificate_names))
        peer.account = self._session.account  # RFC 3207 §4.2: forgotten, as what follows
        self.factory.on_tls(peer)
        if self._handler is None:
            self._greet()
        else:
            self._note_hello()  # RFC 3207 §4.2: forgotten
            self._pump()

    # Flow

    def pauseProducing(self) -> None:
        """Our replies are not read: read no commands."""
        self._choked = True
        self._regulate()

    def resumeProducing(self) -> None:
        """Our replies are read again."""
        self._choked = False
        self._regulate()

    def stopProducing(self) -> None:
        """The connection is lost, of which connectionLost tells."""

    def _regulate(self) -> None:
        """Read from the client, or make it wait (RFC 5321 does not ask us to be quicker than our disk)."""
        paused = not self._closing and (self._choked or self._session.waiting > WAITING_MAX)
        if paused is not self._paused:
            self._paused = paused
            if paused:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    # The end

    def drain(self) -> None:
        """End the session as soon as no transaction runs."""
        self._session.drain()
        if self._handler is None or self._session.state is State.HANDSHAKE:
            self.transport.loseConnection()
        else:
            self._pump()

    def abort(self) -> None:
        """End the session now, whatever runs."""
        self.transport.abortConnection()

    def _close(self) -> None:
        """The last reply is written: close, and see to it that the connection does end."""
        self._let_go()
        if self._closing:
            return
        self._closing = True
        transport = self.transport
        transport.unregisterProducer()
        quits = self._session.reason == "quit"
        if quits and hasattr(transport, "hang_up"):
            transport.hang_up()
            if self._lost:
                return
        self._ring_in(CLOSE_WITHIN)
        if quits or self.peer.tls or not hasattr(transport, "loseWriteConnection"):
            transport.loseConnection()
            return
        # The client may still be sending; to close now would reset the connection and take our reply with it.
        self._regulate()
        transport.loseWriteConnection()

    def _ring_in(self, seconds: float) -> None:
        """Have the timer ring then, and not before."""
        if self._timer is not None and self._timer.active():
            self._timer.reset(seconds)
        else:
            self._timer = self.factory.clock.callLater(seconds, self._ring)

    def _ring(self) -> None:
        """Look at the deadline; when it has passed, say 421 and close."""
        session, patience, now = self._session, self._patience, self._seconds()
        if self._closing or self._handler is None or session.state is State.HANDSHAKE:
            session.give_up(None, "the TLS handshake took too long")
            self.transport.abortConnection()
            return
        left = patience.deadline(session) - now
        if left > 0:
            self._ring_in(min(left, patience.shortest))
            return
        session.give_up(patience.reply(session, now), "timed out")
        self._pump()


class _Broken:
    """The sink of a message that could not be kept: it eats the rest and says so at the end."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def write(self, octets: bytes) -> None:
        """Eat."""

    def finish(self) -> Reply:
        """What became of it."""
        return self._reply

    def abort(self) -> None:
        """Nothing is kept anyhow."""


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer
