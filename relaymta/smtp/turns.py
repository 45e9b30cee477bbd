"""The words of a server's session: its states, its events, and the table of what is out of turn.

RFC 5321 §4.1.4 (order of commands), RFC 3030 §2 (BDAT).
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from relaymta.mail.reply import Reply
from relaymta.smtp import answers
from relaymta.smtp.commands import MailCommand, RcptCommand


class State(Enum):
    """Where the dialogue stands."""

    CONNECTED = "the greeting is owed"
    GREETED = "no EHLO or HELO was accepted yet"
    IDLE = "between transactions"
    SENDER = "MAIL was accepted"
    RECIPIENTS = "at least one RCPT was accepted"
    CONTENT = "reading to the end of data"
    CHUNK = "reading a chunk"
    CHUNKS = "between chunks"
    HANDSHAKE = "STARTTLS was accepted, TLS is not yet on"
    CLOSED = "nothing more is read"


class Signal(Enum):
    """Events that carry nothing."""

    NEED_DATA = "nothing to do before more octets come"
    PAUSED = "nothing to do before a decision is taken, or TLS is on"
    CONTENT_ASKED = "DATA or the first BDAT; a decision is owed"
    CONTENT_ENDED = "the content is whole; a decision is owed"
    RESET = "the transaction is gone"
    START_TLS = "send the output, then begin the handshake"
    CLOSED = "send the output, then close"


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


Event = Signal | Hello | MailCommand | RcptCommand | Piece | Refused  # a decision is owed for the two commands too

# What is out of turn, by state and verb; what is not here is in turn (RFC 5321 §4.1.4).
OUT_OF_TURN: dict[State, dict[bytes, Reply]] = {
    State.GREETED: dict.fromkeys((b"MAIL", b"RCPT", b"DATA", b"BDAT", b"STARTTLS"), answers.HELLO_FIRST),
    State.IDLE: dict.fromkeys((b"RCPT", b"DATA", b"BDAT"), answers.MAIL_FIRST),
    State.SENDER: {
        b"MAIL": answers.MAIL_NESTED,
        b"DATA": answers.NO_RECIPIENTS,
        b"BDAT": answers.NO_RECIPIENTS,
    },
    State.RECIPIENTS: {b"MAIL": answers.MAIL_NESTED},
    State.CHUNKS: dict.fromkeys((b"MAIL", b"RCPT", b"DATA"), answers.CHUNKS_UNDER_WAY),  # RFC 3030 §2
}
