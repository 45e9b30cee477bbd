"""A submission listener is for our own people: nobody else is served there, not even with mail for our own domains.

RFC 6409 §4.3 (530 at MAIL), RFC 4954 §6 (its code), RFC 5322 §3.6 (one From field). A message without From is refused
and not completed: RFC 6409 §8 lists what a server may add, and who wrote a message is nothing that it could know.
"""

from __future__ import annotations

from collections.abc import Iterable

from relaymta.mail.message import count
from relaymta.mail.reply import Reply
from relaymta.policy.verdict import Opinion, Transaction, Verdict

STRANGER = Reply(530, "5.7.0", "authentication required")
NO_AUTHOR = Reply(550, "5.6.0", "the message has no From field")
AUTHORS = Reply(550, "5.6.0", "the message has more than one From field")


class Submission:
    """The check of submission listeners, whose names are `listeners`."""

    name = "submission"

    def __init__(self, listeners: Iterable[str]) -> None:
        self._listeners = frozenset(listeners)

    def mail(self, transaction: Transaction) -> Opinion:
        """None for who logged in, or is trusted by network or certificate."""
        if transaction.listener not in self._listeners or transaction.trusted or transaction.account:
            return None
        return Verdict(STRANGER, self.name, "neither logged in nor trusted")

    def content(self, transaction: Transaction, header: bytes) -> Opinion:
        """None for a message with one From field."""
        if transaction.listener not in self._listeners:
            return None
        fields = count(header, b"from")
        if fields == 1:
            return None
        return Verdict(AUTHORS if fields else NO_AUTHOR, self.name)
