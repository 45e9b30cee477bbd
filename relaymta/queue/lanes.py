"""Lanes: who may be attempted now, so that one slow destination or one bulk sender never delays the rest.

A lane is a transport and a next hop. It has a window (attempts at the same time) that grows by one with each success
and is halved by a failure of the destination itself; after FAILURES_MAX of those in a row it is suspended, for longer
each time, and then one probe goes out alone. What waits in it is either fresh (in memory, any value of the caller's)
or a ticket (the queue id of a message on disk, opened only when its turn has come). Pure: times are arguments, POSIX
seconds; every operation is O(1), but for the heap of sleeping lanes.

Slots are shared out between four rings of lanes, which take turns:

| ring | who | may have at most |
|---|---|---|
| 0, 1 | fresh, tickets; destinations that have answered lately | all slots |
| 2 | fresh; destinations of which nothing is known, or nothing good | three quarters, with ring 3 |
| 3 | tickets; the same destinations | a half |

so that a million tickets for dead destinations leave room for fresh mail, and all that is dead leaves room for what is
known to live.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from attrs import define, frozen

from relaymta.queue.fairqueue import FairQueue
from relaymta.queue.settings import LaneLimits, LaneSettings

START = 5  # window of a lane of which nothing is known, while slots are plenty; ours
FAILURES_MAX = 3  # failures in a row until a lane is suspended; ours
SUSPENSIONS = (60.0, 120.0, 300.0, 600.0, 900.0, 1800.0)  # seconds, the last one repeats; ours
LINGER = 300.0  # seconds for which an empty lane is remembered; ours
LINGER_BAD = 7200.0  # the same after failures: above the longest suspension, so that it is not forgotten
SORT_MAX = 1000  # tickets put into their senders' lines at a time; ours, a fraction of a millisecond
SHARE_RETRY = 0.25  # seconds until a lane that the host's other workers fill is asked again, unless we end an attempt
SHARE_RETRY_FEW = 0.05  # the same where there are fewer slots than workers, which take turns; ours
_WANTED = b"wanted "  # before a lane's key: the count of workers that have no slot of it, and mail for it

_FRESH, _TICKET, _UNPROVEN = 0, 1, 2

T = TypeVar("T")


class Health(Enum):
    """What an attempt taught about the destination."""

    GOOD = "good"  # it answered
    BAD = "bad"  # it, or all of its hosts, could not be used
    UNKNOWN = "unknown"  # nothing was asked of it, or the answer does not say


@frozen(slots=True)
class Suspended:
    """The lane is left alone for `seconds`."""

    seconds: float


@frozen(slots=True)
class Resumed:
    """The lane was suspended and is no more."""


class Share(Protocol):
    """How much of a lane's concurrency other workers of this host have taken (relaymta.board)."""

    columns: int
    """How many workers there are."""

    def take(self, key: bytes, limit: int) -> bool:
        """Count one more, unless that makes more than `limit`."""

    def give(self, key: bytes) -> None:
        """Count one less."""

    def count(self, key: bytes) -> int:
        """How many are counted now."""


@define(eq=False, weakref_slot=False)
class Lane(Generic[T]):
    """One destination. `asleep` is the time until which nothing leaves, 0.0 when awake.

    There may be fifty thousand of them in each worker, of which hardly one is busy: nothing is held for later.
    """

    name: str
    limits: LaneLimits
    window: int
    running: int = 0
    proven: bool = False
    failures: int = 0
    strikes: int = 0
    suspended: bool = False
    probing: bool = False
    asleep: float = 0.0
    paced: float = 0.0
    rings: int = 0
    used: float = 0.0
    listed: bool = False
    fresh: FairQueue[T] | None = None
    tickets: FairQueue[str] | None = None
    unsorted: list[str] | None = None
    crowded: float = 0.0  # until when it slept last because the host's other workers fill it
    wanted: bool = False  # whether it says so to them, having no slot at all

    @property
    def waiting(self) -> int:
        """Tickets that wait here."""
        return len(self.unsorted or ()) + (self.tickets.size if self.tickets is not None else 0)

    @property
    def has_tickets(self) -> bool:
        """Whether a ticket waits here."""
        return self.unsorted is not None or self.tickets is not None


@frozen(slots=True)
class LaneRow:
    """One lane as the operator sees it. `until` is POSIX time, 0.0 unless suspended."""

    lane: str
    running: int
    window: int
    fresh: int
    tickets: int
    failures: int
    until: float


Slot = tuple[Lane[T], int]
"""The right to one attempt: the lane, and the ring it is charged to. Given back by Lanes.done(), once."""


@frozen(slots=True)
class Turn(Generic[T]):
    """What is next: a slot, and either `fresh` or the queue id `ticket` (the other one is None)."""

    slot: Slot[T]
    fresh: T | None
    ticket: str | None


class Lanes(Generic[T]):
    """All lanes of one worker. `sender_of` gives the fairness key of a ticket's queue id."""

    def __init__(self, settings: LaneSettings, sender_of: Callable[[str], str], share: Share | None = None) -> None:
        self._sender_of = sender_of
        self._share = share
        self._lanes: dict[str, Lane[T]] = {}
        self._rings: tuple[deque[Lane[T]], ...] = (deque(), deque(), deque(), deque())
        self._charged = [0, 0, 0, 0]
        self._next_ring = 0
        self._ringed = 0
        self._sleepers: list[tuple[float, str]] = []
        self._leaving: deque[str] = deque()
        self._leaving_bad: deque[str] = deque()
        self.running = 0
        self.fresh = 0
        self.tickets = 0
        self.reload(settings)

    def reload(self, settings: LaneSettings) -> None:
        """Take other limits, for all lanes and at once."""
        self._settings = settings
        self._all = settings.attempts
        self._unproven_max = max(1, self._all * 3 // 4)
        self._tickets_max = max(1, self._all // 2)
        for lane in self._lanes.values():
            lane.limits = settings.of(lane.name)
            lane.window = min(lane.window, lane.limits.concurrency)
            self._ring(lane)

    # Taking slots

    def enter(self, name: str, now: float) -> Slot[T] | None:
        """A slot at once for something fresh, where the lane has room and nothing waits before it; else None."""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._make(name)
        if lane.fresh is not None or lane.asleep:
            return None
        ring = _FRESH if lane.proven else _FRESH | _UNPROVEN
        if not self._open(ring) or not self._room(lane) or not self._may(lane, now):
            return None
        return self._take(lane, ring, now)

    def add(self, name: str, sender: str, thing: T) -> float:
        """Let something fresh wait in its lane.

        A suspended lane does not take it: the answer is then the time at which it wakes, else 0.0.
        """
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._make(name)
        if lane.suspended:
            return lane.asleep
        if lane.fresh is None:
            lane.fresh = FairQueue()
        lane.fresh.put(sender, thing)
        self.fresh += 1
        self._ring(lane)
        return 0.0

    def add_ticket(self, name: str, queue_id: str) -> None:
        """Let a message on disk wait in its lane, however long that sleeps."""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._make(name)
        if lane.unsorted is None:
            lane.unsorted = [queue_id]
        else:
            lane.unsorted.append(queue_id)
        self.tickets += 1
        self._ring(lane)

    @property
    def idle(self) -> bool:
        """Whether no lane has anything that may go."""
        return not self._ringed

    def next(self, now: float) -> Turn[T] | None:
        """The next thing to attempt, with its slot; None where nothing may go now."""
        if not self._ringed:
            return None
        for _ in range(4):
            ring = self._next_ring
            self._next_ring = (ring + 1) % 4
            lanes = self._rings[ring]
            while lanes and self._open(ring):
                lane = lanes.popleft()
                lane.rings &= ~(1 << ring)
                self._ringed -= 1
                turn = self._pull(lane, ring, now)
                if turn is not None:
                    return turn
        return None

    def _pull(self, lane: Lane[T], ring: int, now: float) -> Turn[T] | None:
        if lane.proven != (ring < _UNPROVEN):
            self._ring(lane)
            return None
        tickets = ring & _TICKET
        if lane.asleep or not (lane.has_tickets if tickets else lane.fresh):
            return None
        if not self._room(lane) or not self._may(lane, now):
            return None
        slot = self._take(lane, ring, now)
        turn: Turn[T]
        if tickets:
            turn = Turn(slot, None, self._pull_ticket(lane))
        else:
            assert lane.fresh is not None
            turn = Turn(slot, lane.fresh.take(), None)
            self.fresh -= 1
            if not lane.fresh.size:
                lane.fresh = None
        self._ring(lane)
        return turn

    def _pull_ticket(self, lane: Lane[T]) -> str:
        self.tickets -= 1
        unsorted = lane.unsorted
        if lane.tickets is None:
            if unsorted is not None and len(unsorted) == 1:
                lane.unsorted = None
                return unsorted[0]
            lane.tickets = FairQueue()
        if unsorted is not None:
            for queue_id in unsorted[:SORT_MAX]:
                lane.tickets.put(self._sender_of(queue_id), queue_id)
            del unsorted[:SORT_MAX]
            if not unsorted:
                lane.unsorted = None
        queue_id = lane.tickets.take()
        if not lane.tickets.size:
            lane.tickets = None
        return queue_id

    def _open(self, ring: int) -> bool:
        if self.running >= self._all:
            return False
        if ring < _UNPROVEN:
            return True
        tickets = self._charged[3]
        if self._charged[2] + tickets >= self._unproven_max:
            return False
        return ring == _UNPROVEN or tickets < self._tickets_max

    def _room(self, lane: Lane[T]) -> bool:
        """An unproven lane has more than one slot only while slots are plenty."""
        running = lane.running
        return running < lane.window and (lane.proven or running == 0 or self.running * 4 < self._all)

    def _may(self, lane: Lane[T], now: float) -> bool:
        """Whether the rate and the host's other workers let one more go; if not, the lane sleeps a little."""
        if lane.limits.messages:
            # The generic cell rate algorithm (ITU-T I.371), with a burst of what one second allows.
            interval = lane.limits.interval
            early = lane.paced - now - max(1.0 - interval, 0.0)
            if early > 1e-6:
                self._sleep(lane, now + early)
                return False
        return self._share is None or self._agreed(lane, self._share, now)

    def _agreed(self, lane: Lane[T], share: Share, now: float) -> bool:
        """Whether the host has a slot more for us; if not, the lane sleeps, or waits for an attempt of its own to end.

        Who has its part of the slots leaves those that come free to workers that have none: else the one that came
        first, with a long queue, would keep all of them.
        """
        key, limit = lane.name.encode(), lane.limits.concurrency
        yields = not lane.wanted and lane.running >= limit // share.columns and share.count(_WANTED + key) > 0
        if not yields and share.take(key, limit):
            self._want(lane, False)
            return True
        self._want(lane, not lane.running)
        if lane.crowded > now:
            lane.asleep = lane.crowded  # which stands among the sleepers already
        else:
            self._sleep(lane, now + (SHARE_RETRY if limit >= share.columns else SHARE_RETRY_FEW))
            lane.crowded = lane.asleep
        return False

    def _want(self, lane: Lane[T], wanted: bool) -> None:
        if self._share is None or wanted is lane.wanted:
            return
        lane.wanted = wanted
        key = _WANTED + lane.name.encode()
        if wanted:
            self._share.take(key, self._share.columns)
        else:
            self._share.give(key)

    def _take(self, lane: Lane[T], ring: int, now: float) -> Slot[T]:
        lane.running += 1
        self.running += 1
        self._charged[ring] += 1
        if lane.limits.messages:
            lane.paced = max(lane.paced, now) + lane.limits.interval
        return lane, ring

    # Giving slots back

    def done(self, slot: Slot[T], health: Health, now: float) -> Suspended | Resumed | None:
        """Give a slot back with what the attempt taught; the answer says what that did to the lane."""
        lane, ring = slot
        lane.running -= 1
        self.running -= 1
        self._charged[ring] -= 1
        if self._share is not None:
            self._share.give(lane.name.encode())
            if lane.asleep and lane.asleep == lane.crowded:
                lane.asleep = 0.0  # one of the slots is free again
        change: Suspended | Resumed | None = None
        if health is Health.GOOD:
            if lane.window < lane.limits.concurrency:
                lane.window += 1
            if lane.failures or not lane.proven:
                change = self._heal(lane)
        elif health is Health.BAD and not lane.suspended:
            change = self._blame(lane, now)
        if lane.fresh is not None or lane.has_tickets:
            self._ring(lane)
        elif not lane.running:
            self._idle(lane, now)
        return change

    def _heal(self, lane: Lane[T]) -> Resumed | None:
        resumed = bool(lane.strikes)
        lane.failures = lane.strikes = 0
        lane.proven = True
        lane.probing = False
        if lane.suspended:
            lane.suspended = False
            lane.asleep = 0.0
        return Resumed() if resumed else None

    def _blame(self, lane: Lane[T], now: float) -> Suspended | None:
        lane.failures += 1
        lane.window = max(1, lane.window // 2)
        if lane.failures < FAILURES_MAX and not lane.probing:
            return None
        seconds = SUSPENSIONS[min(lane.strikes, len(SUSPENSIONS) - 1)]
        lane.strikes += 1
        lane.suspended, lane.probing, lane.proven = True, False, False
        lane.window = 1
        self._sleep(lane, now + seconds)
        if lane.tickets is not None and lane.tickets.size <= SORT_MAX:  # a list is the smallest way to sleep
            lane.unsorted = [*lane.tickets, *(lane.unsorted or ())]
            lane.tickets = None
        return Suspended(seconds)

    def drain(self, name: str) -> list[T]:
        """Take out all that waits fresh in a lane, so that it can wait on disk."""
        lane = self._lanes.get(name)
        if lane is None or lane.fresh is None:
            return []
        things = list(lane.fresh)
        self.fresh -= len(things)
        lane.fresh = None
        if not lane.has_tickets:
            self._want(lane, False)
            if not lane.running:
                self._idle(lane, max(lane.used, lane.asleep))
        return things

    # Sleeping and waking

    def _sleep(self, lane: Lane[T], until: float) -> None:
        lane.asleep = until
        heapq.heappush(self._sleepers, (until, lane.name))

    def pause(self, name: str, until: float) -> None:
        """Let nothing leave a lane until then, for a reason of the caller's."""
        lane = self._lanes.get(name)
        if lane is not None and not lane.asleep:
            self._sleep(lane, until)

    def wakes_at(self) -> float | None:
        """When advance() may have something to do, or None."""
        return self._sleepers[0][0] if self._sleepers else None

    def advance(self, now: float) -> None:
        """Wake the lanes whose time has come."""
        sleepers = self._sleepers
        while sleepers and sleepers[0][0] <= now:
            _, name = heapq.heappop(sleepers)
            lane = self._lanes.get(name)
            if lane is not None and lane.asleep and lane.asleep <= now:
                self._awake(lane)

    def wake(self, name: str) -> None:
        """Let a suspended lane probe now, as the operator asked."""
        lane = self._lanes.get(name)
        if lane is not None and lane.suspended:
            self._awake(lane)

    def _awake(self, lane: Lane[T]) -> None:
        lane.asleep = 0.0
        if lane.wanted and lane.fresh is None and not lane.has_tickets:
            self._want(lane, False)  # what was refused a slot went elsewhere
        if lane.suspended:
            lane.suspended, lane.probing = False, True
            lane.window = 1
        self._ring(lane)

    def _ring(self, lane: Lane[T]) -> None:
        """Put a lane where next() finds it, if it has something that may go."""
        if lane.asleep or lane.running >= lane.window:
            return
        unproven = 0 if lane.proven else _UNPROVEN
        if lane.fresh is not None:
            self._join(lane, _FRESH | unproven)
        if lane.has_tickets:
            self._join(lane, _TICKET | unproven)

    def _join(self, lane: Lane[T], ring: int) -> None:
        if not lane.rings & (1 << ring):
            lane.rings |= 1 << ring
            self._rings[ring].append(lane)
            self._ringed += 1

    # Coming and going

    def _make(self, name: str) -> Lane[T]:
        limits = self._settings.of(name)
        lane = self._lanes[name] = Lane(name, limits, min(START, limits.concurrency))
        return lane

    def _idle(self, lane: Lane[T], now: float) -> None:
        lane.used = now
        if not lane.listed:
            lane.listed = True
            self._leaving.append(lane.name)

    def forget(self, now: float) -> None:
        """Let go of lanes that have long been empty; call it every minute or so."""
        self._sort_out(self._leaving, LINGER, now)
        self._sort_out(self._leaving_bad, LINGER_BAD, now)

    def _sort_out(self, leaving: deque[str], linger: float, now: float) -> None:
        while leaving:
            lane = self._lanes[leaving[0]]
            empty = not lane.running and lane.fresh is None and not lane.has_tickets
            if empty and lane.used + linger > now:
                break
            leaving.popleft()
            lane.listed = False
            if not empty:
                continue  # done() lists it again
            if lane.suspended or (lane.failures and linger < LINGER_BAD):
                if lane.suspended:
                    lane.used = now
                lane.listed = True
                self._leaving_bad.append(lane.name)
            else:
                del self._lanes[lane.name]

    # Looking

    def suspended_until(self, name: str) -> float:
        """When a suspended lane wakes, 0.0 if it is not suspended."""
        lane = self._lanes.get(name)
        return lane.asleep if lane is not None and lane.suspended else 0.0

    def __len__(self) -> int:
        return len(self._lanes)

    def fullest(self, limit: int) -> list[LaneRow]:
        """The lanes in which most waits, up to `limit` of them, the fullest first."""
        return [_row(lane) for lane in heapq.nlargest(limit, self._lanes.values(), key=_fullness)]

    def rows(self) -> Iterator[LaneRow]:
        """Every lane, lazily; lanes that come or go meanwhile may or may not be seen."""
        return map(_row, tuple(self._lanes.values()))


def _fullness(lane: Lane[Any]) -> tuple[int, int]:
    return lane.waiting + (0 if lane.fresh is None else len(lane.fresh)), lane.running


def _row(lane: Lane[Any]) -> LaneRow:
    return LaneRow(
        lane.name,
        lane.running,
        lane.window,
        len(lane.fresh) if lane.fresh is not None else 0,
        lane.waiting,
        lane.failures,
        lane.asleep if lane.suspended else 0.0,
    )
