"""Lanes: windows, suspensions, rates, and turns that nobody can take from anybody else."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relaymta.board import Board
from relaymta.config import Duration
from relaymta.queue.fairqueue import FairQueue
from relaymta.queue.lanes import (
    FAILURES_MAX,
    LINGER,
    LINGER_BAD,
    SUSPENSIONS,
    Health,
    Lanes,
    Resumed,
    Slot,
    Suspended,
)
from relaymta.queue.settings import LaneLimits, LaneRule, LaneSettings

NOW = 1_764_000_000.0


def lanes_of(
    attempts: int = 100, limits: LaneLimits | None = None, senders: dict[str, str] | None = None
) -> Lanes[str]:
    """Lanes for fresh str, whose tickets belong to `senders` by queue id."""
    return Lanes(LaneSettings(attempts, limits or LaneLimits()), lambda queue_id: (senders or {}).get(queue_id, ""))


def taken(lanes: Lanes[str], now: float = NOW) -> list[tuple[str, str]]:
    """Everything that may go now, as (lane, what); the slots stay taken."""
    found = []
    while (turn := lanes.next(now)) is not None:
        found.append((turn.slot[0].name, turn.fresh or turn.ticket or ""))
    return found


def fail_until_suspended(lanes: Lanes[str], name: str, now: float = NOW) -> float:
    """Attempts that all fail; the answer is for how long the lane is suspended."""
    for _ in range(FAILURES_MAX):
        slot = lanes.enter(name, now)
        assert slot is not None
        change = lanes.done(slot, Health.BAD, now)
    assert isinstance(change, Suspended)
    return change.seconds


def test_first_attempt_enters_at_once() -> None:
    """A fresh message for a lane with room gets a slot without waiting."""
    lanes = lanes_of()
    slot = lanes.enter("smtp:a", NOW)
    assert slot is not None and lanes.running == 1
    lanes.done(slot, Health.GOOD, NOW)
    assert lanes.running == 0


def test_window_grows_by_one_with_each_success_up_to_the_limit() -> None:
    """A destination that answers gets more at the same time, never more than its concurrency."""
    lanes = lanes_of(limits=LaneLimits(8))
    for _ in range(20):
        slot = lanes.enter("a", NOW)
        assert slot is not None
        lanes.done(slot, Health.GOOD, NOW)
    for number in range(20):
        lanes.add("a", "", str(number))
    assert len(taken(lanes)) == 8


def test_window_is_halved_by_a_failure_and_never_below_one() -> None:
    """A failure of the destination halves what it gets; at least one attempt stays possible."""
    lanes = lanes_of(limits=LaneLimits(16))
    for _ in range(16):
        slot = lanes.enter("a", NOW)
        assert slot is not None
        lanes.done(slot, Health.GOOD, NOW)
    (row,) = lanes.rows()
    assert row.window == 16
    windows = []
    for _ in range(2):
        slot = lanes.enter("a", NOW)
        assert slot is not None
        lanes.done(slot, Health.BAD, NOW)
        windows.append(next(lanes.rows()).window)
    assert windows == [8, 4]


def test_a_dead_destination_is_left_alone_for_longer_each_time() -> None:
    """After three failures in a row a lane sleeps 1 min; each failed probe makes that longer, up to 30 min."""
    lanes, now = lanes_of(), NOW
    assert fail_until_suspended(lanes, "a") == SUSPENSIONS[0]
    for number in range(1, len(SUSPENSIONS) + 2):
        assert lanes.add("a", "", "fresh") == lanes.suspended_until("a")
        wake = lanes.wakes_at()
        assert wake is not None
        now = wake
        lanes.advance(now - 0.001)
        lanes.add_ticket("a", f"T{number}")
        lanes.add_ticket("a", f"U{number}")
        assert lanes.next(now) is None
        lanes.advance(now)
        turn = lanes.next(now)
        assert turn is not None and turn.ticket is not None
        assert lanes.next(now) is None, "one probe, alone"
        change = lanes.done(turn.slot, Health.BAD, now)
        assert change == Suspended(SUSPENSIONS[min(number, len(SUSPENSIONS) - 1)])


def test_a_destination_that_comes_back_gets_everything_that_waited() -> None:
    """The probe's success ends the suspension, and the window opens again for the tickets that slept."""
    lanes = lanes_of()
    wake = NOW + fail_until_suspended(lanes, "a")
    for number in range(10):
        lanes.add_ticket("a", f"T{number}")
    lanes.advance(wake)
    turn = lanes.next(wake)
    assert turn is not None
    assert lanes.done(turn.slot, Health.GOOD, wake) == Resumed()
    seen = {turn.ticket}
    while (turn := lanes.next(wake)) is not None:
        seen.add(turn.ticket)
        assert lanes.done(turn.slot, Health.GOOD, wake) is None
    assert seen == {f"T{number}" for number in range(10)}
    assert lanes.tickets == 0


def test_an_answer_to_a_late_attempt_wakes_a_suspended_lane() -> None:
    """An attempt that was under way when the lane was suspended, and succeeds, ends the suspension."""
    lanes = lanes_of()
    late, *slots = [lanes.enter("a", NOW) for _ in range(FAILURES_MAX + 1)]
    assert late is not None
    for slot in slots:
        assert slot is not None
        lanes.done(slot, Health.BAD, NOW)
    assert lanes.suspended_until("a")
    lanes.add_ticket("a", "T")
    assert lanes.done(late, Health.GOOD, NOW + 1) == Resumed()
    assert taken(lanes, NOW + 1) == [("a", "T")]


def test_what_waits_fresh_in_a_suspended_lane_is_handed_back() -> None:
    """drain() gives all that was in memory, so that it can wait on disk; nothing of it comes again."""
    lanes = lanes_of(limits=LaneLimits(1))
    slot = lanes.enter("a", NOW)
    assert slot is not None
    for name in ("x", "y", "z"):
        lanes.add("a", "s", name)
    for _ in range(FAILURES_MAX - 1):
        lanes.done(slot, Health.BAD, NOW)
        turn = lanes.next(NOW)
        assert turn is not None
        slot = turn.slot
    assert isinstance(lanes.done(slot, Health.BAD, NOW), Suspended)
    assert lanes.drain("a") == ["z"]
    assert lanes.fresh == 0 and taken(lanes, NOW + 9999) == []


def test_a_bulk_sender_does_not_delay_another_one_in_the_same_lane() -> None:
    """With ten thousand messages of one sender before it, another sender's message is second or third."""
    bulk = {f"B{number}": "bulk" for number in range(10_000)}
    lanes = lanes_of(limits=LaneLimits(1), senders={**bulk, "single": "alice"})
    for number in range(10_000):
        lanes.add("a", "bulk", f"b{number}")
        lanes.add_ticket("t", f"B{number}")
    lanes.add("a", "alice", "mine")
    order = []
    for _ in range(8):
        turn = lanes.next(NOW)
        assert turn is not None
        order.append(turn.fresh)
        lanes.done(turn.slot, Health.GOOD, NOW)
    assert "mine" in order


def test_tickets_of_a_lane_take_turns_by_sender() -> None:
    """A sender's one ticket, parked last, comes second after the first of a bulk sender's."""
    bulk = {f"B{number}": "bulk" for number in range(500)}
    lanes = lanes_of(limits=LaneLimits(1), senders={**bulk, "single": "alice"})
    for queue_id in [*bulk, "single"]:
        lanes.add_ticket("a", queue_id)
    order = []
    while (turn := lanes.next(NOW)) is not None:
        order.append(turn.ticket)
        lanes.done(turn.slot, Health.GOOD, NOW)
    assert order.index("single") == 1
    assert len(order) == 501


def test_slow_lanes_never_take_the_slots_of_a_healthy_one() -> None:
    """500 destinations that never answer, with thousands of messages each, leave a slot for one that does."""
    lanes = lanes_of(attempts=1000)
    good = lanes.enter("good", NOW)
    assert good is not None
    lanes.done(good, Health.GOOD, NOW)
    for number in range(500):
        for _ in range(20):
            lanes.add(f"dead{number}", "bulk", "x")
    stuck = Counter(lane for lane, _ in taken(lanes))
    assert len(stuck) == 500, "each of them gets at least one"
    assert lanes.running < 1000
    assert lanes.enter("good", NOW) is not None
    assert lanes.enter("never seen", NOW) is not None


def test_dead_destinations_beyond_all_slots_leave_room_for_the_living() -> None:
    """Unproven destinations get three quarters of the slots at most, the rest is for those that answered lately."""
    lanes = lanes_of(attempts=100)
    good = lanes.enter("good", NOW)
    assert good is not None
    lanes.done(good, Health.GOOD, NOW)
    for number in range(1000):
        lanes.add(f"dead{number}", "", "x")
    assert len(taken(lanes)) == 75
    assert lanes.enter("good", NOW) is not None


def test_a_million_tickets_leave_room_for_fresh_mail() -> None:
    """Tickets of unproven destinations get half of the slots at most."""
    lanes = lanes_of(attempts=100)
    for number in range(1000):
        lanes.add_ticket(f"dead{number}", f"T{number}")
    assert len(taken(lanes)) == 50
    assert lanes.enter("never seen", NOW) is not None


def test_rate_of_a_lane_is_kept() -> None:
    """60 messages a minute means one a second after a burst of one, whoever asks (haraka-plugin-limit#12)."""
    limits = LaneLimits(20, messages=60, per=Duration(60.0))
    lanes = lanes_of(limits=limits)
    for number in range(5):
        lanes.add("a", "", str(number))
    now, times = NOW, []
    while lanes.fresh:
        lanes.advance(now)
        while (turn := lanes.next(now)) is not None:
            times.append(now - NOW)
            lanes.done(turn.slot, Health.GOOD, now)
        wake = lanes.wakes_at()
        now = now + 1 if wake is None else wake
    assert times == pytest.approx([0, 1, 2, 3, 4])


@given(st.integers(1, 5000), st.integers(1, 300))
@settings(max_examples=30)
def test_any_rate_is_kept_within_a_burst_of_one_second(messages: int, per: int) -> None:
    """In every span of time no more leaves than the rate allows, plus what one second allows."""
    limits = LaneLimits(1000, messages=messages, per=Duration(float(per)))
    lanes = lanes_of(attempts=10_000, limits=limits)
    rate = messages / per
    for number in range(300):
        lanes.add("a", "", str(number))
    now, left = NOW, 0
    while lanes.fresh:
        lanes.advance(now)
        while (turn := lanes.next(now)) is not None:
            left += 1
            lanes.done(turn.slot, Health.GOOD, now)
        assert left <= (now - NOW) * rate + max(rate, 1) + 1
        wake = lanes.wakes_at()
        assert wake is not None or not lanes.fresh
        now = max(now, wake or now)


def test_the_operator_wakes_a_suspended_lane() -> None:
    """After wake() a suspended lane probes at once."""
    lanes = lanes_of()
    fail_until_suspended(lanes, "a")
    lanes.add_ticket("a", "T")
    assert lanes.next(NOW) is None
    lanes.wake("a")
    assert taken(lanes) == [("a", "T")]


def test_lanes_vanish_when_empty_and_healthy() -> None:
    """An idle lane is remembered for five minutes, one with failures for longer, and none for ever."""
    lanes = lanes_of()
    good = lanes.enter("good", NOW)
    assert good is not None
    lanes.done(good, Health.GOOD, NOW)
    fail_until_suspended(lanes, "dead")
    lanes.forget(NOW + LINGER - 1)
    assert len(lanes) == 2
    lanes.forget(NOW + LINGER + 1)
    assert [row.lane for row in lanes.rows()] == ["dead"]
    lanes.advance(NOW + 2 * LINGER)
    lanes.forget(NOW + 2 * LINGER + 1)
    assert len(lanes) == 1
    lanes.forget(NOW + 2 * LINGER_BAD)
    lanes.forget(NOW + 4 * LINGER_BAD)
    assert len(lanes) == 0


def test_limits_are_changed_by_a_reload() -> None:
    """A lowered concurrency counts for lanes that exist."""
    lanes = lanes_of()
    for number in range(20):
        lanes.add("a", "", str(number))
    lanes.reload(LaneSettings(100, rules=(LaneRule("a", LaneLimits(2)),)))
    assert len(taken(lanes)) == 2


class Neighbours:
    """A share in which other workers hold `others` of each key."""

    columns = 4

    def __init__(self, others: int) -> None:
        self.others = others
        self.mine = 0

    def take(self, key: bytes, limit: int) -> bool:
        """Count one, if the limit allows it."""
        if self.mine + self.others >= limit:
            return False
        self.mine += 1
        return True

    def give(self, key: bytes) -> None:
        """Count one less."""
        self.mine -= 1

    def count(self, key: bytes) -> int:
        """Nobody says that he has none."""
        return 0


def test_concurrency_holds_for_the_host() -> None:
    """What other workers have taken of a lane's concurrency is not taken again; the lane asks again shortly after."""
    share = Neighbours(18)
    lanes: Lanes[str] = Lanes(LaneSettings(100), lambda _: "", share)
    for number in range(5):
        lanes.add("a", "", str(number))
    assert len(taken(lanes)) == 2
    share.others = 0
    wake = lanes.wakes_at()
    assert wake is not None and wake < NOW + 1
    lanes.advance(wake)
    assert len(taken(lanes, wake)) == 3
    assert share.mine == 5


def begun(lanes: Lanes[str], now: float = NOW) -> list[Slot[str]]:
    """The slots of everything that may go now."""
    found = []
    while (turn := lanes.next(now)) is not None:
        found.append(turn.slot)
    return found


def workers_of(count: int, concurrency: int) -> list[Lanes[str]]:
    """The lanes of workers that share one real board."""
    board = Board.make(count)
    settings = LaneSettings(1000, rules=(LaneRule("*", LaneLimits(concurrency)),))
    return [Lanes(settings, lambda _: "", Board.attach(board, count, column)) for column in range(count)]


def test_a_slot_of_ours_that_ends_is_taken_again_at_once() -> None:
    """Where the host's slots are all taken, by us too, nobody sleeps a quarter of a second for each of them."""
    one, other = workers_of(2, 4)
    for number in range(100):
        one.add("a", "", str(number))
        other.add("a", "", str(number))
    running: dict[int, list[Slot[str]]] = {id(one): begun(one), id(other): begun(other)}
    assert (len(running[id(one)]), len(running[id(other)])) == (4, 0)
    now, ended = NOW, {id(one): 4, id(other): 0}
    for _ in range(400):
        now += 0.01
        for lanes in (one, other):
            mine = running[id(lanes)]
            if mine:
                lanes.done(mine.pop(0), Health.GOOD, now)
            lanes.advance(now)
            more = begun(lanes, now)
            mine += more
            ended[id(lanes)] += len(more)
        assert sum(map(len, running.values())) <= 4
        if not one.fresh and not other.fresh:
            break
    # Two ends in 10 ms, of which none waited: some 100 rounds, and not 200 messages of a quarter of a second.
    assert ended == {id(one): 100, id(other): 100} and now < NOW + 1.5


@pytest.mark.parametrize("concurrency", [1, 2, 7])
def test_a_worker_with_a_long_queue_leaves_slots_to_one_that_has_none(concurrency: int) -> None:
    """Who comes later to a destination gets its part of the slots, also where attempts there take long."""
    workers = workers_of(3, concurrency)
    for number in range(10_000):
        workers[0].add("a", "", str(number))
    running: list[list[Slot[str]]] = [begun(workers[0]), [], []]
    for lanes in workers[1:]:
        lanes.add("a", "", "late")
    now, late = NOW, set()
    for _ in range(100):
        now += 2.0
        for position, lanes in enumerate(workers):
            for slot in running[position]:
                lanes.done(slot, Health.GOOD, now)
            running[position] = []
        for instant in range(100):  # the turns of three reactors, until the next attempts end
            for position, lanes in enumerate(workers):
                lanes.advance(now + instant / 100)
                found = begun(lanes, now + instant / 100)
                running[position] += found
                if position and found:
                    late.add(position)
        assert sum(map(len, running)) <= concurrency
        if late == {1, 2}:
            break
    assert late == {1, 2} and now < NOW + 20


def test_who_has_nothing_left_wants_nothing() -> None:
    """What waited and went to disk, or was removed, keeps no slot from anybody."""
    one, other = workers_of(2, 2)
    for number in range(10):
        one.add("a", "", str(number))
    first = begun(one)
    other.add("a", "", "x")
    assert begun(other) == [] and other.drain("a") == ["x"]
    one.done(first[0], Health.GOOD, NOW + 1)
    one.advance(NOW + 1)
    assert len(begun(one, NOW + 1)) == 1


STEPS = st.tuples(
    st.sampled_from(["add", "ticket", "enter", "next", "good", "bad", "wait", "drain"]),
    st.integers(0, 2),
    st.sampled_from(["a", "b"]),
)


@settings(max_examples=200, deadline=None)
@example(1, [("enter", 0, "a"), ("enter", 1, "a")])
@given(st.integers(1, 4), st.lists(STEPS, min_size=30, max_size=150))
def test_workers_that_share_slots_never_exceed_them_and_leave_nothing_waiting(
    concurrency: int, steps: list[tuple[str, int, str]]
) -> None:
    """In any order of events; at the end everything has gone, and nobody says any more that it wants a slot."""
    workers = workers_of(3, concurrency)
    running: list[list[Slot[str]]] = [[], [], []]
    now = NOW

    def hold() -> None:
        for name in ("a", "b"):
            assert sum(slot[0].name == name for slots in running for slot in slots) <= concurrency

    for serial, (step, which, name) in enumerate(steps):
        lanes, mine = workers[which], running[which]
        if step == "add":
            lanes.add(name, "", str(serial))
        elif step == "ticket":
            lanes.add_ticket(name, str(serial))
        elif step == "enter":
            slot = lanes.enter(name, now)
            mine += [slot] if slot is not None else []
        elif step == "next":
            turn = lanes.next(now)
            mine += [turn.slot] if turn is not None else []
        elif step in ("good", "bad") and mine:
            lanes.done(mine.pop(0), Health.GOOD if step == "good" else Health.BAD, now)
        elif step == "drain":
            lanes.drain(name)
        elif step == "wait":
            now += 0.1
            for one in workers:
                one.advance(now)
        hold()
    for _ in range(2000):
        for lanes, mine in zip(workers, running, strict=True):
            while mine:
                lanes.done(mine.pop(), Health.GOOD, now)
            lanes.advance(now)
            mine += begun(lanes, now)
        hold()
        if not any(running) and not any(one.fresh or one.tickets for one in workers):
            break
        now += 1.0
    assert not any(running) and not any(one.fresh or one.tickets for one in workers)
    for one in workers:
        one.advance(now + 1.0)
    assert not any(lane.wanted for one in workers for lane in one._lanes.values())
    board = workers[0]._share
    assert board is not None and not any(board.count(key) for key in (b"a", b"b", b"wanted a", b"wanted b"))


class LanesMachine(RuleBasedStateMachine):
    """Any order of events: caps hold, nothing is lost, nothing is stuck."""

    LANES = st.sampled_from(["a", "b", "c", ""])

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[str] = Lanes(
            LaneSettings(6, LaneLimits(3), (LaneRule("c", LaneLimits(2, 30, Duration(60.0))),)), lambda i: i[-1]
        )
        self.now = NOW
        self.number = 0
        self.inside: set[str] = set()
        self.running: list[Slot[str]] = []

    def _name(self) -> str:
        self.number += 1
        return f"M{self.number}{self.number % 3}"

    @rule(lane=LANES)
    def fresh(self, lane: str) -> None:
        """A fresh message comes."""
        slot = self.lanes.enter(lane, self.now)
        if slot is not None:
            self.running.append(slot)
            return
        name = self._name()
        until = self.lanes.add(lane, name[-1], name)
        assert until == self.lanes.suspended_until(lane)
        if not until:
            self.inside.add(name)

    @rule(lane=LANES, count=st.integers(1, 4))
    def tickets(self, lane: str, count: int) -> None:
        """Tickets become due."""
        for _ in range(count):
            name = self._name()
            self.lanes.add_ticket(lane, name)
            self.inside.add(name)

    @rule(limit=st.integers(1, 10))
    def pump(self, limit: int) -> None:
        """What may go, goes."""
        for _ in range(limit):
            turn = self.lanes.next(self.now)
            if turn is None:
                return
            self.inside.remove(turn.fresh or turn.ticket or "")
            self.running.append(turn.slot)

    @precondition(lambda self: self.running)
    @rule(health=st.sampled_from(Health), place=st.integers(0, 20))
    def done(self, health: Health, place: int) -> None:
        """An attempt ends."""
        slot = self.running.pop(place % len(self.running))
        change = self.lanes.done(slot, health, self.now)
        if isinstance(change, Suspended):
            self.inside -= set(self.lanes.drain(slot[0].name))

    @rule(seconds=st.sampled_from([0.1, 1.0, 61.0, 2000.0, 8000.0]))
    def time_passes(self, seconds: float) -> None:
        """The clock goes on."""
        self.now += seconds
        self.lanes.advance(self.now)
        self.lanes.forget(self.now)

    @rule(lane=LANES)
    def wake(self, lane: str) -> None:
        """The operator asks for a retry."""
        self.lanes.wake(lane)

    @rule(attempts=st.integers(1, 8))
    def reload(self, attempts: int) -> None:
        """The limits change."""
        self.lanes.reload(LaneSettings(attempts, LaneLimits(3)))

    @invariant()
    def counts_hold(self) -> None:
        """What is inside is what was put in and not taken out."""
        assert self.lanes.fresh + self.lanes.tickets == len(self.inside)
        assert self.lanes.running == len(self.running)

    def teardown(self) -> None:
        """All that waits leaves in bounded time when attempts end and destinations answer."""
        for _ in range(5000):
            while self.running:
                self.lanes.done(self.running.pop(), Health.GOOD, self.now)
            self.pump(100)
            if not self.inside and not self.running:
                return
            if not self.running:
                wake = self.lanes.wakes_at()
                assert wake is not None, f"stuck: {self.inside}"
                self.now = max(self.now, wake)
                self.lanes.advance(self.now)
        raise AssertionError(f"not drained: {self.inside}")


TestLanes = LanesMachine.TestCase
TestLanes.settings = settings(max_examples=200, stateful_step_count=40)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers()), max_size=60))
def test_a_fair_queue_gives_each_sender_its_turn(things: list[tuple[str, int]]) -> None:
    """Each sender's order is kept, everything comes out once, and nobody comes twice while another one waits."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for sender, number in things:
        queue.put(sender, (sender, number))
    assert len(queue) == len(things) == len(list(queue))
    found = [queue.take() for _ in things]
    for sender in "abc":
        assert [t for t in found if t[0] == sender] == [t for t in things if t[0] == sender]
    for place, (first, second) in enumerate(pairwise(found), 1):
        if first[0] == second[0]:
            assert {sender for sender, _ in found[place:]} == {first[0]}, "twice, while another one waits"
