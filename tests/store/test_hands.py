"""Hands: who works when, and that nobody who waits is forgotten."""

from __future__ import annotations

import threading
import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaymta.store.hands import GATHERING, HELD_UP, LAZINESS, QUICK, Hand, robbed


class Inline(SynchronousTestCase):
    """A hand that works at the end of the reactor's turn."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.batches: list[list[int]] = []
        self.bugs: list[Failure] = []
        self.hand: Hand[int] = Hand(
            "test", self.batches.append, self.bugs.append, self.clock.callLater, lambda call: call(), False
        )

    def test_what_comes_in_one_turn_is_done_together_at_its_end(self) -> None:
        """No timer is waited for, and nothing is done in the midst of a turn."""
        self.hand.put(1)
        self.hand.put_lazily(2)
        self.hand.put(3)
        assert self.batches == []
        self.clock.advance(0)
        assert self.batches == [[1, 2, 3]]

    def test_what_nobody_waits_for_is_done_within_a_second(self) -> None:
        """When nothing else comes along."""
        self.hand.put_lazily(1)
        self.clock.advance(LAZINESS / 2)
        self.hand.put_lazily(2)
        assert self.batches == []
        self.clock.advance(LAZINESS / 2)
        self.clock.advance(0)
        assert self.batches == [[1, 2]]
        self.clock.advance(10 * LAZINESS)
        assert self.batches == [[1, 2]] and self.clock.getDelayedCalls() == []

    def test_rest_comes_after_what_was_put_before(self) -> None:
        """Lazy or not."""
        self.hand.put_lazily(1)
        rested = self.hand.rest()
        self.assertNoResult(rested)
        self.clock.advance(0)
        self.successResultOf(rested)
        assert self.batches == [[1]]

    def test_close_does_what_waits_and_leaves_no_timer(self) -> None:
        """And what is put afterwards starts nothing."""
        self.hand.put_lazily(1)
        self.hand.put(2)
        self.successResultOf(self.hand.close())
        assert self.batches == [[1, 2]]
        self.hand.put(3)
        self.hand.put_lazily(4)
        assert self.clock.getDelayedCalls() == []

    def test_slow_work_takes_a_thread_and_nothing_is_lost_on_the_way(self) -> None:
        """A disk that holds the reactor up is worked on aside from then on, in the same order; quick work never is."""
        now = [0.0]
        slow = [0.001]
        done: list[int] = []
        threads: set[str] = set()
        told = threading.Event()

        def work(entries: list[int]) -> None:
            now[0] += slow[0]
            done.extend(entries)
            threads.add(threading.current_thread().name)
            if 1004 in entries:
                told.set()

        hand: Hand[int] = Hand(
            "aside", work, self.bugs.append, self.clock.callLater, lambda call, *args: call(*args), False, True,
            clock=lambda: now[0], robbed=lambda: 0.0,
        )  # fmt: skip
        for number in range(1000):
            hand.put(number)
            self.clock.advance(0)
        assert threads == {threading.main_thread().name}
        slow[0] = QUICK + HELD_UP + 0.001
        hand.put(1000)
        self.clock.advance(0)
        slow[0] = 0.0
        for number in range(1001, 1005):
            hand.put(number)
        assert told.wait(10)
        assert done == list(range(1005)) and "aside" in threads and self.bugs == []
        ended = hand.close()
        while not ended.called:
            time.sleep(0.001)

    def test_time_in_which_others_had_the_core_is_not_the_disks(self) -> None:
        """A machine that is busy is no reason for a thread, which would only wait for its turn as well."""
        now, others = [0.0], [0.0]
        threads: set[str] = set()

        def work(entries: list[int]) -> None:
            now[0] += HELD_UP
            others[0] += HELD_UP - QUICK / 2
            threads.add(threading.current_thread().name)

        hand: Hand[int] = Hand(
            "aside", work, self.bugs.append, self.clock.callLater, lambda call, *args: call(*args), False, True,
            clock=lambda: now[0], robbed=lambda: others[0],
        )  # fmt: skip
        for number in range(100):
            hand.put(number)
            self.clock.advance(0)
        assert threads == {threading.main_thread().name}

    def test_a_busy_reactor_gathers_more_before_the_work_and_not_for_long(self) -> None:
        """What comes in within GATHERING shares the work; where nothing is ready any more, it is done at once."""
        now, busy = [0.0], [True]
        calls: list[DelayedCall] = []

        def turn() -> None:
            due = calls[:]
            calls.clear()
            for call in due:
                call.func()

        def later(seconds: float, call: Any) -> DelayedCall:
            calls.append(DelayedCall(seconds, call, (), {}, calls.remove, lambda _: None))
            return calls[-1]

        hand: Hand[int] = Hand(
            "test", self.batches.append, self.bugs.append, later, lambda call: call(), False,
            busy=lambda: busy[0], clock=lambda: now[0],
        )  # fmt: skip
        for number in range(5):
            hand.put(number)
            turn()
            now[0] += GATHERING / 4
        assert self.batches == [[0, 1, 2, 3, 4]]
        hand.put(5)
        turn()
        assert self.batches == [[0, 1, 2, 3, 4]]
        busy[0] = False
        turn()
        assert self.batches == [[0, 1, 2, 3, 4], [5]]
        busy[0] = True
        hand.put(6)
        turn()
        self.successResultOf(hand.close())
        assert self.batches[2:] == [[6]]

    def test_linux_tells_how_long_others_had_the_core(self) -> None:
        """A number of seconds that never falls."""
        first = robbed()
        assert 0.0 <= first <= robbed()

    def test_a_bug_is_told_and_the_hand_goes_on(self) -> None:
        """An exception that the work should not raise does not end the work."""
        done: list[int] = []

        def work(entries: list[int]) -> None:
            if entries == [1]:
                raise TypeError("a bug")
            done.extend(entries)

        hand: Hand[int] = Hand("test", work, self.bugs.append, self.clock.callLater, lambda call: call(), False)
        for number in (1, 2):
            hand.put(number)
            self.clock.advance(0)
        assert done == [2]
        assert [bug.type for bug in self.bugs] == [TypeError]


class Threaded(TestCase):
    """A hand with a thread of its own."""

    def make(self, work: Any) -> Hand[int]:
        """A hand that does `work`."""
        bugs: list[Failure] = []
        later, from_thread = reactor.callLater, reactor.callFromThread  # type: ignore[attr-defined]
        hand: Hand[int] = Hand("test", work, bugs.append, later, from_thread, True)
        hand.start()
        return hand

    async def test_everything_is_done_once_and_in_order_away_from_the_reactor(self) -> None:
        """What comes while work is done is done next, all together."""
        done: list[int] = []
        batches: list[str] = []

        def work(entries: list[int]) -> None:
            done.extend(entries)
            batches.append(threading.current_thread().name)

        hand = self.make(work)
        for number in range(5000):
            (hand.put_lazily if number % 7 == 0 else hand.put)(number)
        await hand.rest()
        assert done == list(range(5000))
        assert set(batches) == {"test"}
        await hand.close()

    async def test_reports_come_back_on_the_reactors_thread(self) -> None:
        """As many as there are, in order, and before the rest."""
        told: list[tuple[int, str]] = []
        main = threading.current_thread().name

        def work(entries: list[int]) -> None:
            for number in entries:
                hand.tell(lambda number=number: told.append((number, threading.current_thread().name)))

        hand = self.make(work)
        for number in range(100):
            hand.put(number)
        await hand.rest()
        assert told == [(number, main) for number in range(100)]
        await hand.close()

    async def test_one_entry_wakes_a_hand_that_rests(self) -> None:
        """However long it has rested."""
        answers: list[Deferred[int]] = []

        def work(entries: list[int]) -> None:
            for number in entries:
                hand.tell(answers[number].callback, number)

        hand = self.make(work)
        for number in range(200):
            answers.append(Deferred())
            hand.put(number)
            assert await answers[number] == number
        await hand.close()
