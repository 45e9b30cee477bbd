"""A whole way out on a Clock: queue, lanes, routes, notices; the peers' answers are scripted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from relaymta import events
from relaymta.delivery.batch import Batch
from relaymta.mail.address import Address
from relaymta.mail.envelope import Envelope, Notify, Origin, Recipient
from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.mail.queueid import IdMaker
from relaymta.mail.reply import Reply
from relaymta.queue.lanes import Lanes
from relaymta.queue.manager import Manager
from relaymta.queue.settings import LaneSettings, Settings
from relaymta.reports.settings import Settings as ReportSettings
from relaymta.routing.router import Router
from relaymta.scheduler import Fresh, Scheduler, Terms
from tests.queue.memory_spool import MemorySpool

NOW = 1_764_000_000.0
BODY = b"Subject: hello\r\n\r\nworld\r\n"


def relayed(batch: Batch, at: float) -> list[Outcome]:
    """Every recipient was taken by the next hop."""
    reply = Reply(250, "2.0.0", "ok")
    return [Outcome(i, Fate.RELAYED, Scope.MESSAGE, "2.0.0", "ok", at, reply, "mx") for i in batch.recipients]


def deferred(batch: Batch, at: float, scope: Scope = Scope.RECIPIENT) -> list[Outcome]:
    """Every recipient must wait; a wide scope means that nobody answered."""
    reply = Reply(451, "4.2.0", "later") if scope in (Scope.RECIPIENT, Scope.MESSAGE) else None
    return [Outcome(i, Fate.DEFERRED, scope, "4.2.0", "later", at, reply, "mx") for i in batch.recipients]


def dead(batch: Batch, at: float) -> list[Outcome]:
    """No host of the destination could be reached."""
    return deferred(batch, at, Scope.SITE)


def failed(batch: Batch, at: float) -> list[Outcome]:
    """Every recipient was refused for good."""
    reply = Reply(550, "5.1.1", "no such user")
    return [Outcome(i, Fate.FAILED, Scope.RECIPIENT, "5.1.1", "no", at, reply, "mx") for i in batch.recipients]


@define(eq=False)
class Attempt:
    """One attempt that the script has not yet answered."""

    batch: Batch
    result: Deferred[list[Outcome]]


Script = Callable[[Batch, float], list[Outcome] | None]


class Peers:
    """What Deliveries would do: `script` answers at once, or says None and the test answers through `open`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.script: Script = relayed
        self.open: list[Attempt] = []
        self.log: list[tuple[float, str, str]] = []

    def attempt(self, batch: Batch) -> Deferred[list[Outcome]]:
        """See delivery.attempt.Deliveries.attempt."""
        now = self.clock.seconds()
        self.log.append((now, batch.lane, batch.queue_id))
        result: Deferred[list[Outcome]] = Deferred()
        outcomes = self.script(batch, now)
        if outcomes is None:
            self.open.append(Attempt(batch, result))
        else:
            result.callback(outcomes)
        return result

    def answer(self, how: Callable[[Batch, float], list[Outcome]] = relayed, place: int = 0) -> None:
        """Answer an open attempt."""
        attempt = self.open.pop(place)
        attempt.result.callback(how(attempt.batch, self.clock.seconds()))

    def close(self, limit: float = 30.0) -> Deferred[None]:
        """See delivery.attempt.Deliveries.close: what runs at the limit is cut."""
        closed: Deferred[None] = Deferred()

        def cut() -> None:
            while self.open:
                self.answer(lambda batch, at: deferred(batch, at, Scope.HOST))
            closed.callback(None)

        self.clock.callLater(limit if self.open else 0, cut)
        return closed


class Rig:
    """One shard's way out. `told` are the events so far."""

    def __init__(
        self,
        *,
        queue: Settings | None = None,
        lanes: LaneSettings | None = None,
        reports: ReportSettings | None = None,
        clock: Clock | None = None,
        spool: Any = None,
    ) -> None:
        if clock is None:
            clock = Clock()
            clock.advance(NOW)
        self.clock = clock
        self.terms = Terms(
            Router(),
            "relay.example.org",
            reports or ReportSettings(),
            queue or Settings(),
            lanes or LaneSettings(),
        )
        self.peers = Peers(clock)
        self.told: list[events.Event] = []
        self.accepted: dict[str, Envelope] = {}
        self.begin(MemorySpool(clock) if spool is None else spool)

    def begin(self, spool: Any) -> None:
        """Start on `spool`, and let everything happen that happens at once."""
        self.begin_slowly(spool)
        self.settle_down()

    def begin_slowly(self, spool: Any) -> None:
        """Start on `spool`."""
        clock = self.clock
        self.spool = spool
        self.manager = Manager(spool, clock, self.terms.queue, IdMaker(clock.seconds), lambda: 0.5)
        self.lanes: Lanes[Fresh] = Lanes(self.terms.lanes, self.manager.timeline.sender)
        self.scheduler = Scheduler(self.manager, self.peers, self.lanes, self.terms, clock, self.told.append)
        self.desk = self.scheduler.desk
        opened = self.manager.open()
        opened.addCallback(self.scheduler.start)

    def crash(self, surviving: int = 0) -> None:
        """Lose everything in memory and what was not yet synced, and start again."""
        self.kill()
        self.clock.advance(0.1)
        self.begin(self.spool.crash(surviving))

    def kill(self) -> None:
        """No timer fires any more, and no peer answers."""
        for call in list(self.clock.getDelayedCalls()):
            call.cancel()
        self.peers.open.clear()

    def settle_down(self) -> None:
        """Let everything happen that happens at this instant."""
        for _ in range(10_000):
            if not any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
                return
            self.clock.advance(0)
        raise AssertionError("something happens for ever at one instant")

    def wait(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self.clock.seconds() + seconds
        self.settle_down()
        while True:
            times = [call.getTime() for call in self.clock.getDelayedCalls()]
            if not times or min(times) > end:
                break
            self.clock.advance(max(0.0, min(times) - self.clock.seconds()))
            self.settle_down()
        self.clock.advance(max(0.0, end - self.clock.seconds()))

    def submit(
        self,
        *domains: str,
        sender: str | None = "alice",
        notify: Notify = Notify.UNSET,
        protocol: str = "ESMTP",
        listener: str = "mx",
        body: bytes = BODY,
    ) -> str:
        """Take a message for bob at each of `domains`; the answer is its queue id."""
        domains = domains or ("example.net",)
        envelope = Envelope(
            None if sender is None else Address(sender, "example.org"),
            tuple(Recipient(Address("bob", domain), notify) for domain in domains),
            self.clock.seconds(),
            Origin(listener=listener, protocol=protocol),
        )
        queue_id = self.manager.new_id()

        def ours(_: object) -> None:
            self.accepted[queue_id] = envelope

        self.manager.accept(queue_id, envelope, body).addCallbacks(ours, lambda _: None)
        return queue_id

    def of(self, *kinds: type[events.Event]) -> list[Any]:
        """The events of some kinds."""
        return [event for event in self.told if isinstance(event, kinds)]

    def fates(self, queue_id: str) -> dict[str, list[str]]:
        """What was told of each recipient of a message."""
        found: dict[str, list[str]] = {}
        for event in self.of(events.RecipientSettled):
            if event.id == queue_id:
                found.setdefault(event.recipient, []).append(event.fate)
        return found

    def reload(self, **changes: Any) -> None:
        """Change some of the terms."""
        self.terms = evolve(self.terms, **changes)
        self.scheduler.reload(self.terms)

    def check(self) -> None:
        """No bug was caught, and the ledger is straight."""
        assert self.of(events.BugCaught, events.LedgerMismatch) == []
        assert self.manager.audit(len(self.scheduler._rounds), self.lanes.tickets) == 0
