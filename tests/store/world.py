"""A spool on a simulated disk, and beside it what must be true of it: the model that crash tests check against."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from itertools import count
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from relaymta.store.content import MemoryContent
from relaymta.store.interfaces import Incoming, OpenReport, Schedule, SpoolError, Stored
from relaymta.store.spool import DiskSpool
from tests.store.simdisk import SimDisk

SHARD = "/spool/shard-0"
_lives = count(1)
SMALL = {"segment_size": 32 * 1024, "small_max": 6 * 1024, "folders": 2, "segments_max": 3}


@define(slots=True)
class Expected:
    """What is known of one message. `noted` in order; `durable` are those that were acknowledged.

    `settled`: it was finished in the journal, and something that came after that was acknowledged.
    """

    head: bytes
    content: bytes
    acknowledged: bool = False
    refused: bool = False
    finished: bool = False
    settled: bool = False
    parked: bool = False
    noted: list[bytes] = field(factory=list)
    durable: set[bytes] = field(factory=set)


class World:
    """One owner's life on a disk: opens the shard, and keeps the model of what was promised."""

    def __init__(self, disk: SimDisk, model: dict[str, Expected] | None = None, **options: Any) -> None:
        self.disk = disk
        self.clock = Clock()
        self.model: dict[str, Expected] = {} if model is None else model
        self._done: list[Expected] = []  # whose `done` rides with the next message
        self.corrupt: list[tuple[str, str]] = []
        self.failures: list[str] = []
        self.spool = DiskSpool(
            SHARD,
            seconds=lambda: 1_764_000_000.0 + self.clock.seconds(),
            call_later=self.clock.callLater,
            call_from_thread=lambda call, *args: call(*args),
            disk=disk,
            commit="inline",
            files="inline",
            draw=Random(next(_lives)).randbytes,
            **{**SMALL, **options},
        )
        self.spool.on_corrupt = lambda file, reason: self.corrupt.append((file, reason))
        self.spool.on_failure = self.failures.append
        disk.now = 1_764_000_000.0

    def pump(self) -> None:
        """Let the reactor turn until nothing is due."""
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        self.pump()

    def fired(self, deferred: Deferred[Any]) -> Any:
        """The result of a Deferred, which must have come by then; raises what it failed with."""
        self.pump()
        results: list[Any] = []
        deferred.addBoth(results.append)
        assert results, "no answer"
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def open(self) -> OpenReport:
        """Open the shard."""
        report = self.fired(self.spool.open())
        assert isinstance(report, OpenReport)
        return report

    def close(self) -> None:
        """Close it; on a failing disk the last sync may fail."""
        with suppress(SpoolError):
            self.fired(self.spool.close())

    def append(self, queue_id: str, size: int = 1000, due: int = 100, lane: str = "smtp:example.org") -> None:
        """Hand a small message in; the model hears of the answer when it comes."""
        expected = self._expect(queue_id, size)
        answer = self.spool.append(queue_id, expected.head, expected.content, Schedule(due, lane, "news"))
        if size <= SMALL["small_max"]:
            self._hear(answer, expected, self._done)
            self._done = []
        else:
            self._hear(answer, expected)

    def receive(self, queue_id: str, size: int = 20_000, pieces: int = 3) -> Incoming:
        """Stream a large message in, without its commit."""
        expected = self._expect(queue_id, size)
        incoming = self.spool.receive(queue_id, expected.head, Schedule(200, "large"))
        step = -(-size // pieces)
        for start in range(0, size, step):
            incoming.write(expected.content[start : start + step])
        return incoming

    def commit(self, queue_id: str, incoming: Incoming) -> None:
        """Commit it."""
        self._hear(incoming.commit(), self.model[queue_id])

    def note(self, queue_id: str, line: bytes) -> None:
        """Note a line, unless the message was refused."""
        if self.model[queue_id].refused:
            return
        self.model[queue_id].noted.append(line)
        self.spool.note(queue_id, line)

    def note_durably(self, queue_id: str, line: bytes) -> None:
        """Note a line durably; the model hears of the answer."""
        expected = self.model[queue_id]
        if expected.refused:
            return
        expected.noted.append(line)
        self.spool.note_durably(queue_id, line).addCallbacks(
            lambda result: expected.durable.add(line), lambda failure: failure.trap(SpoolError)
        )

    def park(self, queue_id: str, due: int, lane: str = "smtp:example.org") -> None:
        """Park a message; a failure is told and changes nothing."""
        if self.model[queue_id].refused:
            return
        self.model[queue_id].parked = True
        self.spool.park(queue_id, Schedule(due, lane, "news")).addErrback(lambda failure: failure.trap(SpoolError))

    def finish(self, queue_id: str) -> None:
        """Finish a message."""
        if self.model[queue_id].refused:
            return
        expected = self.model[queue_id]
        if not expected.parked and isinstance(self.spool.load(queue_id).content, MemoryContent):
            self._done.append(expected)
        expected.finished = True
        self.spool.finish(queue_id)

    def known(self) -> dict[str, Expected]:
        """A copy of the model as it is now."""
        return deepcopy(self.model)

    def _expect(self, queue_id: str, size: int) -> Expected:
        random = Random(queue_id)
        head = b"envelope of " + queue_id.encode() + random.randbytes(random.randrange(40))
        self.model[queue_id] = expected = Expected(head, random.randbytes(size))
        return expected

    def _hear(self, answer: Deferred[Any], expected: Expected, done: Sequence[Expected] = ()) -> None:
        def accepted(result: Any) -> None:
            expected.acknowledged = True
            for other in done:
                other.settled = True

        def refused(failure: Failure) -> None:
            failure.trap(SpoolError)
            expected.refused = True

        answer.addCallbacks(accepted, refused)


def stored(world: World) -> dict[str, Stored]:
    """Everything that a freshly opened spool has, each message once."""
    found: dict[str, Stored] = {}
    for ticket in world.spool.waiting():
        assert ticket.queue_id not in found, "listed twice"
        found[ticket.queue_id] = world.spool.load(ticket.queue_id)
    return found


def check(world: World, model: dict[str, Expected]) -> dict[str, Stored]:
    """What must hold of a spool that was opened after a crash at which `model` was true."""
    found = stored(world)
    assert world.corrupt == []
    for queue_id, expected in model.items():
        got = found.get(queue_id)
        if got is None:
            assert not expected.acknowledged or expected.finished, f"{queue_id} is lost"
            continue
        assert not expected.refused, f"{queue_id} was refused and came back"
        assert not expected.settled, f"{queue_id} was done and came back"
        assert got.head == expected.head
        assert b"".join(got.content.chunks()) == expected.content
        assert got.content.size == len(expected.content)
        if not expected.finished:
            assert expected.durable <= set(got.lines), f"a note on {queue_id} is lost"
        rest = iter(expected.noted)
        assert all(line in rest for line in got.lines), f"the notes on {queue_id} are not in order"
    assert set(found) <= set(model), "from nowhere"
    new = f"{SHARD}/new"
    files = [name for folder in world.disk.names(new) for name in world.disk.names(f"{new}/{folder}")]
    lying = sum(isinstance(got.content, MemoryContent) for got in found.values())
    assert len(files) == len(found) - lying, "a message has two files"
    return found
