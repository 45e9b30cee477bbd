"""The seam of the spool: what the queue may ask of the shelf that keeps mail, whatever the shelf is made of.

A shelf knows bytes: an encoded envelope (`head`), a content, and lines of a story (`lines`). What they mean belongs
to the queue; how they survive a crash belongs to the shelf behind this seam (store.spool is the one on a disk).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred


class SpoolError(Exception):
    """What was asked is not on stable storage, nothing was acknowledged; the text says why."""


class SpoolLocked(SpoolError):
    """Another process owns the shard."""


class SpoolCorrupt(SpoolError):
    """A stored message cannot be read; it was moved to corrupt/ and told."""


class Content(Protocol):
    """The content of a stored message, in memory or in a file."""

    @property
    def size(self) -> int:
        """Octets."""

    @property
    def eightbit(self) -> bool:
        """Whether any octet is above 127."""

    def chunks(self) -> Iterator[bytes]:
        """All octets in order, in pieces of at most 64 KiB. Raises OSError."""

    def header(self) -> bytes:
        """The header section and its empty line, or the first 128 KiB where none ends it. Raises OSError."""


@frozen(slots=True)
class Schedule:
    """When a waiting message is due, and two hints for whoever schedules it.

    `due` is POSIX time in seconds, never negative. `lane` and `sender` are any str; a shelf may shorten them.
    """

    due: int
    lane: str = ""
    sender: str = ""
    held: bool = False


@frozen(slots=True)
class Ticket:
    """One waiting message as a listing shows it, without opening it."""

    queue_id: str
    schedule: Schedule


@frozen(slots=True)
class Stored:
    """One message as it lies on the shelf; `lines` in the order in which they were noted."""

    queue_id: str
    head: bytes
    content: Content
    lines: tuple[bytes, ...]
    schedule: Schedule


@frozen(slots=True)
class OpenReport:
    """What opening a shard found.

    `replayed`: messages of the journal that became files; `corrupt`: (file, reason) of what could not be read;
    `seconds`: how long it took.
    """

    replayed: int
    corrupt: tuple[tuple[str, str], ...]
    seconds: float


class Incoming(Protocol):
    """A message on its way to the shelf, in pieces. Nothing of it raises: what fails is said by commit()."""

    @property
    def size(self) -> int:
        """Octets of content written so far."""

    def write(self, octets: bytes) -> None:
        """Add a piece of content, of whatever size."""

    def commit(self) -> Deferred[Content]:
        """Put it on stable storage; fires after the sync, or fails with SpoolError and leaves nothing behind."""

    def abort(self) -> None:
        """Leave nothing behind. During a commit: its Deferred fails with SpoolError and the message is undone."""


class Spool(Protocol):
    """One shard with one owner. All calls are made on the reactor's thread, and all Deferreds fire there."""

    on_corrupt: Callable[[str, str], None]
    """Called with (file, reason) when a stored message turns out to be unreadable after open()."""

    on_failure: Callable[[str], None]
    """Called with a reason when a write failed that nobody waits for, or the shard stops taking mail."""

    @property
    def refusing(self) -> str:
        """Why this shard takes no mail, or "" while it does."""

    def open(self) -> Deferred[OpenReport]:
        """Own the shard and mend what a crash left. Fails with SpoolLocked or SpoolError."""

    def waiting(self) -> Iterator[Ticket]:
        """The messages that waited when the shard was opened, listed lazily, each once.

        Those parked since by this owner are passed over, for the owner knows them.
        """

    def append(self, queue_id: str, head: bytes, content: bytes, schedule: Schedule) -> Deferred[None]:
        """Take a small message; fires when it is on stable storage, fails with SpoolError when it is not taken."""

    def receive(self, queue_id: str, head: bytes, schedule: Schedule) -> Incoming:
        """Take a large message in pieces."""

    def note(self, queue_id: str, line: bytes) -> None:
        """Add a line (no LF in it) to the message's story without waiting for a sync. Raises KeyError if unknown."""

    def note_durably(self, queue_id: str, line: bytes) -> Deferred[None]:
        """As note(), and fires when the line is on stable storage; fails with SpoolError or KeyError."""

    def finish(self, queue_id: str) -> None:
        """Every recipient is final: forget the message. Raises KeyError if unknown."""

    def park(self, queue_id: str, schedule: Schedule) -> Deferred[None]:
        """Let the message wait on disk under `schedule`; fires when the shelf holds nothing of it in memory.

        A message that waits there already gets the new schedule. Fails with SpoolError (the message stays where it
        was, as safe as before) or KeyError.
        """

    def load(self, queue_id: str) -> Stored:
        """Read one message. Raises KeyError if unknown, SpoolCorrupt, or SpoolError if it cannot be read now."""

    @property
    def empty(self) -> bool:
        """Whether nothing is here any more; known once waiting() has been listed to its end."""

    def free(self) -> int:
        """Octets that may still be written on the file system, at most a second old."""

    def close(self) -> Deferred[None]:
        """Sync everything and give the shard up."""
