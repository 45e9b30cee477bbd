"""Several shards as one spool: the one that takes new mail, and those whose owner is gone.

A worker that ended for good, of an earlier generation or of a larger crew, leaves a shard with mail that waits. A
living worker adopts it: messages stay where they are, and are found by the shard that their id names. New mail goes
to our own shard alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from relaymta.store.interfaces import Incoming, OpenReport, Schedule, Spool, SpoolError, Stored, Ticket


class Fleet:
    """store.interfaces.Spool over `own` and what adopt() adds. `shard_of` reads the number of a shard from an id."""

    def __init__(self, number: int, own: Spool, shard_of: Callable[[str], int]) -> None:
        self._own = own
        self._shard_of = shard_of
        self._spools: dict[int, Spool] = {number: own}
        self.on_corrupt: Callable[[str, str], None] = lambda file, reason: None
        self.on_failure: Callable[[str], None] = lambda reason: None
        self._listen_to(own)

    def _listen_to(self, spool: Spool) -> None:
        spool.on_corrupt = lambda file, reason: self.on_corrupt(file, reason)
        spool.on_failure = lambda reason: self.on_failure(reason)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The shards that are ours now."""
        return tuple(self._spools)

    def adopt(self, number: int, spool: Spool) -> Deferred[tuple[OpenReport, Iterator[Ticket]]]:
        """Own one more shard; fires with what was found in it and what waits there. Fails with SpoolError."""

        def opened(report: OpenReport) -> tuple[OpenReport, Iterator[Ticket]]:
            self._spools[number] = spool
            return report, spool.waiting()

        self._listen_to(spool)
        return spool.open().addCallback(opened)

    @property
    def empty(self) -> bool:
        """See Spool.empty: of all shards."""
        return all(spool.empty for spool in self._spools.values())

    def release(self) -> Deferred[list[int]]:
        """Give up adopted shards in which nothing is left, once all were listed; fires with their numbers."""
        empty = [number for number, spool in self._spools.items() if spool is not self._own and spool.empty]
        closed = gatherResults([self._spools.pop(number).close().addErrback(self._not_synced) for number in empty])
        return closed.addCallback(lambda _: empty)

    def _not_synced(self, failure: Failure) -> None:
        """An empty shard is given up whatever its last sync says: at worst something is delivered twice."""
        failure.trap(SpoolError)
        self.on_failure(failure.getErrorMessage())

    def _with(self, queue_id: str) -> Spool:
        return self._spools.get(self._shard_of(queue_id), self._own)

    # What is asked of our own shard

    @property
    def refusing(self) -> str:
        """See Spool.refusing."""
        return self._own.refusing

    def open(self) -> Deferred[OpenReport]:
        """See Spool.open()."""
        return self._own.open()

    def waiting(self) -> Iterator[Ticket]:
        """See Spool.waiting(): of our own shard; adopt() gives the others'."""
        return self._own.waiting()

    def append(self, queue_id: str, head: bytes, content: bytes, schedule: Schedule) -> Deferred[None]:
        """See Spool.append()."""
        return self._own.append(queue_id, head, content, schedule)

    def receive(self, queue_id: str, head: bytes, schedule: Schedule) -> Incoming:
        """See Spool.receive()."""
        return self._own.receive(queue_id, head, schedule)

    def free(self) -> int:
        """See Spool.free()."""
        return self._own.free()

    # What is asked of the shard that has the message

    def note(self, queue_id: str, line: bytes) -> None:
        """See Spool.note()."""
        self._with(queue_id).note(queue_id, line)

    def note_durably(self, queue_id: str, line: bytes) -> Deferred[None]:
        """See Spool.note_durably()."""
        return self._with(queue_id).note_durably(queue_id, line)

    def finish(self, queue_id: str) -> None:
        """See Spool.finish()."""
        self._with(queue_id).finish(queue_id)

    def park(self, queue_id: str, schedule: Schedule) -> Deferred[None]:
        """See Spool.park()."""
        return self._with(queue_id).park(queue_id, schedule)

    def load(self, queue_id: str) -> Stored:
        """See Spool.load()."""
        return self._with(queue_id).load(queue_id)

    def close(self) -> Deferred[None]:
        """Give up every shard."""
        closed = gatherResults([spool.close() for spool in self._spools.values()], consumeErrors=True)
        return closed.addCallback(lambda _: None)
