"""The index: where each waiting message lies, in about eighty octets a message.

Each entry is one integer (store.packed): the due time, and the numbers of the rest of its name, which many messages
share: state, lane and sender. It holds no truth: the folders do.
"""

from __future__ import annotations

from sys import intern

from relaymta.store.numbers import Numbers
from relaymta.store.packed import due_of, lane_of, pack, sender_of, state_of


class Index:
    """Queue id to file name."""

    def __init__(self) -> None:
        self._entries: dict[str, int] = {}
        self._lanes = Numbers()
        self._senders = Numbers()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, queue_id: str) -> bool:
        return queue_id in self._entries

    def get(self, queue_id: str) -> str | None:
        """The file name of a message, or None when it is not here."""
        entry = self._entries.get(queue_id)
        if entry is None:
            return None
        lane, sender = self._lanes.rows[lane_of(entry)], self._senders.rows[sender_of(entry)]
        return f"{queue_id},{due_of(entry)},{'h' if state_of(entry) else 'w'},{lane},{sender}"

    def set(self, queue_id: str, name: str) -> None:
        """Note that a message lies under `name`, a name that store.names has made or understood."""
        self.drop(queue_id)
        _, due, state, lane, sender = name.split(",")
        self._entries[queue_id] = pack(
            int(due),
            self._lanes.take(intern(lane)),  # mostly the very string that its ticket has
            self._senders.take(intern(sender)),
            state == "h",
        )

    def drop(self, queue_id: str) -> None:
        """Forget a message, if it is known."""
        entry = self._entries.pop(queue_id, None)
        if entry is not None:
            self._lanes.give(lane_of(entry))
            self._senders.give(sender_of(entry))
