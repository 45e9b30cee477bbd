"""A bounded store of answers, the least recently used dropped first; its clock values are passed in.

RFC 2181 §8 (time to live), RFC 2308 §5 and §7 (negative answers and failures). Which ttl an answer has was decided
when it was read (dns_wire).
"""

from __future__ import annotations

from typing import Any

from relaymta.net.dns_answer import Answer

Key = tuple[str, int]  # name (lower case), record type
_ENTRY = 400  # octets of one entry beside its records, about; measured with tracemalloc


class Cache:
    """At most `entries` answers and about `octets` of memory; a few very large answers cannot fill the machine."""

    def __init__(self, entries: int, octets: int) -> None:
        self._entries = entries
        self._octets = octets
        self._held = 0
        self._answers: dict[Key, tuple[float, int, Answer[Any]]] = {}

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def octets(self) -> int:
        """Memory taken, about."""
        return self._held

    def get(self, key: Key, now: float) -> Answer[Any] | None:
        """The answer under `key` if it is still good at `now` (seconds, any epoch)."""
        entry = self._answers.pop(key, None)
        if entry is None:
            return None
        if entry[0] <= now:
            self._held -= entry[1]
            return None
        self._answers[key] = entry  # to the young end: dicts keep their order
        return entry[2]

    def put(self, key: Key, answer: Answer[Any], now: float, octets: int = 0) -> None:
        """Keep `answer` for its ttl; `octets` is what its records take, about."""
        old = self._answers.pop(key, None)
        if old is not None:
            self._held -= old[1]
        if answer.ttl <= 0:
            return
        size = _ENTRY + octets
        self._answers[key] = (now + answer.ttl, size, answer)
        self._held += size
        while len(self._answers) > self._entries or self._held > self._octets:
            self._held -= self._answers.pop(next(iter(self._answers)))[1]

    def clear(self) -> None:
        """Forget everything."""
        self._answers.clear()
        self._held = 0
