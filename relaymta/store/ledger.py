"""The messages that the journal alone holds: what the reactor's thread knows of them, and how they leave.

Each is in memory (one of an earlier life only lies in its segment) until it is `done`, or until it has become a file
and is `moved`. A segment of the journal is free
when none of its messages is here any more and it is the oldest. When too many segments are in use, or too much memory,
the oldest messages become files, whether or not the owner asks for it; nothing changes for the owner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relaymta.store import names
from relaymta.store.clerk import Clerk
from relaymta.store.content import MemoryContent
from relaymta.store.disk import Disk, explain
from relaymta.store.files import Files
from relaymta.store.hands import Hand
from relaymta.store.interfaces import Schedule, SpoolCorrupt, SpoolError, Stored, Ticket
from relaymta.store.journal import Settled
from relaymta.store.lying import Lying, RecordLost
from relaymta.store.record import Entry, Kind, entry, settlement
from relaymta.store.segment import Segment, Segments
from relaymta.store.shelf import Parking

_PAUSE = 5.0  # seconds before trying again to make files when that has failed
_LATER = 0.5  # seconds before looking again when all that could be made files is on its way

Late = tuple[bytes, Deferred[None] | None]


@frozen(slots=True)
class Bounds:
    """How many segments may be in use, and how many octets of messages in memory, before the oldest become files."""

    segments: int
    memory: int


@define(slots=True, eq=False)
class Live:
    """A message whose record is in the journal, or on its way there, and nowhere else.

    `late` are lines noted while its file was being written, which go there afterwards. `lying` is where head and
    content of a message of an earlier life are, which is not in memory; `loaded`: the owner has had it since;
    `stuck`: it cannot be read there any more.
    """

    queue_id: str
    head: bytes
    content: bytes
    schedule: Schedule
    accepted: Deferred[None] | None
    segment: Segment | None = None
    lying: Lying | None = None
    lines: tuple[bytes, ...] = ()
    late: tuple[Late, ...] = ()
    parked: tuple[Deferred[None], ...] = ()
    parking: bool = False
    finished: bool = False
    loaded: bool = False
    stuck: bool = False

    @property
    def octets(self) -> int:
        """What it takes in memory, about."""
        return len(self.head) + len(self.content)


class Ledger:
    """Messages by queue id, and segments in use by age. `failed(reason)` hears when files cannot be made."""

    def __init__(
        self,
        disk: Disk,
        hand: Hand[Entry],
        pool: Segments,
        clerk: Clerk,
        files: Files,
        bounds: Bounds,
        seconds: Callable[[], float],
        failed: Callable[[str], None],
    ) -> None:
        self._disk = disk
        self._hand = hand
        self._pool = pool
        self._clerk = clerk
        self._files = files
        self._bounds = bounds
        self._seconds = seconds
        self._failed = failed
        self._live: dict[str, Live] = {}
        self._segments: deque[Segment] = deque()  # in use, oldest first
        self._octets = 0
        self._relieving = 0
        self._relief_at = 0.0
        self._unlisted: dict[str, Schedule] = {}  # of an earlier life, and not told to the owner yet

    def begin(self, earlier: Sequence[Segment], segment: Segment) -> None:
        """Segments of an earlier life that still matter, oldest first, with their messages; and the first new one."""
        self._segments.extend((*earlier, segment))
        for old in earlier:
            for live in old.live.values():
                self._live[live.queue_id] = live
                self._unlisted[live.queue_id] = live.schedule

    def waiting(self) -> Iterator[Ticket]:
        """The messages of an earlier life, lazily, each once."""
        while self._unlisted:
            queue_id = next(iter(self._unlisted))
            yield Ticket(queue_id, self._unlisted.pop(queue_id))

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, queue_id: str) -> bool:
        return queue_id in self._live

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer, or files are being made of messages."""
        return any(live.parking or live.accepted is not None for live in self._live.values())

    def append(self, queue_id: str, head: bytes, content: bytes, schedule: Schedule) -> Deferred[None]:
        """Put a message into the journal. Raises ValueError for an id that is here."""
        if queue_id in self._live:
            raise ValueError(f"{queue_id} is in the spool")
        accepted: Deferred[None] = Deferred()
        self._live[queue_id] = live = Live(queue_id, head, content, schedule, accepted)
        self._octets += len(head) + len(content)
        name = names.encode(queue_id, schedule).encode()
        self._hand.put(entry(Kind.MESSAGE, name, head, content, live))
        return accepted

    def find(self, queue_id: str) -> Live | None:
        """The message, or None when the journal has none of that id. Raises KeyError for one that is finished."""
        live = self._live.get(queue_id)
        if live is not None and live.finished:
            raise KeyError(queue_id)
        return live

    def note(self, live: Live, line: bytes, waits: Deferred[None] | None) -> None:
        """Add a line to a message's story; `waits` fires when it is synced."""
        live.lines = (*live.lines, line)
        if live.parking:
            live.late = (*live.late, (line, waits))
        else:
            self._write(live, line, waits)

    def finish(self, live: Live) -> None:
        """Every recipient of a message is final."""
        live.finished = True
        self._unlisted.pop(live.queue_id, None)
        if not live.parking:  # else its file is removed once it is there
            self._forget(live, Kind.DONE)

    def park(self, live: Live, schedule: Schedule) -> Deferred[None]:
        """Make a file of a message. The Deferred fails with SpoolError."""
        live.schedule = schedule
        self._unlisted.pop(live.queue_id, None)
        return self._park(live)

    def load(self, live: Live) -> Stored:
        """A message as the journal has it. Raises SpoolCorrupt, or SpoolError if it cannot be read now."""
        try:
            head, content = (live.head, live.content) if live.lying is None else live.lying.read(self._disk)
            live.loaded = True
        except OSError as error:
            why = f"{live.queue_id} in the journal: {explain(error)}"
            if not isinstance(error, RecordLost) or live.parking:  # whoever makes the file of it may be luckier
                raise SpoolError(why) from error
            self._lose(live, explain(error))
            raise SpoolCorrupt(why) from error
        return Stored(live.queue_id, head, MemoryContent(content), live.lines, live.schedule)

    def refuse_all(self, why: str) -> None:
        """Tell everyone who still waits for an answer that there will be none."""
        for live in [live for live in self._live.values() if live.accepted is not None]:
            self._turn_away(live, why)

    def _lose(self, live: Live, why: str) -> None:
        # It cannot be read any more. The journal is not told: should the next open() read it, it is there again.
        segment = live.segment
        assert segment is not None
        segment.lost = True
        del self._live[live.queue_id]
        del segment.live[live.queue_id]
        self._unlisted.pop(live.queue_id, None)
        self._files.tell_lost(segment.path, f"the message {live.queue_id} in it is lost: {why}")
        if not segment.live:
            self._release()

    def _write(self, live: Live, line: bytes, waits: Deferred[None] | None) -> None:
        record = entry(Kind.LINE, live.queue_id.encode(), b"", line, waits)
        if waits is None:
            self._hand.put_lazily(record)
        else:
            self._hand.put(record)

    def _forget(self, live: Live, kind: Kind) -> None:
        # Settled: the journal says so with what it writes next.
        del self._live[live.queue_id]
        self._octets -= live.octets
        self._hand.put_lazily(settlement(kind, live.queue_id.encode()))
        segment = live.segment
        if segment is not None:
            del segment.live[live.queue_id]
            if not segment.live:
                self._release()
        for fired in live.parked:
            fired.callback(None)

    # From the journal to a file

    def _park(self, live: Live) -> Deferred[None]:
        fired: Deferred[None] = Deferred()
        live.parked = (*live.parked, fired)
        if live.segment is not None and not live.parking:
            self._place(live)
        return fired

    def _place(self, live: Live) -> None:
        live.parking = True
        name = names.encode(live.queue_id, live.schedule)
        parking = Parking(live.queue_id, name, live.head, live.content, live.lines, live.lying)
        self._clerk.place(parking, partial(self._placed, live, name))

    def _placed(self, live: Live, name: str, error: OSError | None) -> None:
        live.parking = False
        late, live.late = live.late, ()
        if error is not None:
            self._unplaced(live, late, error)
            return
        parked, live.parked = live.parked, ()
        queue_id = live.queue_id
        self._files.arrived(queue_id, name)
        self._forget(live, Kind.MOVED)
        for line, waits in late:
            self._files.note(queue_id, line, waits)
        if live.finished:
            self._files.remove(queue_id)
        elif name != names.encode(queue_id, live.schedule):
            self._files.rename(queue_id, live.schedule).addBoth(partial(_fire, parked))
            return
        _fire(parked, None)

    def _unplaced(self, live: Live, late: tuple[Late, ...], error: OSError) -> None:
        # It stays in the journal, as safe as before.
        for line, waits in late:
            self._write(live, line, waits)
        parked, live.parked = live.parked, ()
        if live.finished:
            self._forget(live, Kind.DONE)
        elif isinstance(error, RecordLost) and live.loaded:
            live.stuck = True  # its owner may have it in memory, and will say what becomes of it
        elif isinstance(error, RecordLost):
            self._lose(live, explain(error))
        for fired in parked:
            fired.errback(SpoolError(f"could not make a file of {live.queue_id}: {explain(error)}"))

    # Segments

    def settled(self, settled: Settled) -> None:
        """What became of a batch, as the journal tells it."""
        segment = settled.segment
        if segment is None:
            self._refused(settled)
            return
        begun = segment is not self._segments[-1]
        if begun:
            self._segments.append(segment)
        for record in settled.entries:
            owner = record[5]
            if owner is None:
                continue
            if record[0] is not Kind.MESSAGE:
                owner.callback(None)
                continue
            if not owner.finished:
                owner.segment = segment
                segment.live[owner.queue_id] = owner
                if owner.parked:
                    self._place(owner)
            accepted, owner.accepted = owner.accepted, None
            if accepted is not None:
                accepted.callback(None)
        if begun:
            self._release()
            if not self._pool.spares:
                self._clerk.call(self._pool.prepare, lambda error: None)  # failing that, the journal tries
        if begun or self._octets > self._bounds.memory:
            self.relieve()

    def _refused(self, settled: Settled) -> None:
        for record in settled.entries:
            owner = record[5]
            if owner is None:
                continue
            if record[0] is Kind.MESSAGE:
                self._turn_away(owner, settled.failure)
            else:
                owner.errback(SpoolError(settled.failure))

    def _turn_away(self, live: Live, why: str) -> None:
        if self._live.pop(live.queue_id, None) is not None:
            self._octets -= live.octets
        waiting = (*live.parked, *(() if live.accepted is None else (live.accepted,)))
        live.accepted, live.parked = None, ()
        for fired in waiting:
            fired.errback(SpoolError(why))

    def _release(self) -> None:
        # Only the oldest are given away: what settles the messages of a segment never lies before it.
        while len(self._segments) > 1 and not self._segments[0].live:
            segment = self._segments.popleft()
            if segment.lost:
                self._files.set_aside(segment.path, "what is not whole in it is lost, all else is elsewhere")
            self._pool.floor = self._segments[0].number
            useless = self._pool.give(segment)
            if useless:
                self._clerk.call(partial(self._disk.unlink, useless), lambda error: None)  # else at the next open

    def relieve(self) -> None:
        """Make files of the oldest messages where the journal or the memory is full of what waits."""
        crowd = len(self._segments) - self._bounds.segments
        excess = self._octets - self._bounds.memory * 3 // 4 if self._octets > self._bounds.memory else 0
        if crowd <= 0 and excess <= 0:
            return
        if self._relieving or self._seconds() < self._relief_at:
            return
        chosen = []
        for number, segment in enumerate(self._segments):
            for live in segment.live.values():
                if number >= crowd and excess <= 0:
                    break
                excess -= live.octets
                if not (live.parking or live.stuck):
                    chosen.append(live)
        if not chosen:
            self._relief_at = self._seconds() + _LATER
        self._relieving = len(chosen)
        for live in chosen:
            self._park(live).addCallbacks(self._relieved, self._unrelieved)

    def _relieved(self, done: None) -> None:
        self._relieving -= 1
        if not self._relieving:
            self.relieve()

    def _unrelieved(self, failure: Failure) -> None:
        self._relieving -= 1
        if self._seconds() >= self._relief_at:
            self._relief_at = self._seconds() + _PAUSE
            self._failed(failure.getErrorMessage())


def _fire(waiting: tuple[Deferred[None], ...], result: None | Failure) -> None:
    for fired in waiting:
        if isinstance(result, Failure):
            fired.errback(result)
        else:
            fired.callback(None)
