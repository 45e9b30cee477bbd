"""The content of a message: header section and body with CRLF line ends, held in memory or on a shelf.

RFC 5321 §2.3.1. Dots are not stuffed here; that is the wire's business (smtp.data).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from attrs import frozen

CHUNK = 64 * 1024  # octets a read; ours: small enough to stay fair, large enough for the disk
HEADER_MAX = 128 * 1024  # octets of header section looked at; ours, above any header seen in the field


class Content(Protocol):
    """What a delivery, a report or a check may ask of a message's content."""

    @property
    def size(self) -> int:
        """Octets, CRLF line ends counted as two, dots unstuffed."""

    @property
    def eightbit(self) -> bool:
        """Whether any octet is above 127 (RFC 6152)."""

    def chunks(self) -> Iterator[bytes]:
        """All octets in order, in pieces of at most CHUNK; may read a file. Raises OSError."""

    def header(self) -> bytes:
        """The header section and its empty line, or the first HEADER_MAX octets where none ends it."""


@frozen(slots=True)
class MemoryContent:
    """Content held in memory."""

    octets: bytes

    @property
    def size(self) -> int:
        return len(self.octets)

    @property
    def eightbit(self) -> bool:
        return not self.octets.isascii()

    def chunks(self) -> Iterator[bytes]:
        if len(self.octets) <= CHUNK:
            yield self.octets
            return
        view = memoryview(self.octets)
        for start in range(0, len(view), CHUNK):
            yield bytes(view[start : start + CHUNK])

    def header(self) -> bytes:
        return header_of(self.octets)


def header_of(octets: bytes) -> bytes:
    """The header section at the start of `octets`, its empty line included; at most HEADER_MAX octets."""
    if octets.startswith(b"\r\n"):
        return octets[:2]
    end = octets.find(b"\r\n\r\n", 0, HEADER_MAX)
    return octets[: end + 4] if end >= 0 else octets[:HEADER_MAX]
