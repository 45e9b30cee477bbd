"""The ledger: what came in, what left and how, counted apart from the structures that hold what is there.

accepted + adopted = left + what is here; an auditor compares the two sides, and the difference must read 0.
"""

from __future__ import annotations

from attrs import define, field, frozen

from relaymta.mail.outcome import Fate


@define(eq=False)
class Ledger:
    """Counts since the shard was opened. Messages: `accepted`, `adopted` (found on disk), `left`. Recipients: `fates`.

    `unreadable` are those of `left` that could not be read and were put aside for the operator.
    """

    accepted: int = 0
    adopted: int = 0
    left: int = 0
    unreadable: int = 0
    recipients: int = 0
    fates: dict[Fate, int] = field(factory=lambda: {fate: 0 for fate in Fate if fate.final})

    @property
    def here(self) -> int:
        """How many messages there must be."""
        return self.accepted + self.adopted - self.left


@frozen(slots=True)
class Stats:
    """The queue in numbers: messages by state, octets in memory, the ledger, and what the auditor says."""

    waiting: int
    ready: int
    held: int
    active: int
    memory: int
    accepted: int
    adopted: int
    left: int
    unreadable: int
    recipients: int
    fates: dict[str, int]
    difference: int
    oldest_due: int | None

    @property
    def queued(self) -> int:
        """All messages that are here."""
        return self.waiting + self.ready + self.held + self.active
