"""Passwords and tokens that were right a moment ago, so that not every message of an application costs a hash.

What is kept is a keyed hash with a key of this process: who reads this memory finds no password in it that was not
there anyway. Kept for minutes, and forgotten when accounts change.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
ENTRIES_MAX = 10_000  # ours, about 3 MB


class Remembered(Generic[T]):
    """What was found for secrets, each for its own time. `seconds` is the clock."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._key = os.urandom(32)
        self._found: dict[bytes, tuple[float, T]] = {}

    def get(self, *secret: bytes) -> T | None:
        """What was found, while it may be used."""
        digest = self._digest(secret)
        until, found = self._found.get(digest, (0.0, None))
        if found is not None and until <= self._seconds():
            del self._found[digest]
            return None
        return found

    def put(self, found: T, lifetime: float, *secret: bytes) -> None:
        """Keep it for so many seconds."""
        if lifetime <= 0:
            return
        digest = self._digest(secret)
        self._found.pop(digest, None)
        if len(self._found) >= ENTRIES_MAX:
            del self._found[next(iter(self._found))]  # the oldest
        self._found[digest] = (self._seconds() + lifetime, found)

    def clear(self) -> None:
        """Forget everything."""
        self._found.clear()

    def _digest(self, secret: tuple[bytes, ...]) -> bytes:
        digest = hashlib.blake2b(key=self._key, digest_size=32)
        for part in secret:
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()
