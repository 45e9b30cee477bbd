"""An account: who may log in, and what it may then do.

A value, and the interface that twisted.cred's realm gives it by; where accounts are kept is the business of the
modules beside it, what follows from the rights that of policy.
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen
from zope.interface import Interface, implementer


class Over(Enum):
    """What becomes of a message that exceeds its account's quota."""

    HOLD = "hold"
    REFUSE = "refuse"


@frozen(slots=True)
class Quota:
    """How much an account may send, each 0 for no limit."""

    messages_per_hour: int = 0
    messages_per_day: int = 0
    recipients_per_hour: int = 0
    recipients_per_day: int = 0


class IAccount(Interface):
    """What a portal gives for credentials that are right: an Account."""


@implementer(IAccount)
@frozen
class Account:
    """One account.

    `senders`: patterns of what it may send as, in envelope and From: field ("user@example.org", "example.org",
    ".example.org", "*"); () is anything. `relay`: whether it may send to anywhere, or only to `relay.domains`.
    `quota` None and `over` None: as [users] says.
    """

    name: str
    senders: tuple[str, ...] = ()
    relay: bool = True
    quota: Quota | None = None
    over: Over | None = None
