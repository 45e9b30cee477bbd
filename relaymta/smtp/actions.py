"""What goes into the client's dialogue and what comes out of it: parcels, stages, answers and actions, all values.

RFC 5321 §4.5.3.2 (a time limit for each stage). What an answer means is left to delivery.classify.
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from relaymta.mail.content import Content
from relaymta.mail.envelope import Envelope
from relaymta.mail.reply import Reply


class Stage(Enum):
    """What the dialogue waits for; each has its own time limit (RFC 5321 §4.5.3.2)."""

    CONNECT = "while connecting"
    BANNER = "waiting for the greeting"
    HELLO = "after EHLO"
    STARTTLS = "after STARTTLS"
    HANDSHAKE = "in the TLS handshake"
    AUTH = "after AUTH"
    IDLE = "between messages"
    RSET = "after RSET"
    MAIL = "after MAIL"
    RCPT = "after RCPT"
    DATA = "after DATA"
    CONTENT = "while sending the message"
    DOT = "after the end of the message"
    QUIT = "after QUIT"
    CLOSED = "closed"

    __hash__ = object.__hash__  # members are single objects; Enum's own hash is a call in Python


class Trouble(Enum):
    """Why there is no reply that answers."""

    UNREACHABLE = "no connection"
    LOST = "the connection was lost"
    STALE = "the connection had ended between messages"
    TIMEOUT = "no answer in time"
    GARBLED = "the peer broke the protocol"
    NO_TLS = "TLS is demanded and not offered"
    TLS = "the TLS handshake failed"
    NO_AUTH = "we cannot log in"
    UNFIT = "the peer cannot take this message"
    UNSAFE = "the sender demands more of TLS than the peer shows"
    UNREADABLE = "the content could not be read"


class Tls(Enum):
    """Whether STARTTLS is said."""

    NEVER = "never"
    MAY = "where offered, and in clear otherwise"
    MUST = "or nothing else"


@frozen(slots=True)
class Answer:
    """How it ended, and where: the peer's reply, or the trouble in its stead with a short text.

    `status` is an enhanced code where the trouble brings its own (UNFIT, UNSAFE, NO_AUTH). `result`: what was wrong
    with the peer's TLS, in the words of RFC 8460 §4.3, where that is known.
    """

    stage: Stage
    reply: Reply | None = None
    trouble: Trouble | None = None
    text: str = ""
    status: str = ""
    result: str = ""


@frozen(slots=True)
class Verdict:
    """What the peer proved in the handshake.

    `how`: by what it was verified ("DANE-EE", "PKIX"), "" where it was not. `result`: what was wrong, in the words of
    RFC 8460 §4.3, and `text` for people; `fatal` says that nothing may be said to it.
    """

    how: str = ""
    result: str = ""
    text: str = ""
    fatal: bool = False


@frozen(slots=True)
class Parcel:
    """One message for one peer: `recipients` are indices into the envelope's."""

    envelope: Envelope
    content: Content
    recipients: tuple[int, ...]


@frozen(slots=True)
class Write:
    """Octets for the peer."""

    octets: bytes


@frozen(slots=True)
class StartTls:
    """Begin the handshake; `secured` or `lost` is the answer to it."""


@frozen(slots=True)
class Opened:
    """The session stands; `send` may be called."""


@frozen(slots=True)
class Refused:
    """There will be no session."""

    answer: Answer


@frozen(slots=True)
class SendContent:
    """Send the content, stuffed, with its end of data; `content_sent` or `content_failed` is the answer to it."""

    content: Content


@frozen(slots=True)
class Finished:
    """The parcel is done with: one answer a recipient, in its order; None where it was not tried on this connection."""

    answers: list[Answer | None]


@frozen(slots=True)
class Close:
    """Close the connection; `abruptly` when what is on its way must not arrive whole."""

    abruptly: bool = False


Action = Write | StartTls | Opened | Refused | SendContent | Finished | Close
