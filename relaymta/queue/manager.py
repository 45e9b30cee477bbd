"""The manager: every message of one shard, from the moment it is durable to the moment its last recipient is final.

It alone speaks to the spool. A message is in exactly one place, and moves on only in these ways:

| place | what is there | leaves it by |
|---|---|---|
| live | a Message: first or next attempt is near or under way, or it is on its way to disk | settle() |
| timeline | a ticket: WAITING, READY or HELD (see queue.timeline) | claim(), or the desk |

Nothing on disk says who claimed a message, so that a claim ends with its owner: after a crash the journal and the
files say what is ours. Messages that could not be put on disk stay in memory behind their ticket (`stranded`).
When to attempt what, and what the sender is told, is left to the scheduler; the operator's wishes to queue.desk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from math import ceil

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from relaymta.mail.content import Content, MemoryContent
from relaymta.mail.envelope import Envelope
from relaymta.mail.outcome import Fate, Outcome
from relaymta.mail.queueid import IdMaker
from relaymta.queue.backoff import expires_at, next_attempt, warns_at
from relaymta.queue.ledger import Ledger, Stats
from relaymta.queue.message import OVERHEAD, Message, fairness_key
from relaymta.queue.settings import Settings
from relaymta.queue.story import (
    Attempted,
    Entry,
    Held,
    Progress,
    StoryError,
    Warned,
    decode_entry,
    decode_envelope,
    encode_entry,
    encode_envelope,
    fold,
)
from relaymta.queue.timeline import State, Timeline
from relaymta.store.interfaces import Incoming as Shelving
from relaymta.store.interfaces import OpenReport, Schedule, Spool, SpoolCorrupt, SpoolError, Ticket

READ_AGAIN = 60  # seconds until a file that cannot be read just now is tried again; ours
POLICY = "policy"  # who put a message on hold that came in so
_ONE = Progress((0,))  # where a new message of one recipient stands; shared, for it is never changed


class Incoming:
    """A large message on its way in: content goes to disk as it comes."""

    __slots__ = ("_accepted", "_shelving", "abort", "write")

    def __init__(self, shelving: Shelving, accepted: Callable[[Content], Content]) -> None:
        self._shelving = shelving
        self._accepted = accepted
        self.write = shelving.write
        self.abort = shelving.abort

    @property
    def size(self) -> int:
        """Octets written so far."""
        return self._shelving.size

    def commit(self) -> Deferred[Content]:
        """Fires with the content when the message is durable and ours; fails with SpoolError."""
        return self._shelving.commit().addCallback(self._accepted)


class Manager:
    """All messages of one shard. `clock.seconds()` is POSIX time; `random` returns a float from 0.0 to 1.0.

    The scheduler hears through `on_ready` (attempt this now), `on_waiting` (something is due at this time) and
    `on_changed` (a live message was put on hold or lost recipients); the operator through `on_full` (octets free),
    `on_trouble` (a write failed) and `on_unreadable` (queue id, reason: kept, and not attempted).
    """

    def __init__(
        self,
        spool: Spool,
        clock: IReactorTime,
        settings: Settings,
        ids: IdMaker,
        random: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.timeline = Timeline()
        self.ledger = Ledger()
        self.memory = 0
        self.live: dict[str, Message] = {}
        self._next_id = ids.next
        self.on_ready: Callable[[Message], None] = _ignore
        self.on_waiting: Callable[[int], None] = _ignore
        self.on_changed: Callable[[Message], None] = _ignore
        self.on_full: Callable[[int], None] = _ignore
        self.on_trouble: Callable[[str], None] = _ignore
        self.on_unreadable: Callable[[str, str], None] = _ignore
        self.spool = spool
        self._clock = clock
        self.seconds = clock.seconds
        self._random = random
        self._listing: Iterator[Ticket] = iter(())
        self.listed = False  # whether all that waited on disk is taken over
        self._fresh: list[Message] = []
        self._full = False
        self.parking: set[str] = set()
        self.stranded: dict[str, Message] = {}
        self.apart: set[str] = set()
        spool.on_corrupt = lambda file, reason: self.on_unreadable(file, reason)
        spool.on_failure = lambda reason: self.on_trouble(reason)

    # Opening and closing

    def open(self) -> Deferred[OpenReport]:
        """Own the shard. What waits in it is taken over by adopt(). Fails with SpoolError."""
        return self.spool.open().addCallback(self._opened)

    def _opened(self, report: OpenReport) -> OpenReport:
        self._listing = self.spool.waiting()
        return report

    def take_over(self, tickets: Iterator[Ticket]) -> None:
        """Count in the messages of one more shard; adopt() then takes them over."""
        self.listed = False
        self._listing = chain(self._listing, tickets)

    def adopt(self, limit: int) -> bool:
        """Take over up to `limit` of the messages found on disk; False when all are."""
        timeline = self.timeline
        for _ in range(limit):
            ticket = next(self._listing, None)
            if ticket is None:
                self.listed = True
                return False
            queue_id, schedule = ticket.queue_id, ticket.schedule
            if queue_id in timeline or queue_id in self.live:
                continue
            put = timeline.hold if schedule.held else timeline.add
            put(queue_id, schedule.due, schedule.lane, schedule.sender)
            self.ledger.adopted += 1
        return True

    def close(self) -> Deferred[None]:
        """Give the shard up; what is live is on stable storage and will be found there."""
        return self.spool.close()

    # The way in

    def new_id(self) -> str:
        """A queue id that no message here has, also when the clock was set back before a restart."""
        while True:
            queue_id = self._next_id()
            if queue_id not in self.live and queue_id not in self.timeline:
                return queue_id

    def refusal(self) -> str:
        """Why no mail can be taken now, or ""."""
        refusing = self.spool.refusing
        if refusing:
            return refusing
        try:
            free = self.spool.free()
        except OSError as error:
            return f"free space is not known: {error}"
        full, self._full = self._full, free < self.settings.min_free
        if self._full:
            if not full:
                self.on_full(free)
            return f"{free} octets free, {self.settings.min_free} must stay free"
        return ""

    def accept(self, queue_id: str, envelope: Envelope, octets: bytes, hold: str = "") -> Deferred[None]:
        """Take a small message; fires when it is durable and ours, fails with SpoolError when it is not taken.

        With `hold`, the reason of it, it waits for the operator; else it waits until its time of release, if it has
        one. Either is as durable as the message itself, the reason a moment later.
        """
        key = fairness_key(envelope)
        message = Message(
            queue_id,
            envelope,
            MemoryContent(octets),
            _ONE if len(envelope.recipients) == 1 else Progress(tuple(range(len(envelope.recipients)))),
            key,
            len(octets) + OVERHEAD,
        )
        schedule = Schedule(_due(envelope), "", key, hold != "")
        try:
            durable = self.spool.append(queue_id, encode_envelope(envelope), octets, schedule)
        except ValueError as error:  # an id in use: only a clock that was set back can make one twice
            return fail(SpoolError(str(error)))
        durable.addCallback(self._accepted, message, hold)
        return durable

    def receive(self, queue_id: str, envelope: Envelope, hold: str = "") -> Incoming:
        """Take a large message in pieces; `hold` as in accept()."""
        key = fairness_key(envelope)
        schedule = Schedule(_due(envelope), "", key, hold != "")

        def accepted(content: Content) -> Content:
            pending = tuple(range(len(envelope.recipients)))
            self._accepted(None, Message(queue_id, envelope, content, Progress(pending), key, OVERHEAD), hold)
            return content

        return Incoming(self.spool.receive(queue_id, encode_envelope(envelope), schedule), accepted)

    def _accepted(self, _: object, message: Message, hold: str) -> None:
        self.live[message.queue_id] = message
        self.memory += message.weight
        self.ledger.accepted += 1
        self.ledger.recipients += len(message.envelope.recipients)
        if hold or message.envelope.release_at > self.seconds():
            self._put_by(message, hold)
            return
        # The 250s of this batch go out first, and one timer serves them all.
        if not self._fresh:
            self._clock.callLater(0, self._flush)
        self._fresh.append(message)

    def _put_by(self, message: Message, hold: str) -> None:
        """A new message is not to be attempted yet."""
        if hold:
            entry = Held(self.seconds(), POLICY, hold)
            message.progress = message.progress.after(entry)
            self.note(message.queue_id, entry)
        message.due = _due(message.envelope)
        self._park(message, message.due, "")

    def _flush(self) -> None:
        fresh, self._fresh = self._fresh, []
        for message in fresh:
            self.on_ready(message)

    @property
    def crowded(self) -> bool:
        """Whether messages in memory take more than `settings.memory`."""
        return self.memory > self.settings.memory

    # The way out

    def expires(self, message: Message) -> float:
        """POSIX time at which this message is given up, by the settings in force."""
        return expires_at(self.settings, _begin(message.envelope), message.progress.on_hold)

    def warns(self, message: Message) -> float:
        """POSIX time at which the delay of this message is told; infinity when it has been."""
        if message.progress.warned_at is not None:
            return float("inf")
        return warns_at(self.settings, _begin(message.envelope), message.progress.on_hold)

    def claim(self, queue_id: str) -> Message | None:
        """Open a message that waits, so that it can be attempted; it is live until settle().

        None where there is nothing to attempt: no ticket, on hold, unreadable, or final already.
        """
        entry = self.timeline.get(queue_id)
        if entry is None or entry.state is State.HELD:
            return None
        message = self._read(queue_id)
        if message is None:
            if entry.state is State.READY and self.timeline.is_ready(queue_id):
                self.timeline.take(queue_id)
                self.wait(queue_id, int(self.seconds()) + READ_AGAIN, entry.lane, entry.sender)
            return None
        self.timeline.take(queue_id)
        if self.stranded.pop(queue_id, None) is None:
            self.memory += message.weight
        self.live[queue_id] = message
        message.due, message.lane = entry.due, entry.lane
        if not message.progress.pending:
            self._leave(message)  # a crash came between the last line and the end of the file
            return None
        if message.held:
            self._park(message, entry.due, entry.lane)  # the same between the line and the new name
            return None
        return message

    def claim_ready(self, queue_id: str) -> Message | None:
        """As claim(), for a ticket that a lane gave; None also where it is not READY any more."""
        return self.claim(queue_id) if self.timeline.is_ready(queue_id) else None

    def settle(self, message: Message, outcomes: Sequence[Outcome], lane: str = "", wake: float | None = None) -> int:
        """Record what became of a live message in one round; it leaves, or waits again on disk.

        `lane` is a hint for its next attempt, "" where its pending recipients have several. Without `outcomes` the
        round was no attempt, and `wake` (POSIX time) says when there is to be one; None = as it was scheduled.
        The answer is the POSIX time of the next attempt, 0 when the message has left.
        """
        progress = message.progress
        if len(outcomes) == 1 and len(progress.pending) == 1:
            outcome = outcomes[0]
            if outcome.fate is not Fate.DEFERRED and outcome.recipient == progress.pending[0]:
                self.ledger.fates[outcome.fate] += 1
                self._leave(message)
                return 0
        now = self.seconds()
        if outcomes:
            for outcome in outcomes:
                if outcome.fate is not Fate.DEFERRED and outcome.recipient in progress.pending:
                    self.ledger.fates[outcome.fate] += 1
            entry = Attempted(now, tuple(outcomes))
            progress = message.progress = progress.after(entry)
            if progress.pending:
                self.note(message.queue_id, entry)
        if not progress.pending:
            self._leave(message)
            return 0
        expires = self.expires(message)
        if outcomes:
            due = next_attempt(self.settings, progress.attempts, now, expires, self._random)
        else:
            due = message.due if wake is None else int(wake if expires <= now else min(wake, expires))
        self._park(message, due, lane or (message.lane if wake is None else ""))
        return due

    def warned(self, message: Message) -> None:
        """Record that the sender was told of the delay."""
        entry = Warned(self.seconds())
        message.progress = message.progress.after(entry)
        self.note(message.queue_id, entry)

    def _leave(self, message: Message) -> None:
        queue_id = message.queue_id
        del self.live[queue_id]
        self.memory -= message.weight
        self.ledger.left += 1
        self.finish(queue_id)

    def finish(self, queue_id: str) -> None:
        """Take a message off the shelf."""
        try:
            self.spool.finish(queue_id)
        except (KeyError, SpoolError) as error:
            self.on_trouble(f"{queue_id} cannot be taken off the shelf: {error!r}")

    def note(self, queue_id: str, entry: Entry) -> None:
        """Add a line to a message's story."""
        try:
            self.spool.note(queue_id, encode_entry(entry))
        except (KeyError, SpoolError) as error:
            self.on_trouble(f"{queue_id}: a line of its story is not written: {error!r}")

    # On the way to disk

    def _park(self, message: Message, due: int, lane: str) -> None:
        self.parking.add(message.queue_id)
        schedule = Schedule(due, lane, message.sender, message.held)
        parked = self.spool.park(message.queue_id, schedule)
        parked.addCallbacks(
            self._parked, self._not_parked, callbackArgs=(message, schedule), errbackArgs=(message, schedule)
        )

    def _parked(self, _: object, message: Message, schedule: Schedule) -> None:
        queue_id = message.queue_id
        self.parking.discard(queue_id)
        if not message.progress.pending:
            self._leave(message)  # removed meanwhile
        elif message.held != schedule.held:
            self._park(message, schedule.due, schedule.lane)  # held or released meanwhile
        else:
            del self.live[queue_id]
            self.memory -= message.weight
            self._put(queue_id, schedule)

    def _not_parked(self, failure: Failure, message: Message, schedule: Schedule) -> None:
        queue_id = message.queue_id
        self.parking.discard(queue_id)
        self.on_trouble(f"{queue_id} cannot be put on disk: {failure.getErrorMessage()}")
        del self.live[queue_id]
        if not message.progress.pending or failure.check(KeyError) is not None:
            self.memory -= message.weight
            self.ledger.left += 1
            if failure.check(KeyError) is None:
                self.finish(queue_id)
            else:
                self.ledger.unreadable += 1
            return
        self.stranded[queue_id] = message
        self._put(queue_id, Schedule(schedule.due, schedule.lane, schedule.sender, message.held))

    def _put(self, queue_id: str, schedule: Schedule) -> None:
        if schedule.held:
            self.timeline.hold(queue_id, schedule.due, schedule.lane, schedule.sender)
        else:
            self.wait(queue_id, schedule.due, schedule.lane, schedule.sender)

    def wait(self, queue_id: str, due: int, lane: str, sender: str) -> None:
        """Let a message on disk wait until `due`."""
        self.timeline.add(queue_id, due, lane, sender)
        self.on_waiting(due)

    # From disk

    def peek(self, queue_id: str) -> Message | None:
        """Look at a message wherever it is, without claiming it; None where it is not, or cannot be read."""
        return self.live.get(queue_id) or self._read(queue_id)

    def _read(self, queue_id: str) -> Message | None:
        stranded = self.stranded.get(queue_id)
        if stranded is not None:
            return stranded
        if queue_id not in self.timeline:
            return None
        try:
            stored = self.spool.load(queue_id)
            envelope = decode_envelope(stored.head)
            progress = fold(len(envelope.recipients), map(decode_entry, stored.lines))
        except KeyError:
            self._lose(queue_id)
            self.on_unreadable(queue_id, "its file is gone")
        except SpoolCorrupt:
            self._lose(queue_id)  # the shelf has put it into corrupt/ and told
        except StoryError as error:
            self._set_apart(queue_id, str(error))
        except SpoolError as error:
            self.on_trouble(f"{queue_id} cannot be read now: {error}")
        else:
            content: Content = stored.content
            return Message(queue_id, envelope, content, progress, self.timeline.sender(queue_id), OVERHEAD)
        return None

    def _lose(self, queue_id: str) -> None:
        self.timeline.take(queue_id)
        self.ledger.left += 1
        self.ledger.unreadable += 1

    def _set_apart(self, queue_id: str, reason: str) -> None:
        """A message of a newer version, or a broken one: it stays where it is, on hold, and the rest goes on."""
        if queue_id in self.apart:
            return
        self.apart.add(queue_id)
        entry = self.timeline.take(queue_id)
        if entry is not None:
            self.timeline.hold(queue_id, entry.due, entry.lane, entry.sender)
        self.on_unreadable(queue_id, reason)

    # Looking

    def stats(self) -> Stats:
        """The queue in numbers, counted as it changes."""
        timeline, ledger = self.timeline, self.ledger
        return Stats(
            waiting=timeline.count(State.WAITING),
            ready=timeline.count(State.READY),
            held=timeline.count(State.HELD),
            active=len(self.live),
            memory=self.memory,
            accepted=ledger.accepted,
            adopted=ledger.adopted,
            left=ledger.left,
            unreadable=ledger.unreadable,
            recipients=ledger.recipients,
            fates={fate.value: count for fate, count in ledger.fates.items()},
            difference=ledger.here - len(timeline) - len(self.live),
            oldest_due=timeline.next_due(),
        )

    def audit(self, owned: int, tickets: int) -> int:
        """What the ledger says too much or too little, plus what nobody would ever attempt; 0 if all is well.

        `owned` is how many live messages the scheduler has in its hands, `tickets` how many its lanes hold.
        """
        unseen = len(self.live) - len(self.parking) - len(self._fresh) - owned
        forgotten = max(0, self.timeline.count(State.READY) - tickets)
        return abs(self.stats().difference) + abs(unseen) + forgotten


def _begin(envelope: Envelope) -> float:
    """POSIX time from which the lifetime of a message counts: what waits for its release does not grow old."""
    return max(envelope.accepted_at, envelope.release_at)


def _due(envelope: Envelope) -> int:
    """When a new message may be attempted first, in whole seconds; never before its release (RFC 4865 §4.2)."""
    return max(int(envelope.accepted_at), ceil(envelope.release_at))


def _ignore(*_: object) -> None:
    """Nobody listens."""
