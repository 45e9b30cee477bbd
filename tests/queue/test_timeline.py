"""The timeline: a million tickets, each due once, wherever an operator moves it meanwhile."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relaymta.queue.timeline import Entry, State, Timeline

IDS = st.sampled_from([f"ID{n}" for n in range(12)])


class TimelineMachine(RuleBasedStateMachine):
    """The timeline against a plain dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.timeline = Timeline()
        self.model: dict[str, Entry] = {}
        self.now = 100

    @rule(queue_id=IDS, due=st.integers(0, 300), lane=st.sampled_from(["a", "b"]), held=st.booleans())
    def put(self, queue_id: str, due: int, lane: str, held: bool) -> None:
        """A ticket comes."""
        if queue_id in self.model:
            with pytest.raises(ValueError, match="waits already"):
                self.timeline.add(queue_id, due, lane)
            return
        state = State.HELD if held else State.WAITING
        (self.timeline.hold if held else self.timeline.add)(queue_id, due, lane, f"s{due % 3}")
        self.model[queue_id] = Entry(queue_id, due, lane, f"s{due % 3}", state)

    @rule(queue_id=IDS)
    def take(self, queue_id: str) -> None:
        """A ticket goes."""
        assert self.timeline.take(queue_id) == self.model.pop(queue_id, None)

    @rule(queue_id=IDS, due=st.integers(0, 300))
    def hurry(self, queue_id: str, due: int) -> None:
        """A ticket is to be due earlier."""
        entry = self.model.get(queue_id)
        expected = entry is not None and entry.state is State.WAITING and due < entry.due
        assert self.timeline.hurry(queue_id, due) is expected
        if expected and entry is not None:
            self.model[queue_id] = Entry(queue_id, due, entry.lane, entry.sender, entry.state)

    @rule(seconds=st.integers(0, 50), limit=st.integers(1, 5))
    def pop(self, seconds: int, limit: int) -> None:
        """Time passes; slices are popped until nothing is due."""
        self.now += seconds
        found: list[str] = []
        while (due := self.timeline.next_due()) is not None and due <= self.now:
            batch = self.timeline.pop_due(self.now, limit)
            assert len(batch) <= limit
            found += [queue_id for queue_id, _ in batch]
        expected = {i for i, e in self.model.items() if e.state is State.WAITING and e.due <= self.now}
        assert sorted(found) == sorted(expected)
        for i in found:
            entry = self.model[i]
            self.model[i] = Entry(i, entry.due, entry.lane, entry.sender, State.READY)

    @precondition(lambda self: self.model)
    @rule()
    def look(self) -> None:
        """A listing shows every ticket once."""
        assert sorted(e.queue_id for e in self.timeline.entries()) == sorted(self.model)

    @invariant()
    def agrees(self) -> None:
        """Counts, look-ups and the earliest time agree with the model."""
        assert len(self.timeline) == len(self.model)
        for state in State:
            assert self.timeline.count(state) == sum(e.state is state for e in self.model.values())
        for queue_id, entry in self.model.items():
            assert self.timeline.get(queue_id) == entry
            assert self.timeline.sender(queue_id) == entry.sender
        lanes: dict[str, int] = {}
        for entry in self.model.values():
            lanes[entry.lane] = lanes.get(entry.lane, 0) + 1
        assert self.timeline.lanes() == lanes
        waiting = [e.due for e in self.model.values() if e.state is State.WAITING]
        due = self.timeline.next_due()
        assert not waiting or (due is not None and due <= min(waiting))


TestTimeline = TimelineMachine.TestCase


@given(st.lists(st.integers(0, 50), min_size=1, max_size=50))
def test_what_is_due_comes_in_order_of_its_second(dues: list[int]) -> None:
    """An earlier second is popped before a later one."""
    timeline = Timeline()
    for number, due in enumerate(dues):
        timeline.add(f"ID{number}", due)
    found = [dues[int(queue_id[2:])] for queue_id, _ in timeline.pop_due(100, 1000)]
    assert found == sorted(dues)


def test_a_sweep_sees_what_is_old_and_not_on_hold() -> None:
    """older() gives the ids between two bounds, of WAITING and READY tickets."""
    timeline = Timeline()
    for queue_id in ("A1", "B1", "C1", "D1"):
        timeline.add(queue_id, 5)
    timeline.hold("B2", 5)
    timeline.pop_due(5, 2)
    assert sorted(i for ids in timeline.older("B", "D") for i in ids) == ["B1", "C1"]


def test_a_hundred_thousand_tickets_take_few_octets_and_few_steps() -> None:
    """A ticket takes under 150 octets beside its id, and no slice looks at more than its limit."""
    count, lanes = 100_000, [f"smtp:domain{n}.example" for n in range(5000)]
    ids = [f"1HXYZ{n:06d}0" for n in range(count)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    timeline = Timeline()
    for number, queue_id in enumerate(ids):
        timeline.add(queue_id, 1_764_000_000 + number % 14_400, lanes[number % 5000], f"s{number % 700}@e.example")
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken / count < 150
    slices = 0
    while timeline.pop_due(1_764_020_000, 1000):
        slices += 1
    assert slices == count // 1000
    assert timeline.count(State.READY) == count
