"""What is kept on disk: shards of the queue, and what workers share beside the mail."""

from __future__ import annotations

from attrs import frozen

from relaymta.events.ears import Event


@frozen(slots=True)
class SpoolOpened(Event):
    """A shard was opened and replayed: what the crash table of store.journal found."""

    shard: str
    queued: int
    replayed: int
    corrupt: int
    seconds: float


@frozen(slots=True)
class SpoolCorrupt(Event):
    """Something could not be read and was put into corrupt/; nothing was dropped."""

    file: str
    reason: str


@frozen(slots=True)
class SpoolFailed(Event):
    """A write or sync failed; no 250 was sent for it."""

    shard: str
    reason: str


@frozen(slots=True)
class SpoolFull(Event):
    """Free space fell below `queue.min_free`; mail is refused with 452."""

    shard: str
    free: int


@frozen(slots=True)
class LedgerMismatch(Event):
    """The auditor found accepted != settled + queued; a bug of ours."""

    shard: str
    difference: int


@frozen(slots=True)
class StateFailed(Event):
    """What workers share beside the mail cannot be read or written; mail goes on without it."""

    file: str
    reason: str
