"""Messages that are ours, from their 250 to their last recipient.

A message's events carry its queue id first.
"""

from __future__ import annotations

from attrs import frozen

from relaymta.events.ears import Event


@frozen(slots=True)
class MessageAccepted(Event):
    """A message is on stable storage and is ours; its 250 goes out. `seconds`: from MAIL to durable.

    `account`: who had logged in, or "".
    """

    id: str
    session: str
    client: str
    sender: str
    recipients: int
    size: int
    protocol: str
    message_id: str
    seconds: float
    account: str = ""


@frozen(slots=True)
class RecipientSettled(Event):
    """One recipient left the queue: delivered, relayed, failed, expired or removed."""

    id: str
    fate: str
    recipient: str
    status: str
    host: str
    address: str
    reply: str
    lane: str
    tls: str
    attempts: int
    seconds: float


@frozen(slots=True)
class RecipientDeferred(Event):
    """One recipient must wait; `next` is POSIX time of the next attempt."""

    id: str
    recipient: str
    status: str
    host: str
    address: str
    reply: str
    scope: str
    lane: str
    attempts: int
    next: int


@frozen(slots=True)
class MessageFinished(Event):
    """The last recipient left the queue; `seconds` since acceptance."""

    id: str
    seconds: float


@frozen(slots=True)
class NoticeQueued(Event):
    """A DSN was composed and accepted under `notice`, its own queue id."""

    id: str
    notice: str
    kind: str
    to: str
    recipients: int


@frozen(slots=True)
class NoticeDropped(Event):
    """A DSN was owed to nobody (null sender, no postmaster): told here alone."""

    id: str
    kind: str
    reason: str
    recipients: int


@frozen(slots=True)
class MessageHeld(Event):
    """A message waits for the operator."""

    id: str
    by: str
    reason: str


@frozen(slots=True)
class MessageReleased(Event):
    """A held message goes on."""

    id: str
    by: str


@frozen(slots=True)
class MessageRemoved(Event):
    """The operator deleted a message; no notice is sent."""

    id: str
    by: str
    recipients: int
