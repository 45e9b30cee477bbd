"""What is delivered in one attempt, and what has become of it so far.

A Batch comes from the scheduler; a Tally is its account until each recipient has an Outcome.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field, frozen

from relaymta.delivery.classify import Peer, meaning, outcome
from relaymta.mail.content import Content
from relaymta.mail.envelope import Envelope
from relaymta.mail.outcome import Outcome
from relaymta.routing.route import Route
from relaymta.smtp.actions import Answer, Trouble


@frozen(slots=True)
class Batch:
    """Recipients of one message that share a route: `recipients` are indices into the envelope's.

    `lane` is the scheduler's name for where it goes, for events; who may share a connection hangs on `route.lane`.
    """

    queue_id: str
    envelope: Envelope
    content: Content
    recipients: tuple[int, ...]
    route: Route
    lane: str


@define(eq=False)
class Tally:
    """Outcomes so far, and the recipients still without one."""

    pending: tuple[int, ...]
    outcomes: dict[int, Outcome] = field(factory=dict)

    def record(self, answers: Sequence[Answer | None], peer: Peer, at: float) -> Answer | None:
        """Take the answers of `peer` for `pending`, in its order.

        Pending stay those that were not tried, whose connection had ended before, and whom another host may serve;
        the result is the last answer of these, or None.
        """
        pending: list[int] = []
        fault = None
        for index, answer in zip(self.pending, answers, strict=True):
            if answer is None or answer.trouble is Trouble.STALE:
                pending.append(index)
            elif (row := meaning(answer)).elsewhere:
                pending.append(index)
                fault = answer
            else:
                self.outcomes[index] = outcome(index, answer, at, peer, row)
        self.pending = tuple(pending)
        return fault

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Put down the Outcomes of all who are pending."""
        for one in outcomes:
            self.outcomes[one.recipient] = one
        self.pending = ()
