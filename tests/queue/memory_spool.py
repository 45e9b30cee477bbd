"""A shelf in memory: store.interfaces.Spool without a disk, with a stable and a volatile side, so that it can crash.

What is asked changes the volatile side at once and the stable side at the next sync, in the order in which it was
asked, as a journal does. `crash()` gives the shelf as a restart would find it: the stable side, and as much of what
was not yet synced as the caller wants to have survived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime

from relaymta.mail.content import MemoryContent
from relaymta.store.interfaces import (
    Content,
    OpenReport,
    Schedule,
    SpoolCorrupt,
    SpoolError,
    Stored,
    Ticket,
)

SYNC_SECONDS = 0.0


@frozen(slots=True)
class Kept:
    """One message as it lies on the shelf."""

    head: bytes
    content: bytes
    lines: tuple[bytes, ...]
    schedule: Schedule
    is_file: bool = False


Shelf = dict[str, Kept]
Change = Callable[[Shelf], None]


class MemorySpool:
    """store.interfaces.Spool. `refusal` makes what must become durable fail; `corrupt` are ids that cannot be read."""

    def __init__(self, clock: IReactorTime, stable: Shelf | None = None) -> None:
        self.on_corrupt: Callable[[str, str], None] = lambda file, reason: None
        self.on_failure: Callable[[str], None] = lambda reason: None
        self.stable: Shelf = stable if stable is not None else {}
        self.shelf: Shelf = dict(self.stable)
        self.refusal = ""
        self.corrupt: set[str] = set()
        self.octets_free = 1 << 40
        self.loads = 0
        self.closed = False
        self._clock = clock
        self._unsynced: list[tuple[Change, Deferred[None] | None]] = []
        self._found: tuple[str, ...] = ()

    @property
    def refusing(self) -> str:
        """See Spool.refusing."""
        return self.refusal

    def crash(self, surviving: int = 0) -> MemorySpool:
        """The shelf after a power cut, with the first `surviving` changes that were not yet synced."""
        stable = dict(self.stable)
        for change, _ in self._unsynced[:surviving]:
            change(stable)
        self._unsynced.clear()
        self.closed = True
        return MemorySpool(self._clock, stable)

    @property
    def unsynced(self) -> int:
        """How many changes wait for a sync."""
        return len(self._unsynced)

    def sync(self) -> None:
        """Make everything stable that was asked, and say so."""
        if self.closed:
            return
        unsynced, self._unsynced = self._unsynced, []
        for change, _ in unsynced:
            change(self.stable)
        for _, done in unsynced:
            if done is not None:
                done.callback(None)

    def _change(self, change: Change, done: Deferred[None] | None = None) -> None:
        if not self._unsynced:
            self._clock.callLater(SYNC_SECONDS, self.sync)
        change(self.shelf)
        self._unsynced.append((change, done))

    def open(self) -> Deferred[OpenReport]:
        """See Spool.open()."""
        replayed = sum(not kept.is_file for kept in self.stable.values())
        self.stable = {queue_id: evolve(kept, is_file=True) for queue_id, kept in self.stable.items()}
        self.shelf = dict(self.stable)
        self._found = tuple(self.stable)
        return succeed(OpenReport(replayed, (), 0.0))

    def waiting(self) -> Iterator[Ticket]:
        """See Spool.waiting()."""
        for queue_id in self._found:
            kept = self.stable.get(queue_id)
            if kept is not None:
                yield Ticket(queue_id, kept.schedule)

    def append(self, queue_id: str, head: bytes, content: bytes, schedule: Schedule) -> Deferred[None]:
        """See Spool.append()."""
        if self.refusal:
            return fail(SpoolError(self.refusal))
        done: Deferred[None] = Deferred()
        kept = Kept(head, content, (), schedule)
        self._change(lambda shelf: shelf.__setitem__(queue_id, kept), done)
        return done

    def receive(self, queue_id: str, head: bytes, schedule: Schedule) -> MemoryIncoming:
        """See Spool.receive()."""
        return MemoryIncoming(self, queue_id, head, schedule)

    def note(self, queue_id: str, line: bytes) -> None:
        """See Spool.note()."""
        self._note(queue_id, line, None)

    def note_durably(self, queue_id: str, line: bytes) -> Deferred[None]:
        """See Spool.note_durably()."""
        done: Deferred[None] = Deferred()
        self._note(queue_id, line, done)
        return done

    def _note(self, queue_id: str, line: bytes, done: Deferred[None] | None) -> None:
        assert b"\n" not in line
        self.shelf[queue_id]

        def change(shelf: Shelf) -> None:
            shelf[queue_id] = evolve(shelf[queue_id], lines=(*shelf[queue_id].lines, line))

        self._change(change, done)

    def finish(self, queue_id: str) -> None:
        """See Spool.finish()."""
        self.shelf[queue_id]
        self._change(lambda shelf: shelf.__delitem__(queue_id))

    def park(self, queue_id: str, schedule: Schedule) -> Deferred[None]:
        """See Spool.park()."""
        if self.refusal:
            return fail(SpoolError(self.refusal))
        if queue_id not in self.shelf:
            return fail(KeyError(queue_id))
        done: Deferred[None] = Deferred()

        def change(shelf: Shelf) -> None:
            if queue_id in shelf:
                shelf[queue_id] = evolve(shelf[queue_id], schedule=schedule, is_file=True)

        self._change(change, done)
        return done

    def load(self, queue_id: str) -> Stored:
        """See Spool.load()."""
        self.loads += 1
        kept = self.shelf[queue_id]
        if queue_id in self.corrupt:
            self._change(lambda shelf: shelf.__delitem__(queue_id))
            self.on_corrupt(queue_id, "checksum")
            raise SpoolCorrupt(f"{queue_id}: checksum")
        return Stored(queue_id, kept.head, MemoryContent(kept.content), kept.lines, kept.schedule)

    @property
    def empty(self) -> bool:
        """See Spool.empty."""
        return not self.stable

    def free(self) -> int:
        """See Spool.free()."""
        return self.octets_free

    def close(self) -> Deferred[None]:
        """See Spool.close()."""
        self.sync()
        self.closed = True
        return succeed(None)


class MemoryIncoming:
    """store.interfaces.Incoming."""

    def __init__(self, spool: MemorySpool, queue_id: str, head: bytes, schedule: Schedule) -> None:
        self._spool = spool
        self._queue_id = queue_id
        self._head = head
        self._schedule = schedule
        self._parts: list[bytes] = []

    @property
    def size(self) -> int:
        """Octets written so far."""
        return sum(map(len, self._parts))

    def write(self, octets: bytes) -> None:
        """See Incoming.write()."""
        self._parts.append(octets)

    def commit(self) -> Deferred[Content]:
        """See Incoming.commit()."""
        octets = b"".join(self._parts)
        stored = self._spool.append(self._queue_id, self._head, octets, self._schedule)
        return stored.addCallback(lambda _: MemoryContent(octets))

    def abort(self) -> None:
        """See Incoming.abort()."""
        self._parts.clear()
