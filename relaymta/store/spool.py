"""The spool on a disk: one shard, its journal, its queue files, and what becomes of a message between them.

A small message is durable when its record in the journal is synced (store.journal); its first delivery runs from
memory. What must wait becomes a queue file (store.files), and then the journal says `moved`. A large message is a
queue file from the start. What is final is `done` in the journal, or its file is removed.

After a crash (store.replay mends it at open, store.queuefile and store.files when a file is read):

| state found                                              | meaning                  | who mends it                   |
|----------------------------------------------------------|--------------------------|--------------------------------|
| record torn, bad checksum, older number, not synced yet  | its 250 was never sent   | replay goes on behind it       |
| the same, before the last synced batch                   | the disk lied            | whole records kept, segment to |
|                                                          |                          | corrupt/, operator told        |
| whole record, neither done nor moved                     | accepted, ours           | it is scheduled, and lies where|
|                                                          |                          | it is until it is done or moved|
| whole record, `moved`, no file                           | the file settled, went   | nothing to do                  |
| record without `moved`, and a file with the same id      | crash between the two    | the file wins                  |
| file in tmp/                                             | never acknowledged       | swept when older than a day    |
| file in new/ whose last line is torn                     | crash during an append   | the line is cut off            |
| file in new/ all of whose recipients are final           | crash before unlink      | the queue finishes it          |
| unreadable file                                          | disk, or a hand          | to corrupt/, told              |
| record that was whole at open and cannot be read later   | the disk                 | told; its segment to corrupt/  |
|                                                          |                          | when nothing else is in it     |

A batch that failed and was refused is declared void by the next one, so that it does not come back either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Literal

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from relaymta.store import names
from relaymta.store.clerk import Clerk
from relaymta.store.disk import Disk, RealDisk, explain, sync_folder
from relaymta.store.files import Files
from relaymta.store.hands import Delayed, Hand
from relaymta.store.incoming import Inflow
from relaymta.store.interfaces import Incoming, OpenReport, Schedule, SpoolError, Stored, Ticket
from relaymta.store.journal import Journal, Settled
from relaymta.store.ledger import Bounds, Ledger
from relaymta.store.record import Entry, Kind, settlement
from relaymta.store.replay import Replay, replay, revive, sealed
from relaymta.store.segment import SPARES_MAX, Segments
from relaymta.store.shards import Claim, claim
from relaymta.store.shelf import Shelf

SMALL_MAX = 128 * 1024  # octets of content that go through the journal
SEGMENT_SIZE = 32 * 1024 * 1024
SEGMENTS_MAX = 8  # in use, before the messages of the oldest become files
KEPT = 2  # times as many may be kept from earlier lives; ours: a journal that was full does not delay the start
MEMORY = 64 * 1024 * 1024  # octets of messages in memory, before the oldest become files
FOLDERS = 64  # in new/: ext4 creates files slowly where tens of thousands were just removed

_log = Logger()


class DiskSpool:
    """store.interfaces.Spool on a disk. `path` is the shard's folder.

    `commit` and `files` say who works: "thread" is a thread of its own, "inline" the end of the reactor's turn,
    "auto" the latter until the disk turns out to be slow.
    `seconds` returns POSIX time; `call_later` and `call_from_thread` are the reactor's; `busy` says whether its last
    turn had anything to do. `owned` is a claim that was made before (store.shards), else open() makes it. A shard that
    exists keeps the number of folders it has.
    """

    def __init__(
        self,
        path: str,
        *,
        seconds: Callable[[], float],
        call_later: Callable[..., Delayed],
        call_from_thread: Callable[..., object],
        busy: Callable[[], bool] = lambda: False,
        disk: Disk | None = None,
        owned: Claim | None = None,
        commit: Literal["thread", "inline", "auto"] = "auto",
        files: Literal["thread", "inline"] = "thread",
        small_max: int = SMALL_MAX,
        segment_size: int = SEGMENT_SIZE,
        segments_max: int = SEGMENTS_MAX,
        memory: int = MEMORY,
        folders: int = FOLDERS,
        draw: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.on_corrupt: Callable[[str, str], None] = lambda file, reason: None
        self.on_failure: Callable[[str], None] = lambda reason: None
        self._path = path
        self._seconds = seconds
        self._disk = disk = disk or RealDisk()
        self._claim = owned
        self._small_max = small_max
        self._segments_max = segments_max
        self._folder_count = folders
        self._shelf = Shelf(disk, path, draw(8).hex())
        self._clerk = Clerk(self._shelf, self._broken, call_later, call_from_thread, files == "thread")
        self._files = Files(disk, self._shelf, self._clerk, self._tell_corrupt, self._tell_failure)
        self._pool = Segments(disk, self._shelf.folders.journal, segment_size, draw)
        self._journal = Journal(disk, self._pool, self._report)
        self._hand: Hand[Entry] = Hand(
            "spool journal",
            self._journal.commit,
            self._broken,
            call_later,
            call_from_thread,
            commit == "thread",
            commit == "auto",
            busy,
        )
        self._ledger = Ledger(
            disk,
            self._hand,
            self._pool,
            self._clerk,
            self._files,
            Bounds(segments_max, memory),
            seconds,
            self._tell_failure,
        )
        self._refusing = "the spool is not open"
        self._is_open = False
        self._inflows: dict[str, Inflow] = {}
        self._free = (0.0, 0)

    @property
    def refusing(self) -> str:
        """See Spool.refusing."""
        return self._refusing

    def append(self, queue_id: str, head: bytes, content: bytes, schedule: Schedule) -> Deferred[None]:
        """See Spool.append(). What is too large for the journal becomes a file. Raises ValueError for an id in use."""
        if self._refusing:
            return fail(SpoolError(self._refusing))
        if len(content) <= self._small_max and len(content) + len(head) <= self._journal.largest:
            return self._ledger.append(queue_id, head, content, schedule)
        inflow = self.receive(queue_id, head, schedule)
        inflow.write(content)
        return inflow.commit().addCallback(lambda content: None)

    def receive(self, queue_id: str, head: bytes, schedule: Schedule) -> Incoming:
        """See Spool.receive()."""
        name = names.encode(queue_id, schedule)
        opening = partial(self._files.open, queue_id)
        inflow = Inflow(
            queue_id, name, head, self._disk, self._shelf, self._clerk, opening, self._ended, self._refusing
        )
        self._inflows[queue_id] = inflow
        return inflow

    def note(self, queue_id: str, line: bytes) -> None:
        """See Spool.note(). Raises ValueError for a line with LF in it."""
        self._note(queue_id, line, None)

    def note_durably(self, queue_id: str, line: bytes) -> Deferred[None]:
        """See Spool.note_durably(). Raises ValueError for a line with LF in it."""
        fired: Deferred[None] = Deferred()
        try:
            self._note(queue_id, line, fired)
        except KeyError as error:
            return fail(error)
        return fired

    def finish(self, queue_id: str) -> None:
        """See Spool.finish()."""
        live = self._ledger.find(queue_id)
        if live is None:
            self._files.remove(queue_id)
        else:
            self._ledger.finish(live)

    def park(self, queue_id: str, schedule: Schedule) -> Deferred[None]:
        """See Spool.park()."""
        try:
            live = self._ledger.find(queue_id)
            if live is None:
                return self._files.rename(queue_id, schedule)
        except KeyError as error:
            return fail(error)
        return self._ledger.park(live, schedule)

    def load(self, queue_id: str) -> Stored:
        """See Spool.load()."""
        live = self._ledger.find(queue_id)
        return self._files.load(queue_id) if live is None else self._ledger.load(live)

    def waiting(self) -> Iterator[Ticket]:
        """See Spool.waiting()."""
        ledger, inflows = self._ledger, self._inflows
        return chain(ledger.waiting(), self._files.waiting(lambda one: one in ledger or one in inflows))

    @property
    def empty(self) -> bool:
        """See Spool.empty."""
        return not (len(self._ledger) or len(self._files) or self._inflows or self._files.busy)

    def free(self) -> int:
        """See Spool.free(). Raises OSError."""
        now = self._seconds()
        at, octets = self._free
        if not at <= now < at + 1.0:
            octets = self._disk.free(self._path)
            self._free = (now, octets)
        return octets

    def open(self) -> Deferred[OpenReport]:
        """See Spool.open()."""
        return Deferred.fromCoroutine(self._open())

    def close(self) -> Deferred[None]:
        """See Spool.close(). Messages of the journal stay there, for the next open() to find."""
        if not self._is_open:
            return succeed(None)
        self._is_open = False
        return Deferred.fromCoroutine(self._close())

    def _note(self, queue_id: str, line: bytes, waits: Deferred[None] | None) -> None:
        if b"\n" in line:
            raise ValueError("a line of a story cannot hold LF")
        live = self._ledger.find(queue_id)
        if live is None:
            self._files.note(queue_id, line, waits)
        else:
            self._ledger.note(live, line, waits)

    def _ended(self, inflow: Inflow, placed: bool) -> None:
        self._inflows.pop(inflow.queue_id, None)
        if placed:
            self._files.arrived(inflow.queue_id, inflow.name)

    # Its life

    async def _open(self) -> OpenReport:
        began = self._seconds()
        self._clerk.start()
        found = Replay()
        try:
            await self._clerk.ask(partial(self._begin, found))
        except Exception as error:
            await self._clerk.close()
            self._give_up()
            if isinstance(error, OSError):
                raise SpoolError(f"cannot open {self._path}: {explain(error)}") from error
            raise
        self._hand.start()
        for queue_id in found.moved:
            self._hand.put_lazily(settlement(Kind.MOVED, queue_id.encode()))
        self._is_open = True
        self._refusing = ""
        self._clerk.call(self._pool.prepare, lambda error: None)  # failing that, the journal tries
        self._ledger.relieve()
        return OpenReport(found.replayed, tuple(found.corrupt), self._seconds() - began)

    def _begin(self, found: Replay) -> None:
        # On the clerk's hand. What is settled is used again only when the new segment says so on stable storage.
        if self._claim is None:
            self._claim = claim(self._disk, self._path)
        self._shelf.prepare(self._folder_count)
        self._shelf.sweep(self._seconds())
        replay(self._disk, self._shelf, found, KEPT * self._segments_max)
        free = [old for old in found.free if old not in found.damaged]
        spares = [old.path for old in free if old.size == self._pool.size][:SPARES_MAX]
        self._pool.begin(found.number, spares)
        earlier = [revive(self._disk, old, inside, self._pool.size) for old, inside in found.kept]
        floor, before = (earlier[0].number, sealed(self._disk, found.kept[-1][0])) if earlier else (0, ())
        self._ledger.begin(earlier, self._journal.start(floor, before))
        for old, why in found.damaged.items():
            found.corrupt.append((self._shelf.set_aside(old.path), why))
        if found.damaged:
            sync_folder(self._disk, self._shelf.folders.corrupt)
            sync_folder(self._disk, self._shelf.folders.journal)
        for old in free:
            if old.path not in spares:
                self._shelf.discard(old.path)

    async def _close(self) -> None:
        self._refusing = "the spool is closed"
        for inflow in list(self._inflows.values()):
            if not inflow.committing:
                inflow.abort()
        self._files.flush()
        await self._hand.rest()
        await self._clerk.rest()
        while self._inflows or self._files.busy or self._ledger.busy:
            await self._hand.rest()
            await self._clerk.rest()
        await self._hand.close()
        try:
            await self._clerk.ask(self._journal.close)
        except OSError as error:
            raise SpoolError(f"the last sync failed: {explain(error)}") from error
        finally:
            await self._clerk.close()
            self._give_up()

    def _give_up(self) -> None:
        if self._claim is not None:
            self._claim.release()

    # What the hands tell

    def _report(self, settled: Settled) -> None:
        self._hand.tell(self._settled, settled)  # from the writer's hand

    def _settled(self, settled: Settled) -> None:
        if self._journal.refusing:
            self._refuse(self._journal.refusing)
        self._ledger.settled(settled)

    def _broken(self, failure: Failure) -> None:
        _log.failure("bug in the spool", failure)
        self._refuse(f"a bug in the spool: {failure.getErrorMessage()}")
        self._ledger.refuse_all(self._refusing)

    def _refuse(self, why: str) -> None:
        if not self._refusing:
            self._refusing = why
            self.on_failure(why)

    def _tell_corrupt(self, file: str, reason: str) -> None:
        self.on_corrupt(file, reason)

    def _tell_failure(self, reason: str) -> None:
        self.on_failure(reason)
