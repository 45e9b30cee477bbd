"""Deliveries that need no peer: what the routing table discards or refuses.

A route that says `discard` or `error:` (RFC 5321 §4.2.4 for the operator's own replies). Mailboxes are no business of
a relay; LMTP hands mail to who keeps them.
"""

from __future__ import annotations

from relaymta.delivery import classify
from relaymta.delivery.batch import Batch
from relaymta.mail.outcome import Outcome
from relaymta.mail.reply import Reply
from relaymta.routing.route import Transport

_REFUSED = Reply(550, "5.7.1", "mail for this address is refused")


def deliver(batch: Batch, at: float) -> list[Outcome]:
    """The Outcomes of a batch whose route is DISCARD or ERROR; `at` is POSIX time."""
    if batch.route.transport is Transport.DISCARD:
        return [classify.discarded(index, at) for index in batch.recipients]
    reply = batch.route.reply or _REFUSED
    return [classify.of_route(index, reply, at) for index in batch.recipients]
