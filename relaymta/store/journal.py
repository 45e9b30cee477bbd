"""The journal's writer: everything that waits in one pwritev, one fdatasync, and then all of it is acknowledged.

It runs on one hand (store.hands): a thread, or the end of the reactor's turn. It never waits for a timer: a batch is
what arrived while the last one was being synced. A batch without anything that someone waits for is written and not
synced; the next sync covers it.

What fails:

| call                        | what follows                                                                     |
|-----------------------------|----------------------------------------------------------------------------------|
| a new segment cannot be had | messages of this turn are refused, the next turn tries again                     |
| write or sync of a batch    | the segment is poisoned and never synced again, no message of the batch is       |
|                             | acknowledged; a new segment is tried once: its batches declare the failed one    |
|                             | void, and the first carries its lines and settlements                            |
| the same in the new segment | the journal refuses everything from then on and says why                         |
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import suppress

from attrs import frozen

from relaymta.store.disk import IOV_MAX, Disk, explain
from relaymta.store.record import BATCH_HEADER, BLOCK, BUFFERS, ENDS_MAX, Entry, Kind, Standing, aligned, frame
from relaymta.store.segment import Segment, Segments

BATCH_RECORDS = (IOV_MAX - 1) // BUFFERS  # so that one pwritev takes them
BATCH_OCTETS = 4 * 1024 * 1024  # ours: what a slow disk syncs within a second


@frozen(slots=True)
class Settled:
    """What became of some entries: they are in `segment`, or not, and `failure` says why."""

    segment: Segment | None
    entries: Sequence[Entry]
    failure: str = ""


class Journal:
    """Writes entries into segments. All but `refusing` and `largest` belong to the writer's hand.

    `settled` is called with what became of each batch.
    """

    def __init__(self, disk: Disk, segments: Segments, settled: Callable[[Settled], None]) -> None:
        self.refusing = ""
        self._disk = disk
        self._segments = segments
        self._settled = settled
        self._current: Segment | None = None
        self._before: tuple[tuple[int, int], ...] = ()  # the last segment, and where it ended
        self._voids: tuple[tuple[int, int], ...] = ()  # the same of those in which a batch failed
        self._kept: list[Entry] = []  # what nobody waits for, until there is room
        self._unsynced: list[Entry] = []  # the same, written since the last sync

    @property
    def largest(self) -> int:
        """Octets of the largest record that a batch can hold."""
        return min(BATCH_OCTETS, self._segments.size) - BATCH_HEADER - BLOCK

    def start(self, floor: int = 0, before: tuple[tuple[int, int], ...] = ()) -> Segment:
        """Begin a new segment, on stable storage, and declare those before number `floor` (0: its own) settled.

        `before`: number and end of the segment before it, where that is synced. Raises OSError.
        """
        self._before = before
        segment = self._segments.take()
        self._segments.floor = floor or segment.number
        try:
            self._write(segment, [], sync=True)
        except OSError:
            self._shut(segment)
            raise
        self._current = segment
        return segment

    def commit(self, entries: Sequence[Entry]) -> None:
        """Write entries, and sync when somebody waits for one of them."""
        rest: Sequence[Entry] = [*self._kept, *entries] if self._kept else entries
        self._kept = []
        while rest:
            if self.refusing:
                self._settled(Settled(None, rest, self.refusing))
                return
            try:
                segment, carried = self._room(rest[0][6])
            except OSError as error:
                self._turn_away(rest, f"no journal segment to be had: {explain(error)}")
                return
            if carried:
                rest = [*carried, *rest]
            count = self._fitting(segment, rest)
            self._commit_batch(segment, rest[:count])
            rest = rest[count:]

    def close(self) -> None:
        """Sync what was written. Raises OSError."""
        segment, self._current = self._current, None
        self.refusing = self.refusing or "the spool is closed"
        if segment is None:
            return
        try:
            if segment.synced < segment.position and not segment.poisoned:
                self._disk.fdatasync(segment.fd)
        finally:
            self._shut(segment)

    def _shut(self, segment: Segment) -> None:
        with suppress(OSError):  # a close cannot undo a sync, nor mend a failed one
            self._disk.close(segment.fd)

    def _room(self, octets: int) -> tuple[Segment, list[Entry]]:
        # The segment for a record of that many octets: the current one, or else the next, and what it has to carry.
        current = self._current
        if current is None:
            raise OSError(errno.EBADF, "the journal is not open")
        if current.position + BATCH_HEADER + octets <= self._segments.size:
            return current, []
        self._current = self._segments.take()
        return self._current, self._leave(current)

    def _leave(self, segment: Segment) -> list[Entry]:
        # What nobody waited for may still be unsynced; what cannot be synced is void, and carried on.
        try:
            if self._unsynced:
                self._disk.fdatasync(segment.fd)
                segment.synced = segment.position
        except OSError:
            self._void(segment)
        else:
            self._before = ((segment.number, segment.position),)
        carried = self._unsynced if segment.poisoned else []
        self._unsynced = []
        self._shut(segment)
        return carried

    def _void(self, segment: Segment) -> None:
        # What was not synced in it is void, and every batch from now on says so.
        segment.poisoned = True
        self._before = ()
        self._voids = (*self._voids, (segment.number, segment.synced))

    def _fitting(self, segment: Segment, entries: Sequence[Entry]) -> int:
        room = min(BATCH_OCTETS, self._segments.size - segment.position) - BATCH_HEADER
        count = 0
        for record in entries[:BATCH_RECORDS]:
            room -= record[6]
            if room < 0:
                break
            count += 1
        return max(count, 1)

    def _commit_batch(self, segment: Segment, batch: Sequence[Entry]) -> None:
        crowd = len(self._unsynced) + len(batch) > BATCH_RECORDS
        try:
            self._write(segment, batch, crowd or any(record[5] is not None for record in batch))
        except OSError as error:
            self._poison(segment, batch, explain(error))
        else:
            self._settled(Settled(segment, batch))

    def _write(self, segment: Segment, batch: Sequence[Entry], sync: bool) -> None:
        start = segment.position
        standing = Standing(segment.synced, self._segments.floor, self._before + self._voids)
        buffers, total = frame(segment.mark, segment.number, start, standing, batch)
        if self._disk.pwritev(segment.fd, buffers, start) != total:
            raise OSError(errno.EIO, "short write")
        if sync:
            self._disk.fdatasync(segment.fd)
        segment.position = aligned(start + total)
        if sync:
            segment.synced = segment.position
            self._unsynced = []
        else:
            self._unsynced.extend(batch)

    def _poison(self, segment: Segment, batch: Sequence[Entry], why: str) -> None:
        self._void(segment)
        refused = [record for record in batch if record[0] is Kind.MESSAGE]
        carried = [*self._unsynced, *(record for record in batch if record[0] is not Kind.MESSAGE)]
        self._unsynced = []
        self._shut(segment)
        try:
            if len(self._voids) >= ENDS_MAX:
                raise OSError(errno.EIO, "too many segments have failed")
            following = self._segments.take()
            self._carry(following, carried)
        except OSError as error:
            self.refusing = f"the journal failed ({why}), and again in a new segment ({explain(error)})"
            self._current = None
            self._settled(Settled(None, batch, self.refusing))
            return
        self._current = following
        if refused:
            self._settled(Settled(None, refused, f"the journal failed ({why})"))
        self._settled(Settled(following, carried))

    def _carry(self, segment: Segment, records: Sequence[Entry]) -> None:
        rest = records
        while len(rest) > BATCH_RECORDS:
            self._write(segment, rest[:BATCH_RECORDS], sync=False)
            rest = rest[BATCH_RECORDS:]
        self._write(segment, rest, sync=True)

    def _turn_away(self, entries: Sequence[Entry], why: str) -> None:
        self._kept = [record for record in entries if record[5] is None]
        self._settled(Settled(None, [record for record in entries if record[5] is not None], why))
