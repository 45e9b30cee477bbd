"""A round: one message's turn, from the moment it is routed until what became of it is recorded.

It has a batch for each lane of the pending recipients. Here is its account, and what its outcomes mean for the lane,
for the notice and for the next attempt; who runs it is left to the scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.queue.lanes import Health
from relaymta.queue.message import Message

POSITIVE = (Fate.RELAYED, Fate.DELIVERED)
_WIDE = (Scope.SITE, Scope.HOST)


class Round:
    """`running` and `waiting` count batches, `starting` says that more may come.

    `lane` is that of all recipients, or `lanes` that of each. `wake` is the POSIX time at which a sleeping lane wakes
    that took no batch. A round that is `closed` is being recorded, or was withdrawn: its batches are void.
    """

    __slots__ = ("closed", "lane", "lanes", "message", "outcomes", "running", "starting", "waiting", "wake")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.lane = ""
        self.lanes: dict[int, str] | None = None
        self.running = 0
        self.waiting = 0
        self.outcomes: list[Outcome] = []
        self.wake: float | None = None
        self.starting = True
        self.closed = False

    @property
    def ended(self) -> bool:
        """Whether every batch is in."""
        return not (self.running or self.waiting or self.starting or self.closed)

    def sleep(self, until: float) -> None:
        """A lane that sleeps until then did not take a batch."""
        self.wake = until if self.wake is None else min(until, self.wake)

    def lane_of(self, recipient: int) -> str:
        """The lane of one recipient, "" if it was not routed."""
        return self.lane if self.lanes is None else self.lanes.get(recipient, "")

    def next_lane(self, outcomes: Sequence[Outcome]) -> str:
        """The lane of all that stay pending, or "" where there are several: no lane shall wait for another."""
        if self.lanes is None:
            return self.lane
        gone = {outcome.recipient for outcome in outcomes if outcome.fate.final}
        left = {self.lane_of(index) for index in self.message.progress.pending if index not in gone}
        return left.pop() if len(left) == 1 else ""


def health(outcomes: Sequence[Outcome]) -> Health:
    """What the outcomes of a batch say of its destination. An answer about a message is a sign of life."""
    found = Health.UNKNOWN
    for outcome in outcomes:
        if outcome.fate in POSITIVE:
            return Health.GOOD
        if outcome.scope in _WIDE:
            if outcome.fate is Fate.DEFERRED:
                found = Health.BAD
        elif outcome.reply is not None:
            return Health.GOOD
    return found


def expired(message: Message, outcomes: Sequence[Outcome], now: float) -> list[Outcome]:
    """The same, with all that would have to wait given up; each keeps what was last said of it."""
    unknown = Outcome(0, Fate.EXPIRED, Scope.SITE, "4.4.7", "the time for delivery ran out", now)
    last = _last(message, outcomes, unknown)
    return [outcome if outcome.fate.final else evolve(outcome, fate=Fate.EXPIRED) for outcome in last]


def delayed(message: Message, outcomes: Sequence[Outcome], now: float) -> list[Outcome]:
    """What still has to wait after `outcomes`, each with what was last said of it."""
    text = "its destination was left alone after failures"
    unknown = Outcome(0, Fate.DEFERRED, Scope.SITE, "4.4.1", text, now)
    return [outcome for outcome in _last(message, outcomes, unknown) if not outcome.fate.final]


def _last(message: Message, outcomes: Sequence[Outcome], unknown: Outcome) -> list[Outcome]:
    told = message.progress.last | {outcome.recipient: outcome for outcome in outcomes}
    return [told.get(index) or evolve(unknown, recipient=index) for index in message.progress.pending]
