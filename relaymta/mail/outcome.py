"""What became of a recipient in one attempt: one value from the wire to the notice.

RFC 3463 (status codes), RFC 3464 §2.3 (the same facts as a DSN tells them). Made by delivery.classify alone.
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from relaymta.mail.reply import Reply


class Fate(Enum):
    """What the queue does with the recipient; all but DEFERRED are final."""

    DELIVERED = "delivered"  # handed to a mailbox or a store (LMTP, local, discard)
    RELAYED = "relayed"  # handed to the next hop, which has taken the responsibility
    DEFERRED = "deferred"
    FAILED = "failed"
    EXPIRED = "expired"  # deferred until its lifetime was over (RFC 5321 §4.5.4.1)
    REMOVED = "removed"  # by the operator, no notice owed

    @property
    def final(self) -> bool:
        """Whether the recipient leaves the queue with it."""
        return self is not Fate.DEFERRED


class Scope(Enum):
    """What an answer speaks of, from the widest to the narrowest; it decides who else must wait."""

    SITE = "site"  # every host of the destination: name look-up, all hosts unreachable
    HOST = "host"  # this host: connect, banner, EHLO, 421
    MESSAGE = "message"  # this message: MAIL, DATA, end of data
    RECIPIENT = "recipient"  # this recipient: RCPT


@frozen(slots=True)
class Outcome:
    """The end of one recipient in one attempt.

    `recipient` is its index in the envelope; `status` is an enhanced code ("4.4.1"); `text` is our short
    sentence; `reply` is the peer's own words where it spoke; `host` and `address` name the peer ("", "" where
    none was reached), `at` is POSIX time in seconds; `dsn` says that the peer took over the DSN duties
    (RFC 3461 §5.2.2); `unknown` marks an end of data whose reply never came.
    """

    recipient: int
    fate: Fate
    scope: Scope
    status: str
    text: str
    at: float
    reply: Reply | None = None
    host: str = ""
    address: str = ""
    tls: str = ""
    dsn: bool = False
    unknown: bool = False
