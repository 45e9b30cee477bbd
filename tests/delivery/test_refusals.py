"""What all workers know of our log-ins at next hops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from twisted.internet.defer import Deferred

from relaymta.delivery.refusals import GOOD_FOR, ONE_START, SCHEMA, TRIED_WITHIN, Refusal, Refusals, Standing
from relaymta.store.state import State

KEY = ("site", "b.site.test", 587)
MARK, OTHER = b"one", b"another"


@define
class Clock:
    """The time."""

    now: float = 1000.0

    def seconds(self) -> float:
        """POSIX time."""
        return self.now


def done(deferred: Deferred[Any]) -> Any:
    """Wait for the thread; its callbacks run there, since there is no reactor."""
    future: Future[Any] = Future()
    deferred.addCallbacks(future.set_result, future.set_exception)
    return future.result(10)


@pytest.fixture
def clock() -> Clock:
    """A clock that a test moves."""
    return Clock()


@pytest.fixture
def workers(tmp_path: Path, clock: Clock) -> Iterator[list[Refusals]]:
    """Two workers over one database."""

    def call(function: Callable[..., object], *arguments: object) -> None:
        function(*arguments)

    made = [Refusals(State(str(tmp_path / "logins.sqlite"), SCHEMA, call), clock.seconds) for _ in range(2)]
    yield made
    for one in made:
        one.close()


def ask(worker: Refusals, mark: bytes = MARK, tries: bool = True) -> Standing:
    """What it is told."""
    found: Standing = done(worker.ask(KEY, mark, tries=tries))
    return found


def test_one_tries_and_the_others_wait(workers: list[Refusals], clock: Clock) -> None:
    """The first one has the turn until it says what came of it, or for a minute."""
    one, other = workers
    assert ask(other, tries=False) == ask(one) == Standing(None, True)
    assert ask(other) == Standing(None, False)
    done(one.left(KEY))
    assert ask(other) == Standing(None, True) and not ask(one).may
    clock.now += TRIED_WITHIN
    assert ask(one).may


def test_a_refusal_is_everybodys(workers: list[Refusals], clock: Clock) -> None:
    """Nobody tries before its time is over, then one, who knows how often it was refused; another secret is another."""
    one, other = workers
    ask(one)
    refusal = Refusal(MARK, clock.now, clock.now + 60, 1, "535 no")
    done(one.refused(KEY, refusal))
    assert ask(other) == Standing(refusal, False)
    assert ask(other, OTHER, tries=False) == Standing(None, True)
    clock.now += 60
    assert ask(other) == Standing(refusal, True) and not ask(one).may
    assert ask(one, OTHER) == Standing(None, True)


def test_after_a_log_in_all_may(workers: list[Refusals], clock: Clock) -> None:
    """For some minutes nobody waits for anybody; then the secret is one that has not been tried."""
    one, other = workers
    ask(one)
    done(one.taken(KEY, MARK))
    assert ask(one).may and ask(other).may and ask(one).may
    clock.now += GOOD_FOR
    assert ask(one).may and not ask(other).may


def test_a_reload_tries_again_once(workers: list[Refusals], clock: Clock) -> None:
    """The workers of one start forget what was refused before it, and not what one of them was refused since."""
    one, other = workers
    done(one.refused(KEY, Refusal(MARK, clock.now, clock.now + 3600, 4, "535 no")))
    clock.now += ONE_START + 1
    done(one.begin())
    assert ask(one) == Standing(None, True)
    again = Refusal(MARK, clock.now, clock.now + 60, 1, "535 no")
    done(one.refused(KEY, again))
    clock.now += 1
    done(other.begin())
    assert ask(other) == Standing(again, False)
