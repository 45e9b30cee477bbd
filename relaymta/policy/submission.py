"""A submission listener is for our own people: nobody else is served there, not even with mail for our own domains.

RFC 6409 §4.2 (whole domains), §4.3 (530 at MAIL), §6.3 (554 for faults of the data), RFC 4954 §6 (the code of a 530),
RFC 5322 §3.6 (one From field). A message without From is refused
and not completed: RFC 6409 §8 lists what a server may add, and who wrote a message is nothing that it could know.
"""

from __future__ import annotations

from collections.abc import Iterable

from relaymta.mail.address import Address
from relaymta.mail.message import count
from relaymta.mail.reply import Reply
from relaymta.policy.verdict import Opinion, Transaction, Verdict

STRANGER = Reply(530, "5.7.0", "authentication required")
NO_AUTHOR = Reply(554, "5.6.0", "the message has no From field")
AUTHORS = Reply(554, "5.6.0", "the message has more than one From field")
PART_SENDER = Reply(554, "5.1.8", "the domain of the sender is not fully qualified")
PART_RECIPIENT = Reply(554, "5.1.2", "the domain of the recipient is not fully qualified")


def is_whole(address: Address) -> bool:
    """Whether its domain is fully qualified (RFC 6409 §4.2): "sales" is not. <postmaster> has none, and needs none."""
    domain = address.domain
    return not domain or "." in domain or domain.startswith("[")


class Submission:
    """The check of submission listeners, whose names are `listeners`."""

    name = "submission"

    def __init__(self, listeners: Iterable[str]) -> None:
        self._listeners = frozenset(listeners)

    def mail(self, transaction: Transaction) -> Opinion:
        """None for who logged in, or is trusted by network or certificate, and says whose mail it is."""
        if transaction.listener not in self._listeners:
            return None
        if not transaction.trusted and transaction.rights is None:  # a name alone, of XCLIENT's, earns nothing
            return Verdict(STRANGER, self.name, "neither logged in nor trusted")
        sender = transaction.sender
        return None if sender is None or is_whole(sender) else Verdict(PART_SENDER, self.name, str(sender))

    def rcpt(self, transaction: Transaction, address: Address) -> Opinion:
        """None for a recipient whom everybody would find at the same place."""
        if transaction.listener not in self._listeners or is_whole(address):
            return None
        return Verdict(PART_RECIPIENT, self.name, str(address))

    def content(self, transaction: Transaction, header: bytes) -> Opinion:
        """None for a message with one From field."""
        if transaction.listener not in self._listeners:
            return None
        fields = count(header, b"from")
        if fields == 1:
            return None
        return Verdict(AUTHORS if fields else NO_AUTHOR, self.name)
