"""AUTH as a part of the session: which mechanisms can work now, one exchange from its command to its end.

RFC 4954 (AUTH), with RFC 4422 §3 (exchanges) beneath. Lines in, moves out: a challenge for the client, a question for
whoever decides, or the reply that ends it. The messages of a mechanism are smtp.sasl's; the state around the exchange
is smtp.session's. Nothing of an exchange is in any text that leaves this module but the challenge itself.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection

from attrs import define, frozen

from relaymta.directory.account import Account
from relaymta.directory.credentials import ScramKeys
from relaymta.mail.reply import Reply
from relaymta.smtp import answers
from relaymta.smtp.grammar import RefusalError
from relaymta.smtp.rules import Rules
from relaymta.smtp.sasl import Challenge, External, KeysWanted, Login, Mechanism, Plain, Shown, Step
from relaymta.smtp.sasl_oauth import OAuthBearer, XOAuth2
from relaymta.smtp.sasl_scram import Binding, Scram, ScramPlus

_NAME = re.compile(rb"[A-Za-z0-9_\-]{1,20}")  # RFC 4422 §3.1

PLUS = "SCRAM-SHA-256-PLUS"
MECHANISMS = (PLUS, "SCRAM-SHA-256", "EXTERNAL", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN")  # in the order of liking


@frozen(slots=True, eq=False)
class Channel:
    """What the TLS of a session gives to a log-in.

    `bindings` are the kinds of channel binding that there are ("tls-exporter"), `binding` gives their data.
    `certificate` and `names` are the client certificate's, as in Peer.
    """

    bindings: tuple[str, ...] = ()
    binding: Binding = lambda kind: None
    certificate: str = ""
    names: tuple[str, ...] = ()


CLEAR = Channel()


@frozen(slots=True)
class KeysAsked:
    """To go on with SCRAM; a decision is owed: the keys, or a reply."""

    name: str


@frozen(slots=True)
class LoggingIn:
    """Credentials were shown; a decision is owed: the account, or a reply."""

    mechanism: str
    shown: Shown


@frozen(slots=True)
class LoggedIn:
    """The exchange ended well; nothing is owed."""

    mechanism: str
    account: Account


Answer = Account | ScramKeys | Reply | None
Move = Challenge | KeysAsked | LoggingIn | LoggedIn | Reply


def offered(rules: Rules, channel: Channel, *, tls: bool) -> tuple[str, ...]:
    """The mechanisms that can work on this channel, of those that the accounts can be asked about."""
    if not rules.mechanisms or not (tls or rules.auth_in_clear):
        return ()
    return tuple(name for name in MECHANISMS if _works(name, rules.mechanisms, channel))


def _works(name: str, allowed: Collection[str], channel: Channel) -> bool:
    if name == PLUS:
        return bool(channel.bindings) and (name in allowed or "SCRAM-SHA-256" in allowed)
    if name == "EXTERNAL":
        return name in allowed and bool(channel.certificate)
    return name in allowed


def begin(argument: bytes, rules: Rules, channel: Channel, *, tls: bool) -> tuple[Exchange, Move]:
    """The exchange that "AUTH argument" begins, and its first move. Raises RefusalError."""
    if not rules.mechanisms:
        raise RefusalError(answers.NOT_IMPLEMENTED)
    if not (tls or rules.auth_in_clear):
        raise RefusalError(answers.AUTH_CLEAR)
    name, initial = read_auth(argument)
    exchange = Exchange.of(name, offered(rules, channel, tls=tls), channel, rules.nonce)
    return exchange, exchange.begin(initial)


def read_auth(argument: bytes) -> tuple[str, bytes | None]:
    """What follows "AUTH ": the mechanism, and its initial response or None. Raises RefusalError."""
    words = argument.split(b" ")
    if not argument:
        raise RefusalError(answers.ARGUMENT_NEEDED)
    if len(words) > 2 or not _NAME.fullmatch(words[0]):
        raise RefusalError(answers.AUTH_SYNTAX)
    name = words[0].decode("ascii").upper()
    if len(words) == 1:
        return name, None
    return name, b"" if words[1] == b"=" else _decoded(words[1])  # RFC 4954 §4: "=" is an empty initial response


@define(slots=True, eq=False)
class Exchange:
    """One AUTH. After a LoggedIn or a Reply it is over."""

    _mechanism: Mechanism
    _account: Account | None = None  # who is logged in as soon as the client has heard the last challenge
    _refusal: Reply | None = None  # the reply after it

    @classmethod
    def of(cls, name: str, mechanisms: Collection[str], channel: Channel, nonce: Callable[[], str]) -> Exchange:
        """The exchange of a mechanism that is offered. Raises RefusalError."""
        if name not in mechanisms:
            raise RefusalError(answers.AUTH_UNKNOWN)  # RFC 4954 §4: 504
        made: Mechanism
        if name == PLUS:
            made = ScramPlus(nonce, channel.binding)
        elif name == "SCRAM-SHA-256":
            made = Scram(nonce, plus=PLUS in mechanisms)
        elif name == "EXTERNAL":
            made = External(channel.names, channel.certificate)
        else:
            made = {"PLAIN": Plain, "LOGIN": Login, "OAUTHBEARER": OAuthBearer, "XOAUTH2": XOAuth2}[name]()
        return cls(made)

    def begin(self, initial: bytes | None) -> Move:
        """The command itself. Raises RefusalError, as the next two do."""
        return self._move(self._mechanism.start(initial))

    def hear(self, line: bytes) -> Move:
        """A line of the client, in base64."""
        if line == b"*":  # RFC 4954 §4
            raise RefusalError(answers.AUTH_CANCELLED)
        response = _decoded(line)
        if self._refusal is not None:
            return self._refusal
        if self._account is None:
            return self._move(self._mechanism.respond(response))
        if response:
            raise RefusalError(answers.AUTH_MALFORMED)
        return LoggedIn(self._mechanism.name, self._account)

    def decide(self, answer: Answer) -> Move:
        """What was decided on KeysAsked or LoggingIn."""
        if isinstance(answer, ScramKeys):
            return self._move(self._mechanism.take_keys(answer))
        if isinstance(answer, Account):
            self._account = answer
            return self._mechanism.accept() or LoggedIn(self._mechanism.name, answer)
        assert answer is not None, "who logged in is not said"
        last = self._mechanism.refuse() if answer.code == answers.AUTH_FAILED.code and not answer.close else None
        if last is not None:
            self._refusal = answer
        return last or answer

    def _move(self, step: Step) -> Move:
        if isinstance(step, Challenge):
            return step
        if isinstance(step, KeysWanted):
            return KeysAsked(step.name)
        return LoggingIn(self._mechanism.name, step)


def rendered(challenge: Challenge) -> bytes:
    """A challenge for the wire; the blank stands there also before nothing (RFC 4954 §4)."""
    return b"334 " + base64.b64encode(challenge.octets) + b"\r\n"


def _decoded(line: bytes) -> bytes:
    try:
        return binascii.a2b_base64(line, strict_mode=True)
    except ValueError:
        raise RefusalError(answers.AUTH_NOT_BASE64) from None  # RFC 4954 §4: 501 5.5.2
