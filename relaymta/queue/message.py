"""A message in memory: its envelope, its content, where it stands; and whom it counts for when turns are taken."""

from __future__ import annotations

from attrs import define

from relaymta.mail.content import Content
from relaymta.mail.envelope import Envelope
from relaymta.queue.story import Progress

OVERHEAD = 2048  # octets a message takes in memory beside its content: measured, envelope and round together
KEY_MAX = 60  # characters of a fairness key; what store.names keeps of it


@define(eq=False)
class Message:
    """One message that is not (or not only) a ticket: being attempted, about to be, or about to wait.

    `sender` is its fairness key, `weight` the octets it takes of the memory budget. `due` and `lane` are what its
    ticket said when it was claimed (0 and "" for a new message).
    """

    queue_id: str
    envelope: Envelope
    content: Content
    progress: Progress
    sender: str
    weight: int
    due: int = 0
    lane: str = ""

    @property
    def held(self) -> bool:
        """Whether the operator wants it to wait."""
        return self.progress.held_at is not None


def fairness_key(envelope: Envelope) -> str:
    """Whose turn it is when this message leaves: the account that sent it, else its sender.

    What a sender varies from message to message counts as one: a tag behind "+", and a recipient that is written into
    the reverse-path (VERP), known by its "=".
    """
    account = envelope.origin.account
    if account:
        return account[:KEY_MAX]
    sender = envelope.sender
    if sender is None:
        return ""
    local = sender.local
    if "=" in local:
        return f"@{sender.domain}"[:KEY_MAX]
    return f"{local.partition('+')[0]}@{sender.domain}"[:KEY_MAX]
