"""The index: where each waiting message lies, in about a hundred octets a message.

Each entry is one small integer: the due time, and the number of the rest of its name, which all messages of the same
lane and sender share. It holds no truth: the folders do.
"""

from __future__ import annotations

_SLOT_BITS = 26  # with a due time of 31 bits an entry stays an int of two digits, 32 octets
_SLOT_MASK = (1 << _SLOT_BITS) - 1


class Index:
    """Queue id to file name."""

    def __init__(self) -> None:
        self._entries: dict[str, int] = {}
        self._slots: list[str] = []
        self._uses: list[int] = []
        self._numbers: dict[str, int] = {}
        self._unused: list[int] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, queue_id: str) -> bool:
        return queue_id in self._entries

    def get(self, queue_id: str) -> str | None:
        """The file name of a message, or None when it is not here."""
        entry = self._entries.get(queue_id)
        if entry is None:
            return None
        return f"{queue_id},{entry >> _SLOT_BITS},{self._slots[entry & _SLOT_MASK]}"

    def set(self, queue_id: str, name: str) -> None:
        """Note that a message lies under `name`, a name that store.names has made or understood."""
        self.drop(queue_id)
        _, due, suffix = name.split(",", 2)
        self._entries[queue_id] = int(due) << _SLOT_BITS | self._slot(suffix)

    def drop(self, queue_id: str) -> None:
        """Forget a message, if it is known."""
        entry = self._entries.pop(queue_id, None)
        if entry is None:
            return
        slot = entry & _SLOT_MASK
        self._uses[slot] -= 1
        if not self._uses[slot]:
            del self._numbers[self._slots[slot]]
            self._slots[slot] = ""
            self._unused.append(slot)

    def _slot(self, suffix: str) -> int:
        slot = self._numbers.get(suffix)
        if slot is None:
            if self._unused:
                slot = self._unused.pop()
                self._slots[slot] = suffix
            else:
                slot = len(self._slots)
                self._slots.append(suffix)
                self._uses.append(0)
            self._numbers[suffix] = slot
        self._uses[slot] += 1
        return slot
