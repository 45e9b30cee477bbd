"""The way out: what is due is routed, waits for room in its lane, is attempted, and its outcomes are recorded.

One message is attempted in rounds. A round has one batch for each lane of its pending recipients; when the last batch
is in, the sender is told what is owed (durably, first), and then the outcomes are recorded: a crash between the two
may tell twice and cannot lose a notice (RFC 5321 §4.5.4.1 retries, §6.1 notices, RFC 3461 §5.2 who is told).
Routes are found anew in every round. A first attempt runs straight from memory; what waits on disk is opened only
when its lane has room.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relaymta import events
from relaymta.delivery.batch import Batch
from relaymta.mail.address import Address
from relaymta.mail.envelope import Notify, Recipient
from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.queue.alarm import Alarm
from relaymta.queue.desk import ACTIVE, Desk, Row
from relaymta.queue.lanes import Health, Lanes, Resumed, Slot, Suspended
from relaymta.queue.manager import Manager
from relaymta.queue.message import OVERHEAD, Message
from relaymta.queue.rounds import POSITIVE, Round, delayed, expired, health
from relaymta.queue.settings import LaneSettings, Settings
from relaymta.queue.sweep import Sweep
from relaymta.reports.dsn import Kind
from relaymta.reports.owed import Owed, notices
from relaymta.reports.settings import Settings as ReportSettings
from relaymta.routing.route import Route
from relaymta.store.interfaces import OpenReport, SpoolError, Ticket

LOAD_SLICE = 500  # tickets taken over, or found due, at a time: a few milliseconds
LOAD_SLICES = 4  # of these before others have a turn, or fewer when they take longer than LOAD_FOR
LOAD_FOR = 0.02  # seconds; ours
PUMP_SLICE = 32  # attempts begun at a time
OPEN_SLICE = 16  # of which so many, in one turn of the reactor, open a file: else a queue that is due stops all else
TELLING_MAX = 200  # notices on their way to disk at which a sweep pauses; ours
TELL_AGAIN = 60.0  # seconds until a notice that could not be stored is tried again; ours
CROWDED = 1.0  # seconds for which messages of several lanes stay closed when memory is short; ours
RESCUE = 300.0  # seconds until a message that met a bug of ours is tried again; ours


class Routing(Protocol):
    """What finds the way (routing.router.Router)."""

    def route(self, recipient: Address, sender: Address | None, account: str = "") -> Route:
        """The way to one recipient, at once."""


class Delivering(Protocol):
    """What attempts (delivery.attempt.Deliveries)."""

    def attempt(self, batch: Batch) -> Deferred[list[Outcome]]:
        """Fires with one Outcome for each recipient of the batch; never fails."""

    def close(self, limit: float = 30.0) -> Deferred[None]:
        """Let what runs end, for at most `limit` seconds."""


@frozen(slots=True)
class Terms:
    """What the scheduler needs to know of the configuration; `hostname` is ours, as notices give it."""

    router: Routing
    hostname: str
    reports: ReportSettings
    queue: Settings
    lanes: LaneSettings


Fresh = tuple[Round, Batch]


class Scheduler:
    """The joint between the queue, the routes, the deliveries and the notices of one shard."""

    def __init__(
        self,
        manager: Manager,
        deliveries: Delivering,
        lanes: Lanes[Fresh],
        terms: Terms,
        clock: IReactorTime,
        tell: Callable[[events.Event], None],
        shard: str = "0",
    ) -> None:
        self.manager = manager
        self.lanes = lanes
        self.desk = Desk(manager)
        self.desk.on_held = lambda queue_id, by, reason: tell(events.MessageHeld(queue_id, by, reason))
        self.desk.on_released = lambda queue_id, by: tell(events.MessageReleased(queue_id, by))
        self.desk.on_removed = self._removed
        self.desk.on_hurried = self._hurried
        self._deliveries = deliveries
        self._terms = terms
        self._router = terms.router
        self._clock = clock
        self._seconds = clock.seconds
        self._tell = tell
        self._shard = shard
        self._rounds: dict[str, Round] = {}
        self._telling = 0
        self._alarm = Alarm(clock, self._tick)
        self._sweep = Sweep(manager, clock, self._look_around, self._give_up, self._is_busy)
        self._pumping = False
        self._openings = OPEN_SLICE
        self._pump_later: IDelayedCall | None = None
        self._stopping = False
        self._quiet: Deferred[None] | None = None
        self.loaded: Deferred[None] = Deferred()
        manager.on_ready = self._ready
        manager.on_waiting = self._alarm.at
        manager.on_changed = self._changed
        manager.on_trouble = lambda reason: tell(events.SpoolFailed(shard, reason))
        manager.on_full = lambda free: tell(events.SpoolFull(shard, free))
        manager.on_unreadable = lambda file, reason: tell(events.SpoolCorrupt(file, reason))

    # Beginning and end

    def start(self, report: OpenReport) -> None:
        """Begin: `report` is what Manager.open() gave. What waits on disk is taken over in slices meanwhile."""
        self._take_over(report, self._shard)
        self._sweep.start()

    def take_over(self, report: OpenReport, tickets: Iterator[Ticket], shard: str) -> None:
        """Go on with the mail of one more shard, whose owner is gone."""
        self.manager.take_over(tickets)
        self._take_over(report, shard)

    def _take_over(self, report: OpenReport, shard: str) -> None:
        for file, reason in report.corrupt:
            self._tell(events.SpoolCorrupt(file, reason))
        self._load(report, shard, self._seconds())

    def _load(self, report: OpenReport, shard: str, began: float) -> None:
        if self._stopping:
            return
        manager = self.manager
        pause, more = self._seconds() + LOAD_FOR, True
        for _ in range(LOAD_SLICES):
            more = manager.adopt(LOAD_SLICE)
            if not more or self._seconds() > pause:
                break
        self._arm_next()
        if more:
            self._clock.callLater(0, self._load, report, shard, began)
            return
        seconds = round(report.seconds + self._seconds() - began, 3)
        self._tell(events.SpoolOpened(shard, manager.ledger.adopted, report.replayed, len(report.corrupt), seconds))
        if not self.loaded.called:
            self.loaded.callback(None)

    def reload(self, terms: Terms, deliveries: Delivering | None = None) -> None:
        """Take other terms, and another way out: for every attempt from now on, also of what waits already."""
        self._deliveries = deliveries or self._deliveries
        self._terms = terms
        self._router = terms.router
        self.manager.settings = terms.queue
        self.lanes.reload(terms.lanes)
        self._pump()

    def stop(self, limit: float = 30.0) -> Deferred[None]:
        """End: begin nothing, let running attempts end for at most `limit` seconds, record them.

        What is then still in memory is in the journal, and found there by the next start.
        """
        self._stopping = True
        self._alarm.stop()
        self._sweep.stop()
        if self._pump_later is not None:
            self._pump_later.cancel()
            self._pump_later = None
        return self._deliveries.close(limit).addCallback(self._wait_until_quiet)

    def _wait_until_quiet(self, _: object) -> Deferred[None]:
        self._quiet = Deferred()
        self._look_whether_quiet()
        return self._quiet

    def _look_whether_quiet(self) -> None:
        """Quiet is when no outcome is on its way to the spool; nobody waits for batches that never began."""
        quiet = self._quiet
        if quiet is None or quiet.called or self._telling:
            return
        if not any(round_.running for round_ in self._rounds.values()):
            quiet.callback(None)

    # A round begins

    def _ready(self, message: Message) -> None:
        if not self._stopping:
            self._start(message, None)

    def _start(self, message: Message, slot: Slot[Fresh] | None) -> None:
        """Route what is pending and attempt it; `slot` is a right to attempt that its ticket had got."""
        round_ = self._rounds[message.queue_id] = Round(message)
        now = self._seconds()
        try:
            batches = self._batches(round_)
        except Exception:  # noqa: BLE001 a bug of ours never loses or bounces a message
            if slot is not None:
                self.lanes.done(slot, Health.UNKNOWN, now)
            self._rescue(round_)
            return
        for batch in batches:
            mine = None
            if slot is not None and slot[0].name == batch.lane:
                mine, slot = slot, None
            self._send(round_, batch, mine, now)
        if slot is not None:
            self.lanes.done(slot, Health.UNKNOWN, now)
        round_.starting = False
        if round_.ended:
            self._conclude(round_)

    def _batches(self, round_: Round) -> Sequence[Batch]:
        """One batch for each lane of what is pending; none where nothing is to be attempted."""
        message = round_.message
        pending, envelope = message.progress.pending, message.envelope
        if message.progress.held_at is not None:
            return ()
        if len(pending) == 1:
            address = envelope.recipients[pending[0]].address
            route = self._router.route(address, envelope.sender, envelope.origin.account)
            round_.lane = route.lane
            return (Batch(message.queue_id, envelope, message.content, pending, route, route.lane),)
        batches = self._groups(message)
        if len({batch.lane for batch in batches}) > 1:
            round_.lanes = {index: batch.lane for batch in batches for index in batch.recipients}
            if self._is_too_much(message):
                round_.wake = self._seconds()
                return ()
        elif batches:
            round_.lane = batches[0].lane
        return batches

    def _is_too_much(self, message: Message) -> bool:
        """Whether a message that cannot leave at once had better wait on disk."""
        return self.manager.crowded and message.weight > OVERHEAD

    def _groups(self, message: Message) -> list[Batch]:
        """One batch for each route; routes of one lane that say different things stay apart."""
        envelope = message.envelope
        route_of, recipients, sender = self._router.route, envelope.recipients, envelope.sender
        account = envelope.origin.account
        found: dict[str, list[tuple[Route, list[int]]]] = {}
        for index in message.progress.pending:
            route = route_of(recipients[index].address, sender, account)
            alike = found.setdefault(route.lane, [])
            for known, indices in alike:
                if route is known or route == known:
                    indices.append(index)
                    break
            else:
                alike.append((route, [index]))
        return [
            Batch(message.queue_id, envelope, message.content, tuple(indices), route, lane)
            for lane, alike in found.items()
            for route, indices in alike
        ]

    def _send(self, round_: Round, batch: Batch, slot: Slot[Fresh] | None, now: float) -> None:
        """Attempt a batch now, or let it wait in its lane, or leave it for when the lane wakes."""
        lanes, lane = self.lanes, batch.lane
        if slot is None:
            slot = lanes.enter(lane, now)
        if slot is not None:
            self._attempt(round_, batch, slot)
            return
        message = round_.message
        asleep = lanes.suspended_until(lane)
        if asleep:
            round_.sleep(asleep)
        elif self._is_too_much(message) and round_.lanes is None:
            round_.sleep(now)  # it waits in the same lane, on disk
        else:
            lanes.add(lane, message.sender, (round_, batch))
            round_.waiting += 1
            self._arm_next()  # the lane may sleep to keep its rate

    def _attempt(self, round_: Round, batch: Batch, slot: Slot[Fresh]) -> None:
        round_.running += 1
        try:
            outcomes = self._deliveries.attempt(batch)
        except Exception:  # noqa: BLE001 it must not happen, and must not cost a slot when it does
            outcomes = fail(Failure())
        facts = (round_, batch, slot)
        outcomes.addCallbacks(self._attempted, self._broken, callbackArgs=facts, errbackArgs=facts)

    def _broken(self, failure: Failure, round_: Round, batch: Batch, slot: Slot[Fresh]) -> None:
        self._tell(events.BugCaught("delivery", failure.getTraceback()))
        now = self._seconds()
        outcomes = [
            Outcome(index, Fate.DEFERRED, Scope.MESSAGE, "4.3.0", "internal error", now) for index in batch.recipients
        ]
        self._attempted(outcomes, round_, batch, slot)

    # The belt

    def _pump(self) -> None:
        """Begin what may begin, a slice at a time."""
        if self._pumping or self._stopping or self.lanes.idle or not self._openings:
            return
        self._pumping = True
        lanes = self.lanes
        now = self._seconds()
        try:
            for begun in range(PUMP_SLICE + 1):
                turn = lanes.next(now) if begun < PUMP_SLICE and self._openings else None
                if turn is None:
                    break
                self._openings -= turn.ticket is not None
                self._take_turn(turn.slot, turn.fresh, turn.ticket, now)
            if (begun == PUMP_SLICE or self._openings < OPEN_SLICE) and self._pump_later is None:
                self._pump_later = self._clock.callLater(0, self._pump_on)
        finally:
            self._pumping = False
        self._arm_next()

    def _pump_on(self) -> None:
        self._pump_later = None
        self._openings = OPEN_SLICE
        self._pump()

    def _take_turn(self, slot: Slot[Fresh], fresh: Fresh | None, ticket: str | None, now: float) -> None:
        if fresh is not None:
            round_, batch = fresh
            if round_.closed:
                self.lanes.done(slot, Health.UNKNOWN, now)
            else:
                round_.waiting -= 1
                self._attempt(round_, batch, slot)
            return
        assert ticket is not None
        if not slot[0].name and self.manager.crowded:
            # A message of several lanes is opened before it has room in them; not while memory is short.
            self.lanes.done(slot, Health.UNKNOWN, now)
            self.lanes.add_ticket("", ticket)
            self.lanes.pause("", now + CROWDED)
            return
        message = self.manager.claim_ready(ticket)
        if message is None:
            self.lanes.done(slot, Health.UNKNOWN, now)
        elif self.manager.expires(message) <= now:
            self.lanes.done(slot, Health.UNKNOWN, now)
            self._conclude_unattempted(message)
        else:
            self._start(message, slot)

    def _tick(self) -> None:
        """Something is due, or a lane wakes."""
        now = self._seconds()
        timeline, lanes = self.manager.timeline, self.lanes
        for queue_id, lane in timeline.pop_due(now, LOAD_SLICE):
            lanes.add_ticket(lane, queue_id)
        lanes.advance(now)
        self._pump()
        self._arm_next()

    def _arm_next(self) -> None:
        due, wake = self.manager.timeline.next_due(), self.lanes.wakes_at()
        if due is not None:
            self._alarm.at(due if wake is None else min(due, wake))
        elif wake is not None:
            self._alarm.at(wake)

    # A round ends

    def _attempted(self, outcomes: list[Outcome], round_: Round, batch: Batch, slot: Slot[Fresh]) -> None:
        round_.running -= 1
        round_.outcomes += outcomes
        now = self._seconds()
        change = self.lanes.done(slot, health(outcomes), now)
        if change is not None:
            self._lane_changed(change, batch.lane, outcomes)
        if round_.ended:
            self._conclude(round_)
        self._pump()
        if self._quiet is not None:
            self._look_whether_quiet()

    def _lane_changed(self, change: Suspended | Resumed, lane: str, outcomes: Sequence[Outcome]) -> None:
        if isinstance(change, Resumed):
            self._tell(events.LaneResumed(lane))
            return
        self._tell(events.LaneSuspended(lane, outcomes[0].text, change.seconds))
        wake = self.lanes.suspended_until(lane)
        for round_, _ in self.lanes.drain(lane):
            if not round_.closed:
                round_.waiting -= 1
                round_.sleep(wake)
                if round_.ended:
                    self._conclude(round_)
        self._arm_next()

    def _conclude(self, round_: Round) -> None:
        """All batches are in. The plain case first: one recipient, gone, and nobody asked to be told."""
        message, outcomes = round_.message, round_.outcomes
        try:
            if len(outcomes) == 1 and outcomes[0].fate in POSITIVE:
                outcome = outcomes[0]
                pending = message.progress.pending
                recipient = message.envelope.recipients[outcome.recipient]
                if pending == (outcome.recipient,) and not recipient.notify & Notify.SUCCESS:
                    self._record(round_, outcomes)
                    return
            self._tell_sender(round_)
        except Exception:  # noqa: BLE001 a bug of ours never loses or bounces a message
            self._rescue(round_)

    def _conclude_unattempted(self, message: Message) -> None:
        round_ = self._rounds[message.queue_id] = Round(message)
        round_.starting = False
        self._conclude(round_)

    def _rescue(self, round_: Round) -> None:
        """Tell of a bug, keep what is known to be delivered, and try the rest later."""
        self._tell(events.BugCaught("scheduler", traceback.format_exc()))
        round_.closed = True
        message = round_.message
        self._rounds.pop(message.queue_id, None)
        if message.queue_id in self.manager.live and message.queue_id not in self.manager.parking:
            sure = [outcome for outcome in round_.outcomes if outcome.fate in POSITIVE]
            self.manager.settle(message, sure, "", self._seconds() + RESCUE)

    def _tell_sender(self, round_: Round) -> None:
        """Compose what is owed, and record the outcomes when that is durable."""
        round_.closed = True
        message, now, manager, terms = round_.message, self._seconds(), self.manager, self._terms
        pending = message.progress.pending
        outcomes = [outcome for outcome in round_.outcomes if outcome.recipient in pending]
        late: list[Outcome] = []
        if pending and not message.held:
            if manager.expires(message) <= now:
                outcomes = expired(message, outcomes, now)
            elif manager.warns(message) <= now:
                late = delayed(message, outcomes, now)
        debts = notices(
            message.queue_id,
            message.envelope,
            message.content,
            outcomes,
            late,
            hostname=terms.hostname,
            settings=terms.reports,
            now=now,
            retry_until=manager.expires(message),
            new_id=manager.new_id,
        )
        stored = [(owed, self._store(message.queue_id, owed)) for owed in debts]
        told = [(owed, durable) for owed, durable in stored if durable is not None]
        if not told:
            self._record(round_, outcomes)
            return
        self._telling += 1
        all_told = DeferredList([durable for _, durable in told], consumeErrors=True)
        all_told.addCallback(self._told, round_, outcomes, [owed for owed, _ in told])
        all_told.addErrback(lambda _: self._rescue(round_))

    def _store(self, queue_id: str, owed: Owed) -> Deferred[object] | None:
        """Put one notice into the queue; None where nobody is to be told."""
        if owed.error is not None:
            return fail(owed.error)
        kind, count, notice = owed.kind.value, len(owed.recipients), owed.notice
        if notice is None:
            self._tell(events.NoticeDropped(queue_id, kind, "no sender and no postmaster", count))
            return None
        to = str(notice.envelope.recipients[0].address)

        def queued(_: object) -> object:
            return self._tell(events.NoticeQueued(queue_id, owed.notice_id, kind, to, count))

        return self.manager.accept(owed.notice_id, notice.envelope, notice.octets).addCallback(queued)

    def _told(
        self,
        results: Sequence[tuple[bool, object]],
        round_: Round,
        outcomes: list[Outcome],
        debts: Sequence[Owed],
    ) -> None:
        """Every notice is durable, or is not: a failure that could not be told is no failure yet."""
        self._telling -= 1
        message = round_.message
        outcomes = [outcome for outcome in outcomes if outcome.recipient in message.progress.pending]
        for (durable, result), owed in zip(results, debts, strict=True):
            if durable:
                if owed.kind is Kind.DELAYED:
                    self.manager.warned(message)
                continue
            assert isinstance(result, Failure)
            if result.check(SpoolError, OSError) is None:
                self._tell(events.BugCaught("scheduler", result.getTraceback()))
            if owed.kind is Kind.FAILED:
                outcomes = [outcome for outcome in outcomes if outcome.recipient not in owed.recipients]
                if not outcomes:
                    round_.wake = self._seconds() + TELL_AGAIN
            else:
                reason = f"cannot be stored: {result.getErrorMessage()}"
                self._tell(events.NoticeDropped(message.queue_id, owed.kind.value, reason, len(owed.recipients)))
        self._record(round_, outcomes)
        self._look_whether_quiet()

    def _record(self, round_: Round, outcomes: Sequence[Outcome]) -> None:
        """Write down what became of the recipients, then tell it."""
        round_.closed = True
        message, manager = round_.message, self.manager
        attempts = message.progress.attempts + (1 if outcomes else 0)
        lane = round_.next_lane(outcomes)
        del self._rounds[message.queue_id]
        due = manager.settle(message, outcomes, lane, round_.wake)
        tell, queue_id, now = self._tell, message.queue_id, self._seconds()
        seconds = round(now - message.envelope.accepted_at, 6)
        for outcome in outcomes:
            recipient = str(message.envelope.recipients[outcome.recipient].address)
            to = round_.lane_of(outcome.recipient)
            said = outcome.text if outcome.reply is None else str(outcome.reply)
            if outcome.fate is not Fate.DEFERRED:
                tell(
                    events.RecipientSettled(
                        queue_id, outcome.fate._value_, recipient, outcome.status, outcome.host,
                        outcome.address, said, to, outcome.tls, attempts, seconds,
                    )
                )  # fmt: skip
            else:
                tell(
                    events.RecipientDeferred(
                        queue_id, recipient, outcome.status, outcome.host, outcome.address, said,
                        outcome.scope._value_, to, attempts, due,
                    )
                )  # fmt: skip
        if not due:
            tell(events.MessageFinished(queue_id, seconds))

    # The safety net

    def _look_around(self) -> None:
        """Once a minute: audit, let go of empty lanes, and see that nothing was forgotten."""
        manager = self.manager
        difference = manager.audit(len(self._rounds), self.lanes.tickets)
        if difference:
            self._tell(events.LedgerMismatch(self._shard, difference))
        manager.refusal()
        self.lanes.forget(self._seconds())
        self._pump()
        self._arm_next()

    def _is_busy(self) -> bool:
        return self._telling >= TELLING_MAX

    def _give_up(self, queue_id: str) -> None:
        """End the wait of a message that is too old, or late; what is being attempted comes to its own end."""
        round_ = self._rounds.get(queue_id)
        if round_ is not None:
            self._withdraw(round_)
            return
        message = self.manager.claim(queue_id)
        if message is not None:
            self._conclude_unattempted(message)

    def _withdraw(self, round_: Round) -> None:
        """Take back the batches that have not begun."""
        if round_.running or round_.closed:
            return
        round_.waiting = 0
        self._conclude(round_)
        round_.closed = True  # what still waits in a lane is passed over

    def _changed(self, message: Message) -> None:
        round_ = self._rounds.get(message.queue_id)
        if round_ is not None:
            self._withdraw(round_)

    # The operator's wishes

    def _removed(self, row: Row, by: str, gone: tuple[Recipient, ...]) -> None:
        queue_id, manager = row.queue_id, self.manager
        seconds = round(self._seconds() - row.accepted_at, 6)
        for recipient in gone:
            address = str(recipient.address)
            self._tell(
                events.RecipientSettled(queue_id, Fate.REMOVED.value, address, "", "", "", by, row.lane, "", 0, seconds)
            )
        self._tell(events.MessageRemoved(queue_id, by, len(gone)))
        if row.state != ACTIVE and queue_id not in manager.timeline and queue_id not in manager.live:
            self._tell(events.MessageFinished(queue_id, seconds))

    def _hurried(self, lane: str) -> None:
        self.lanes.wake(lane)
        self._alarm.at(self._seconds())
