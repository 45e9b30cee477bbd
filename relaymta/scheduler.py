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
from relaymta.reports import dsn
from relaymta.reports.settings import Settings as ReportSettings
from relaymta.routing.route import Route
from relaymta.store.interfaces import OpenReport, SpoolError

LOAD_SLICE = 1000  # tickets taken over, or found due, at a time: a few milliseconds
PUMP_SLICE = 32  # attempts begun at a time, each of which may open a file
SWEEP_SECONDS = 60.0
TELLING_MAX = 200  # notices on their way to disk at which a sweep pauses; ours
TELL_AGAIN = 60.0  # seconds until a notice that could not be stored is tried again; ours
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
        self._sweep = Sweep(manager, clock, self._give_up, lambda: self._telling >= TELLING_MAX)
        self._minute: IDelayedCall | None = None
        self._pumping = False
        self._pump_later: IDelayedCall | None = None
        self._stopping = False
        self._quiet: Deferred[None] | None = None
        self._full = False
        self.loaded: Deferred[None] = Deferred()
        manager.on_ready = self._ready
        manager.on_waiting = self._alarm.at
        manager.on_changed = self._changed
        manager.on_trouble = lambda reason: tell(events.SpoolFailed(shard, reason))
        manager.on_unreadable = lambda file, reason: tell(events.SpoolCorrupt(file, reason))

    # Beginning and end

    def start(self, report: OpenReport) -> None:
        """Begin: `report` is what Manager.open() gave. What waits on disk is taken over in slices meanwhile."""
        for file, reason in report.corrupt:
            self._tell(events.SpoolCorrupt(file, reason))
        began = self._seconds()
        self._load(report, began)
        self._minute = self._clock.callLater(SWEEP_SECONDS, self._look_around)

    def _load(self, report: OpenReport, began: float) -> None:
        if self._stopping:
            return
        manager = self.manager
        more = manager.adopt(LOAD_SLICE)
        self._arm_next()
        if more:
            self._clock.callLater(0, self._load, report, began)
            return
        seconds = round(report.seconds + self._seconds() - began, 3)
        self._tell(
            events.SpoolOpened(
                self._shard, manager.ledger.adopted, report.replayed, len(report.corrupt), seconds
            )
        )
        self.loaded.callback(None)

    def reload(self, terms: Terms) -> None:
        """Take other terms: for every attempt from now on, also of what waits already."""
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
        for timer in (self._minute, self._pump_later):
            if timer is not None and timer.active():
                timer.cancel()
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
        try:
            pending = message.progress.pending
            now = self._seconds()
            if message.progress.held_at is None and len(pending) == 1:
                envelope = message.envelope
                recipient = envelope.recipients[pending[0]]
                route = self._router.route(recipient.address, envelope.sender, envelope.origin.account)
                lane = round_.lane = route.lane
                batch = Batch(message.queue_id, envelope, message.content, pending, route, lane)
                self._send(round_, batch, slot, now)
            else:
                self._start_groups(round_, slot, now)
        except Exception:  # noqa: BLE001 a bug of ours never loses or bounces a message
            self._rescue(round_)
            return
        round_.starting = False
        if round_.ended:
            self._conclude(round_)

    def _start_groups(self, round_: Round, slot: Slot[Fresh] | None, now: float) -> None:
        message = round_.message
        groups = [] if message.held else self._groups(message)
        if len({batch.lane for batch in groups}) > 1:
            round_.lanes = {index: batch.lane for batch in groups for index in batch.recipients}
        elif groups:
            round_.lane = groups[0].lane
        for batch in groups:
            mine = slot if slot is not None and slot[0].name == batch.lane else None
            if mine is not None:
                slot = None
            self._send(round_, batch, mine, now)
        if slot is not None:
            self.lanes.done(slot, Health.UNKNOWN, now)

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
        if slot is not None and slot[0].name != lane:
            lanes.done(slot, Health.UNKNOWN, now)
            slot = None
        if slot is None:
            slot = lanes.enter(lane, now)
        if slot is not None:
            self._attempt(round_, batch, slot)
            return
        message = round_.message
        asleep = lanes.suspended_until(lane)
        if asleep:
            round_.sleep(asleep)
        elif self.manager.crowded and message.weight > OVERHEAD and round_.lanes is None:
            round_.wake = now  # it waits in the same lane, on disk
        else:
            lanes.add(lane, message.sender, (round_, batch))
            round_.waiting += 1
            if self._pump_later is None:
                self._arm_next()

    def _attempt(self, round_: Round, batch: Batch, slot: Slot[Fresh]) -> None:
        round_.running += 1
        try:
            outcomes = self._deliveries.attempt(batch)
        except Exception:  # noqa: BLE001 it must not happen, and must not cost a slot when it does
            outcomes = fail(Failure())
        outcomes.addCallbacks(
            self._attempted,
            self._broken,
            callbackArgs=(round_, batch, slot),
            errbackArgs=(round_, batch, slot),
        )

    def _broken(self, failure: Failure, round_: Round, batch: Batch, slot: Slot[Fresh]) -> None:
        self._tell(events.BugCaught("delivery", failure.getTraceback()))
        now = self._seconds()
        outcomes = [
            Outcome(index, Fate.DEFERRED, Scope.MESSAGE, "4.3.0", "internal error", now)
            for index in batch.recipients
        ]
        self._attempted(outcomes, round_, batch, slot)

    # The belt

    def _pump(self) -> None:
        """Begin what may begin, a slice at a time."""
        if self._pumping or self._stopping or self.lanes.idle:
            return
        self._pumping = True
        lanes = self.lanes
        now = self._seconds()
        try:
            for _ in range(PUMP_SLICE):
                turn = lanes.next(now)
                if turn is None:
                    break
                self._take_turn(turn.slot, turn.fresh, turn.ticket, now)
            else:
                if self._pump_later is None:
                    self._pump_later = self._clock.callLater(0, self._pump_on)
        finally:
            self._pumping = False
        self._arm_next()

    def _pump_on(self) -> None:
        self._pump_later = None
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
        message = None if ticket is None else self.manager.claim_ready(ticket)
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
        """Compose what is owed; record when that is durable."""
        round_.closed = True
        message, now = round_.message, self._seconds()
        pending = message.progress.pending
        outcomes = [outcome for outcome in round_.outcomes if outcome.recipient in pending]
        if pending and not message.held and self.manager.expires(message) <= now:
            outcomes = expired(message, outcomes, now)
        stored: list[Deferred[object]] = []
        kept: list[tuple[dsn.Kind, tuple[dsn.Told, ...]]] = []
        for kind, about in self._news(message, outcomes, now):
            told = dsn.owed(kind, message.envelope, about)
            durable = self._tell_one(kind, message, told, now) if told else None
            if durable is not None:
                stored.append(durable)
                kept.append((kind, told))
        if not stored:
            self._record(round_, outcomes)
            return
        self._telling += 1
        all_stored = DeferredList(stored, consumeErrors=True)
        all_stored.addCallback(self._told, round_, outcomes, kept)
        all_stored.addErrback(lambda _: self._rescue(round_))

    def _news(
        self, message: Message, outcomes: list[Outcome], now: float
    ) -> Iterator[tuple[dsn.Kind, list[Outcome]]]:
        if outcomes:
            yield dsn.Kind.FAILED, outcomes
            yield dsn.Kind.DELIVERED, outcomes
            yield dsn.Kind.RELAYED, outcomes
        if self.manager.warns(message) <= now and not message.held:
            yield dsn.Kind.DELAYED, delayed(message, outcomes, now)

    def _tell_one(
        self, kind: dsn.Kind, message: Message, told: tuple[dsn.Told, ...], now: float
    ) -> Deferred[object] | None:
        """Compose and store one notice; None where nobody is to be told."""
        manager, terms = self.manager, self._terms
        notice_id = manager.new_id()
        try:
            notice = dsn.compose(
                kind,
                message.queue_id,
                message.envelope,
                told,
                message.content,
                hostname=terms.hostname,
                settings=terms.reports,
                now=now,
                notice_id=notice_id,
                retry_until=manager.expires(message) if kind is dsn.Kind.DELAYED else None,
            )
        except OSError:  # the content cannot be read now
            return fail(Failure())
        if notice is None:
            self._tell(
                events.NoticeDropped(message.queue_id, kind.value, "no sender and no postmaster", len(told))
            )
            return None
        durable = manager.accept(notice_id, notice.envelope, notice.octets)
        to = str(notice.envelope.recipients[0].address)

        def queued(_: object) -> object:
            return self._tell(
                events.NoticeQueued(message.queue_id, notice_id, kind.value, to, len(told))
            )

        return durable.addCallback(queued)

    def _told(
        self,
        results: list[tuple[bool, object]],
        round_: Round,
        outcomes: list[Outcome],
        kept: list[tuple[dsn.Kind, tuple[dsn.Told, ...]]],
    ) -> None:
        """Every notice is durable, or is not: a failure that could not be told is no failure yet."""
        self._telling -= 1
        message = round_.message
        again = False
        for (durable, result), (kind, told) in zip(results, kept, strict=True):
            if durable:
                if kind is dsn.Kind.DELAYED:
                    self.manager.warned(message)
                continue
            assert isinstance(result, Failure)
            if result.check(SpoolError, OSError) is None:
                self._tell(events.BugCaught("scheduler", result.getTraceback()))
            if kind is dsn.Kind.FAILED:
                again = True
                untold = {one.outcome.recipient for one in told}
                outcomes = [outcome for outcome in outcomes if outcome.recipient not in untold]
            else:
                reason = f"cannot be stored: {result.getErrorMessage()}"
                self._tell(events.NoticeDropped(message.queue_id, kind.value, reason, len(told)))
        if again and not outcomes:
            round_.wake = self._seconds() + TELL_AGAIN
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
        """Once a minute: audit, let go of empty lanes, find what is too old, and see that nothing was forgotten."""
        self._minute = self._clock.callLater(SWEEP_SECONDS, self._look_around)
        now = self._seconds()
        manager = self.manager
        difference = manager.audit(len(self._rounds), self.lanes.tickets)
        if difference:
            self._tell(events.LedgerMismatch(self._shard, difference))
        self._look_for_room()
        self.lanes.forget(now)
        self._sweep.begin()
        self._pump()
        self._arm_next()

    def _look_for_room(self) -> None:
        refusal = self.manager.refusal()
        if refusal and not self._full:
            self._tell(events.SpoolFull(self._shard, self.manager.spool.free()))
        self._full = bool(refusal)

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
                events.RecipientSettled(
                    queue_id, Fate.REMOVED.value, address, "", "", "", by, row.lane, "", 0, seconds
                )
            )
        self._tell(events.MessageRemoved(queue_id, by, len(gone)))
        if row.state != ACTIVE and queue_id not in manager.timeline and queue_id not in manager.live:
            self._tell(events.MessageFinished(queue_id, seconds))

    def _hurried(self, lane: str) -> None:
        self.lanes.wake(lane)
        self._alarm.at(self._seconds())
