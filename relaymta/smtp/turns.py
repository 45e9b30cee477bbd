"""The words of a server's session: its states, its events, and the table of what is out of turn.

RFC 5321 §4.1.4 (order of commands), RFC 3030 §2 (BDAT).
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from relaymta.mail.reply import Reply
from relaymta.smtp import answers
from relaymta.smtp.authing import KeysAsked, LoggedIn, LoggingIn
from relaymta.smtp.commands import MailCommand, RcptCommand, XClient

# What is out of turn in a state, by verb; what is not here is in turn (RFC 5321 §4.1.4).
_NOTHING: dict[bytes, Reply] = {}
_BEFORE_HELLO = dict.fromkeys((b"MAIL", b"RCPT", b"DATA", b"BDAT", b"STARTTLS", b"AUTH"), answers.HELLO_FIRST)
_BEFORE_MAIL = dict.fromkeys((b"RCPT", b"DATA", b"BDAT"), answers.MAIL_FIRST)
_BEFORE_RCPT = {
    b"MAIL": answers.MAIL_NESTED,
    b"DATA": answers.NO_RECIPIENTS,
    b"BDAT": answers.NO_RECIPIENTS,
    b"AUTH": answers.AUTH_NESTED,  # RFC 4954 §4
}
_AFTER_RCPT = {b"MAIL": answers.MAIL_NESTED, b"AUTH": answers.AUTH_NESTED}
_BETWEEN_CHUNKS = dict.fromkeys((b"MAIL", b"RCPT", b"DATA"), answers.CHUNKS_UNDER_WAY)  # RFC 3030 §2
_BETWEEN_CHUNKS[b"AUTH"] = answers.AUTH_NESTED


class State(Enum):
    """Where the dialogue stands, and what is out of turn there."""

    CONNECTED = "the greeting is owed", _NOTHING
    GREETED = "no EHLO or HELO was accepted yet", _BEFORE_HELLO
    IDLE = "between transactions", _BEFORE_MAIL
    SENDER = "MAIL was accepted", _BEFORE_RCPT
    RECIPIENTS = "at least one RCPT was accepted", _AFTER_RCPT
    CONTENT = "reading to the end of data", _NOTHING
    CHUNK = "reading a chunk", _NOTHING
    CHUNKS = "between chunks", _BETWEEN_CHUNKS
    HANDSHAKE = "STARTTLS was accepted, TLS is not yet on", _NOTHING
    CLOSED = "nothing more is read", _NOTHING

    def __init__(self, meaning: str, out_of_turn: dict[bytes, Reply]) -> None:
        self.meaning = meaning
        self.out_of_turn = out_of_turn


class Signal(Enum):
    """Events that carry nothing."""

    NEED_DATA = "nothing to do before more octets come"
    PAUSED = "nothing to do before a decision is taken, or TLS is on"
    CONTENT_ASKED = "DATA or the first BDAT; a decision is owed"
    CONTENT_ENDED = "the content is whole; a decision is owed"
    RESET = "the transaction is gone"
    START_TLS = "send the output, then begin the handshake"
    CLOSED = "send the output, then close"


NEED_DATA = Signal.NEED_DATA
PAUSED = Signal.PAUSED


@frozen(slots=True)
class Hello:
    """EHLO (`esmtp`) or HELO; a decision is owed."""

    name: str
    esmtp: bool


@frozen(slots=True)
class Piece:
    """Clean content."""

    octets: bytes


@frozen(slots=True)
class Refused:
    """A command was refused by grammar, order or limits; `command` is fit for a log. Nothing is owed."""

    command: str
    reply: Reply


# A decision is owed for the commands and the first two of AUTH too; for XCLIENT it is the one at the greeting.
Event = Signal | Hello | MailCommand | RcptCommand | XClient | Piece | Refused | KeysAsked | LoggingIn | LoggedIn
