"""The client's side of an SMTP or LMTP dialogue, as a machine without socket and clock.

RFC 5321 §3.1, §3.2, §3.8, §4.1.4 (order), §4.3.2 (replies), RFC 3207 (STARTTLS), RFC 4954 (AUTH), RFC 2033 (LMTP).
Octets and calls go in, actions come out:

    BANNER -> HELLO -> [STARTTLS -> HANDSHAKE -> HELLO] -> [AUTH] -> IDLE
    IDLE -> transactions (smtp.sending) -> IDLE
    IDLE -> QUIT -> CLOSED; and CLOSED from everywhere

What an answer means for the message, whether another host is tried, and which TLS a host must show are left to
delivery; what is offered and how commands are written to smtp.offers, what is said to log in to smtp.sasl_client.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve

from relaymta.mail.reply import Reply
from relaymta.smtp.actions import (
    Action,
    Answer,
    Close,
    Opened,
    Parcel,
    Refused,
    SendContent,
    Stage,
    StartTls,
    Tls,
    Trouble,
    Write,
)
from relaymta.smtp.offers import NOTHING, Offers, offers_of
from relaymta.smtp.replies import Raw, ReplyReader, reply_of
from relaymta.smtp.sasl_client import Exchange, Login, LoginError
from relaymta.smtp.sending import Broken, Link, Sending

MAX_RECIPIENTS = 100  # a transaction; RFC 5321 §4.5.3.1.8: what every server must take
_QUIT = Write(b"QUIT\r\n")


class Dialogue:
    """One connection's dialogue. `hello` is our name for EHLO (bytes: A-labels or an address literal).

    `login` is who we log in as; `verified` says that TLS, once it stands, has proven who the peer is.
    """

    __slots__ = (
        "_exchange",
        "_hello",
        "_helo",
        "_link",
        "_login",
        "_reader",
        "_sending",
        "_tls",
        "_verified",
        "heard",
        "secure",
    )

    def __init__(
        self,
        hello: bytes,
        *,
        lmtp: bool = False,
        tls: Tls = Tls.MAY,
        max_recipients: int = MAX_RECIPIENTS,
        login: Login | None = None,
        verified: bool = False,
    ) -> None:
        self.secure = False
        self.heard = 0  # whole replies: what moves the time limit on, where lines of one do not
        self._hello = hello
        self._tls = tls
        self._link = Link(limit=max_recipients, lmtp=lmtp)
        self._reader = ReplyReader()
        self._helo = False  # EHLO was refused, HELO was said
        self._sending: Sending | None = None
        self._login = login  # None from when we are logged in: the secret is of no more use
        self._verified = verified
        self._exchange: Exchange | None = None

    @property
    def stage(self) -> Stage:
        """What it waits for."""
        return self._link.stage

    @property
    def offers(self) -> Offers:
        """What the peer offers, as of the last EHLO."""
        return self._link.offers

    @property
    def transactions(self) -> int:
        """How many MAIL commands were said."""
        return self._link.transactions

    @property
    def usable(self) -> bool:
        """Whether `send` may be called: the session stands, nothing is under way, and the peer allows one more."""
        link = self._link
        return link.stage is Stage.IDLE and not 0 < link.offers.mail_max <= link.transactions  # RFC 9422 §4.1

    # Calls

    def receive(self, octets: bytes) -> list[Action]:
        """What follows from what the peer sent."""
        actions: list[Action] = []
        link = self._link
        if self.stage is Stage.CLOSED:
            return actions
        reader = self._reader
        try:
            for raw in reader.feed(octets):
                self.heard += 1
                if actions and type(actions[-1]) in _OUR_TURN:
                    # The reply was on its way before the command that it would answer: the peer is out of step, or
                    # somebody in between speaks for it (after STARTTLS above all). A 421 may come at any time
                    # (RFC 5321 §3.8).
                    actions.pop()
                    if raw[0] != 421:
                        raise Broken("the peer spoke out of turn")
                if raw[0] == 421 or (link.stage is Stage.CONTENT and raw[0] >= 400):
                    # Dismissed; or it will not have the rest of the content, and nothing puts us in step again.
                    self._give_up(Answer(link.stage, self._reply(raw)), actions)
                elif self._sending is not None:
                    self._sending.receive(raw, actions)
                    if link.stage is Stage.IDLE:
                        self._sending = None
                else:
                    _REPLIED[link.stage](self, raw, actions)
                if link.stage is Stage.CLOSED:
                    return actions
            if reader.fault:
                if actions and type(actions[-1]) in _OUR_TURN:
                    actions.pop()
                raise Broken(reader.fault)
        except Broken as error:
            trouble = Trouble.STALE if link.stage is Stage.RSET else Trouble.GARBLED
            self._give_up(Answer(link.stage, trouble=trouble, text=str(error)), actions)
        return actions

    def secured(self) -> list[Action]:
        """The handshake ended well: all that the peer said before it is forgotten (RFC 3207 §4.2)."""
        self.secure = True
        self._link.offers = NOTHING
        return [self._say_hello()]

    def unverified(self, text: str, result: str) -> list[Action]:
        """The handshake ended well, and the peer is not who it must be; `result` as in Answer. Not a word is said."""
        actions: list[Action] = []
        self._give_up(Answer(self._link.stage, trouble=Trouble.TLS, text=text, result=result), actions)
        return actions

    def send(self, parcel: Parcel) -> list[Action]:
        """Begin to send a message; exactly one Finished follows, at once or later. Only while `usable`.

        Content with octets above 127 for a peer without 8BITMIME is refused here: the caller converts it before.
        Raises ValueError, with nothing said, where a command cannot be written.
        """
        actions: list[Action] = []
        sending = Sending(self._link, parcel)
        try:
            sending.start(actions)
        except ValueError:
            self._link.stage = Stage.IDLE
            raise
        if self._link.stage is not Stage.IDLE:
            self._sending = sending
        return actions

    def content_sent(self) -> None:
        """All of the content and its end of data are with the transport."""
        self._link.stage = Stage.DOT

    def content_failed(self, text: str) -> list[Action]:
        """The content could not be read to its end; the peer must not take a part of it for the whole."""
        return self._ended(Trouble.UNREADABLE, text)

    def quit(self) -> list[Action]:
        """End a session that is idle; any other is given up."""
        if self._link.stage is not Stage.IDLE:
            return self._ended(Trouble.LOST, "the connection was given up")
        self._link.stage = Stage.QUIT
        return [_QUIT]  # RFC 5321 §4.1.1.10

    def lost(self, text: str) -> list[Action]:
        """The connection is gone; `text` says how."""
        return self._ended(Trouble.TLS if self._link.stage is Stage.HANDSHAKE else Trouble.LOST, text)

    def expired(self) -> list[Action]:
        """The time for this stage is over."""
        return self._ended(Trouble.TIMEOUT, f"timed out {self._link.stage.value}")

    # Replies, one method a stage

    def _on_banner(self, raw: Raw, actions: list[Action]) -> None:
        if raw[0] == 220:
            actions.append(self._say_hello())
        else:
            self._turned_away(raw, actions)

    def _say_hello(self) -> Write:
        self._link.stage = Stage.HELLO
        verb = b"LHLO " if self._link.lmtp else b"HELO " if self._helo else b"EHLO "  # RFC 2033 §4.1
        return Write(verb + self._hello + b"\r\n")

    def _on_hello(self, raw: Raw, actions: list[Action]) -> None:
        code, lines = raw
        if code >= 500 and not (self._link.lmtp or self._helo or self.secure):
            self._helo = True  # RFC 5321 §3.2: a server that does not know EHLO
            actions.append(self._say_hello())
        elif not 200 <= code < 300:
            self._turned_away(raw, actions)
        else:
            self._link.offers = offers = NOTHING if self._helo else offers_of(lines, secure=self.secure)
            if self.secure or self._tls is Tls.NEVER:
                self._stand(actions)
            elif offers.starttls:
                self._link.stage = Stage.STARTTLS
                actions.append(Write(b"STARTTLS\r\n"))
            elif self._tls is Tls.MAY:
                self._stand(actions)
            else:
                self._link.stage = Stage.STARTTLS
                text = "TLS is demanded, and the peer does not offer STARTTLS"
                self._leave(Answer(Stage.STARTTLS, trouble=Trouble.NO_TLS, text=text), actions)

    def _on_starttls(self, raw: Raw, actions: list[Action]) -> None:
        if raw[0] == 220:
            if not self._reader.between:
                # Octets behind the 220 came in clear and would be read as if said under TLS: response injection.
                # A whole reply is caught by receive, the beginning of one here.
                raise Broken("the peer spoke in clear after it agreed to TLS")
            self._link.stage = Stage.HANDSHAKE
            actions.append(StartTls())
        elif self._tls is Tls.MUST:
            self._turned_away(raw, actions)
        else:
            self._stand(actions)  # RFC 3207 §4: 454 or 501; the session goes on in clear

    def _stand(self, actions: list[Action]) -> None:
        """The session is as it should be, but for the log-in where there is one."""
        link = self._link
        if self._login is not None:
            self._log_in(self._login, actions)
            return
        if link.offers.rcpt_max:
            link.limit = min(link.limit, link.offers.rcpt_max)  # RFC 9422 §4.2
        link.stage = Stage.IDLE
        actions.append(Opened())

    def _log_in(self, login: Login, actions: list[Action]) -> None:
        link = self._link
        link.stage = Stage.AUTH
        try:
            if not (login.insecure or (self._verified and self.secure)):
                # RFC 4954 §14: whoever is in between would have it
                raise LoginError(f"account {login.account} is not shown over a channel that is not verified")
            self._exchange = Exchange(login, login.choose(link.offers.keywords.get("AUTH", "")))
            actions.append(Write(self._exchange.begin() + b"\r\n"))
        except LoginError as error:
            self._leave(_no_login(error), actions)

    def _on_auth(self, raw: Raw, actions: list[Action]) -> None:
        code, lines = raw
        exchange = self._exchange
        assert exchange is not None
        try:
            if code == 334:  # RFC 4954 §4
                actions.append(Write(exchange.respond(lines[-1]) + b"\r\n"))
            elif code == 235:
                exchange.succeed()
                self._login = self._exchange = None
                self._stand(actions)
            else:
                self._turned_away(raw, actions)
        except LoginError as error:
            if code == 334:
                actions.append(Write(b"*\r\n"))  # RFC 4954 §4: cancelled; nothing else can be said now
            self._give_up(_no_login(error), actions)

    def _turned_away(self, raw: Raw, actions: list[Action]) -> None:
        self._leave(Answer(self._link.stage, self._reply(raw)), actions)

    def _reply(self, raw: Raw) -> Reply:
        """The reply, without the secret that a peer may say back."""
        reply, login = reply_of(raw), self._login
        return reply if login is None else evolve(reply, text=login.conceal(reply.text))

    def _leave(self, answer: Answer, actions: list[Action]) -> None:
        actions.append(Refused(answer))
        actions.append(_QUIT)  # RFC 5321 §3.1: also after a 554 greeting
        self._link.stage = Stage.QUIT

    def _on_idle(self, raw: Raw, actions: list[Action]) -> None:
        raise Broken("the peer spoke out of turn")

    def _on_quit(self, raw: Raw, actions: list[Action]) -> None:
        self._close(actions)

    # Ends before their time

    def _ended(self, trouble: Trouble, text: str) -> list[Action]:
        actions: list[Action] = []
        if self._link.stage is not Stage.CLOSED:
            self._give_up(Answer(self._link.stage, trouble=trouble, text=text), actions)
        return actions

    def _give_up(self, answer: Answer, actions: list[Action]) -> None:
        """The connection is of no more use; `answer` says why to whoever waits for it."""
        # A peer that is not who it must be is not bidden farewell either.
        abruptly = answer.stage is Stage.CONTENT or bool(answer.result)
        if answer.stage in _OPENING:
            actions.append(Refused(answer))
        elif self._sending is not None:
            self._sending.abandon(answer, actions)
            self._sending = None
        self._close(actions, abruptly=abruptly)

    def _close(self, actions: list[Action], *, abruptly: bool = False) -> None:
        self._link.stage = Stage.CLOSED
        actions.append(Close(abruptly))


_OUR_TURN = (Write, SendContent, StartTls)
def _no_login(error: LoginError) -> Answer:
    return Answer(Stage.AUTH, trouble=Trouble.NO_AUTH, text=str(error), status="4.7.0")


_OPENING = (Stage.BANNER, Stage.HELLO, Stage.STARTTLS, Stage.HANDSHAKE, Stage.AUTH)
_REPLIED: dict[Stage, Callable[[Dialogue, Raw, list[Action]], None]] = {
    Stage.BANNER: Dialogue._on_banner,
    Stage.HELLO: Dialogue._on_hello,
    Stage.STARTTLS: Dialogue._on_starttls,
    Stage.HANDSHAKE: Dialogue._on_idle,
    Stage.AUTH: Dialogue._on_auth,
    Stage.IDLE: Dialogue._on_idle,
    Stage.QUIT: Dialogue._on_quit,
}
