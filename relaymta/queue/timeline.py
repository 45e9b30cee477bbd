"""What waits, and when it is due: one compact ticket for each message on disk, a million of them if need be.

A ticket is one integer (due time, numbers of its lane and its sender, state) in a dictionary by queue id, and its id
stands in the list of the second at which it is due. Nothing is ever searched for in those lists: whoever takes an id
out of one looks whether the ticket still says so. Pure: times are arguments, in POSIX seconds.

| state | meaning | leaves it by |
|---|---|---|
| WAITING | due in the future, or due and not yet seen | pop_due(), take(), hold |
| READY | due, its lane knows of it | take(), hold |
| HELD | waits for the operator | release, take() |
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from enum import IntEnum

from attrs import frozen

from relaymta.store.numbers import Numbers
from relaymta.store.packed import due_of, lane_of, pack, sender_of, state_of, with_state

SHELVES = 256  # small dictionaries instead of one: none is ever so large that growing it stops the reactor


class State(IntEnum):
    """Where a ticket is."""

    WAITING = 0
    READY = 1
    HELD = 2


@frozen(slots=True)
class Entry:
    """A ticket, spelled out."""

    queue_id: str
    due: int
    lane: str
    sender: str
    state: State


class Timeline:
    """All tickets of one shard."""

    def __init__(self) -> None:
        self._shelves: tuple[dict[str, int], ...] = tuple({} for _ in range(SHELVES))
        self._lanes = Numbers()
        self._senders = Numbers()
        self._slots: dict[int, list[str]] = {}
        self._seconds: list[int] = []
        self._counts = [0, 0, 0]

    def __len__(self) -> int:
        return sum(self._counts)

    def __contains__(self, queue_id: str) -> bool:
        return queue_id in self._shelves[hash(queue_id) % SHELVES]

    def count(self, state: State) -> int:
        """How many tickets are in `state`."""
        return self._counts[state]

    def lanes(self) -> dict[str, int]:
        """How many tickets each lane has, in whatever state."""
        uses = self._lanes.uses
        return {lane: uses[number] for lane, number in self._lanes.numbers.items()}

    def add(self, queue_id: str, due: int, lane: str = "", sender: str = "") -> None:
        """A message waits until `due`. It must not be here yet."""
        self._put(queue_id, due, lane, sender, State.WAITING)

    def hold(self, queue_id: str, due: int, lane: str = "", sender: str = "") -> None:
        """A message waits for the operator; `due` is kept for the day of its release. It must not be here yet."""
        self._put(queue_id, due, lane, sender, State.HELD)

    def _put(self, queue_id: str, due: int, lane: str, sender: str, state: State) -> None:
        shelf = self._shelves[hash(queue_id) % SHELVES]
        if queue_id in shelf:
            raise ValueError(f"{queue_id} waits already")
        due = max(due, 0)
        shelf[queue_id] = pack(due, self._lanes.take(lane), self._senders.take(sender), state)
        self._counts[state] += 1
        if state is State.WAITING:
            self._slot(queue_id, due)

    def _slot(self, queue_id: str, due: int) -> None:
        slot = self._slots.get(due)
        if slot is None:
            self._slots[due] = [queue_id]
            heapq.heappush(self._seconds, due)
        else:
            slot.append(queue_id)

    def take(self, queue_id: str) -> Entry | None:
        """Take a ticket out, whatever its state; None where there is none."""
        ticket = self._shelves[hash(queue_id) % SHELVES].pop(queue_id, None)
        if ticket is None:
            return None
        entry = self._spell(queue_id, ticket)
        self._counts[entry.state] -= 1
        self._lanes.give(lane_of(ticket))
        self._senders.give(sender_of(ticket))
        return entry

    def get(self, queue_id: str) -> Entry | None:
        """Look at a ticket; None where there is none."""
        ticket = self._shelves[hash(queue_id) % SHELVES].get(queue_id)
        return None if ticket is None else self._spell(queue_id, ticket)

    def is_ready(self, queue_id: str) -> bool:
        """Whether a ticket is here and READY."""
        ticket = self._shelves[hash(queue_id) % SHELVES].get(queue_id)
        return ticket is not None and state_of(ticket) == State.READY

    def sender(self, queue_id: str) -> str:
        """The sender's key of a ticket, "" where there is none."""
        ticket = self._shelves[hash(queue_id) % SHELVES].get(queue_id)
        return "" if ticket is None else self._senders.rows[sender_of(ticket)]

    def hurry(self, queue_id: str, due: int) -> bool:
        """Let a WAITING ticket be due at `due`; False where it is not waiting, or due by then anyway."""
        shelf = self._shelves[hash(queue_id) % SHELVES]
        ticket = shelf.get(queue_id)
        if ticket is None or state_of(ticket) != State.WAITING or due_of(ticket) <= due:
            return False
        shelf[queue_id] = pack(due, lane_of(ticket), sender_of(ticket), State.WAITING)
        self._slot(queue_id, due)
        return True

    def next_due(self) -> int | None:
        """When pop_due() may have something next (it may turn out to be nothing); None where nothing waits."""
        return self._seconds[0] if self._seconds else None

    def pop_due(self, now: float, limit: int) -> list[tuple[str, str]]:
        """Up to `limit` tickets that are due at `now`, as (queue id, lane); they are READY from now on."""
        found: list[tuple[str, str]] = []
        seconds, slots, lanes = self._seconds, self._slots, self._lanes.rows
        steps = 0
        while seconds and seconds[0] <= now and steps < limit:
            second = seconds[0]
            slot = slots[second]
            while slot and steps < limit:
                steps += 1
                queue_id = slot.pop()
                shelf = self._shelves[hash(queue_id) % SHELVES]
                ticket = shelf.get(queue_id)
                if ticket is None or state_of(ticket) != State.WAITING or due_of(ticket) != second:
                    continue
                shelf[queue_id] = with_state(ticket, State.READY)
                found.append((queue_id, lanes[lane_of(ticket)]))
            if not slot:
                del slots[second]
                heapq.heappop(seconds)
        self._counts[State.WAITING] -= len(found)
        self._counts[State.READY] += len(found)
        return found

    def entries(self, lane: str | None = None) -> Iterator[Entry]:
        """Every ticket, or those of `lane`, lazily and in no order; what changes meanwhile may or may not be seen."""
        for shelf in self._shelves:
            for queue_id in tuple(shelf) if lane is None else self._of_lane(shelf, lane):
                ticket = shelf.get(queue_id)
                if ticket is not None:
                    yield self._spell(queue_id, ticket)

    def _of_lane(self, shelf: dict[str, int], lane: str) -> list[str]:
        number = self._lanes.numbers.get(lane, -1)
        return [i for i, ticket in shelf.items() if lane_of(ticket) == number]

    def older(self, after: str, before: str) -> Iterator[list[str]]:
        """Ids of tickets not HELD with after <= id < before, a list a shelf, lazily. Ids sort by acceptance."""
        for shelf in self._shelves:
            yield [i for i in tuple(shelf) if after <= i < before and state_of(shelf[i]) != State.HELD]

    def _spell(self, queue_id: str, ticket: int) -> Entry:
        lane = self._lanes.rows[lane_of(ticket)]
        sender = self._senders.rows[sender_of(ticket)]
        return Entry(queue_id, due_of(ticket), lane, sender, State(state_of(ticket)))
