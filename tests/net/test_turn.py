"""The lightened turn of a reactor, on pipes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.python import log

from relaymta.net.turn import busy, lighten


class Ear:
    """Reads one pipe, does what it is told, and knows why it ended."""

    def __init__(self, reactor: Any, act: Any = None) -> None:
        self.end, self.other = os.pipe()
        self.heard: list[bytes] = []
        self.lost: list[Any] = []
        self.act = act
        reactor.addReader(self)

    def fileno(self) -> int:
        return self.end

    def logPrefix(self) -> str:
        raise AssertionError("nobody needs a prefix")

    def doRead(self) -> None:
        self.heard.append(os.read(self.end, 100))
        if self.act is not None:
            self.act()

    def connectionLost(self, reason: Any) -> None:
        self.lost.append(reason)


@pytest.fixture
def reactor() -> Iterator[Any]:
    """A reactor of its own, lightened, and not installed."""
    made = EPollReactor()
    lighten(made)
    yield made
    made.removeAll()
    made._poller.close()


def test_all_that_is_ready_is_served_in_one_turn(reactor: Any) -> None:
    """Events reach their descriptors, without a logging context."""
    ears = [Ear(reactor), Ear(reactor)]
    for ear in ears:
        os.write(ear.other, b"x")
    reactor.doIteration(0)
    reactor.doIteration(0)
    assert [ear.heard for ear in ears] == [[b"x"], [b"x"]]


def test_who_was_ended_by_another_in_the_same_turn_is_not_served(reactor: Any) -> None:
    """An event of a descriptor that is not watched any more is dropped."""
    ears: list[Ear] = []
    ears += [Ear(reactor, lambda: reactor.removeReader(ears[1])), Ear(reactor, lambda: reactor.removeReader(ears[0]))]
    for ear in ears:
        os.write(ear.other, b"x")
    reactor.doIteration(0)
    assert sum(len(ear.heard) for ear in ears) == 1


def test_an_exception_ends_one_descriptor_and_is_logged(reactor: Any) -> None:
    """As in the stock turn: the others go on."""

    def fail() -> None:
        raise RuntimeError("a bug")

    events: list[Any] = []
    log.addObserver(events.append)
    bad, good = Ear(reactor, fail), Ear(reactor)
    try:
        for ear in (bad, good):
            os.write(ear.other, b"x")
        reactor.doIteration(0)
        os.write(good.other, b"y")
        reactor.doIteration(0)
    finally:
        log.removeObserver(events.append)
    assert b"".join(good.heard) == b"xy"
    assert [type(reason.value) for reason in bad.lost] == [RuntimeError]
    assert [str(event["failure"].value) for event in events] == ["a bug"]


def test_timed_calls_are_made_as_before(reactor: Any) -> None:
    """The main loop makes the turn; what is due is called in between."""
    called: list[str] = []
    reactor.callLater(0, called.append, "now")
    reactor.callLater(0.01, reactor.stop)
    reactor.run(installSignalHandlers=False)
    assert called == ["now"]


def test_another_kind_of_reactor_is_left_as_it_is() -> None:
    """Only epoll's turn is known here."""
    other = SelectReactor()
    lighten(other)
    assert "doIteration" not in vars(other)


def test_who_asks_hears_whether_the_last_turn_had_anything_to_do(reactor: Any) -> None:
    """Of a lightened reactor; of another nobody knows."""
    ear, asked = Ear(reactor), busy(reactor)
    assert not asked()
    os.write(ear.other, b"x")
    reactor.doIteration(0)
    assert asked()
    reactor.doIteration(0)
    assert not asked()
    assert not busy(SelectReactor())()
