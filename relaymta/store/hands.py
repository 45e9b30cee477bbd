"""Hands: whoever does the slow work, on a thread of its own or at the end of the reactor's turn.

A hand takes all that waits at once; what comes in the meantime waits for the next time. Results come back to the
reactor's thread, one call for as many as there are.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")
E = TypeVar("E")
LAZINESS = 1.0  # seconds that what nobody waits for may stay unwritten
QUICK = 0.002  # seconds that work on the reactor's thread may take; ours, ten times a sync of a good disk
GATHERING = 0.002  # seconds that work waits at most for what else is coming in; ours, a few messages' time
HELD_UP = 0.05  # seconds beyond that, forgotten a hundredth with each quick one, until a thread is taken; ours


@cache
def _schedstat() -> int:
    return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)


def robbed() -> float:
    """Seconds in all for which this thread could have run and others had its core, as Linux counts them; else 0.

    To be called on one thread only: the descriptor is that of the first caller, and is kept.
    """
    with suppress(OSError, ValueError, IndexError):
        return int(os.pread(_schedstat(), 64, 0).split()[1]) * 1e-9
    return 0.0


class Delayed(Protocol):
    """A call that the reactor will make."""

    def cancel(self) -> object:
        """Not any more."""

    def active(self) -> bool:
        """Whether it is still to be made."""


class Hand(Generic[T]):
    """Calls `work(entries)` with all that waits, in order, again and again.

    Threaded, it works on a thread of its own and `tell` goes through `call_from_thread`; else it works in
    `call_later(0, ...)`: without the change of threads, which costs more than a quick disk does. As long as the reactor
    is `busy` it waits for what else is coming in, GATHERING at most. With `hires` it takes a thread once its work has
    held up the reactor for too long (HELD_UP), and keeps it; time in which others had the core (`robbed`) is not the
    work's. `broken` is told, on the reactor's thread, when the work raised what it should not.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[T]], None],
        broken: Callable[[Failure], None],
        call_later: Callable[..., Delayed],
        call_from_thread: Callable[..., object],
        threaded: bool,
        hires: bool = False,
        busy: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        robbed: Callable[[], float] = robbed,
    ) -> None:
        self._name = name
        self._hires = hires
        self._busy = busy
        self._clock = clock
        self._robbed = robbed
        self._held_up = 0.0
        self._since: float | None = None  # when it began to wait for what else is coming in
        self._work = work
        self._broken = broken
        self._call_later = call_later
        self._call_from_thread = call_from_thread
        self._waiting: deque[T] = deque()
        self._awake = False
        self._timer: Delayed | None = None
        self._turn: Delayed | None = None
        self._closed = False
        self._resting: deque[Deferred[None]] = deque()
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._ended: Deferred[None] = Deferred()
        self._thread = self._hired() if threaded else None

    def start(self) -> None:
        """Begin to work."""
        if self._thread is not None:
            self._thread.start()

    def _hired(self) -> Thread:
        return Thread(target=self._run, name=self._name, daemon=True)

    def put(self, entry: T) -> None:
        """Have `entry` done as soon as can be."""
        self._waiting.append(entry)
        if not self._awake and not self._closed:
            self._wake()

    def put_lazily(self, entry: T) -> None:
        """Have `entry` done along with what comes next, or within LAZINESS."""
        self._waiting.append(entry)
        if self._timer is None and not self._closed:
            self._timer = self._call_later(LAZINESS, self._hurry)

    def tell(self, report: Callable[..., object], *args: Any) -> None:
        """Call `report` on the reactor's thread; for the work to say what came of it."""
        if self._thread is None:
            report(*args)
        else:
            self._call_from_thread(report, *args)

    def rest(self) -> Deferred[None]:
        """Fires on the reactor's thread when all that was put before is done and told."""
        rested: Deferred[None] = Deferred()
        self._resting.append(rested)
        self._wake()
        return rested

    def close(self) -> Deferred[None]:
        """Do what waits, and nothing that is put after that; fires on the reactor's thread when it is done."""
        self._closed = True
        for call in (self._timer, self._turn):
            if call is not None and call.active():
                call.cancel()
        self._timer = self._turn = None
        if self._thread is not None and self._thread.is_alive():
            self._tokens.put(False)
        else:
            self._take()
            self._ended.callback(None)
        return self._ended

    def _wake(self) -> None:
        self._awake = True
        if self._thread is None:
            self._turn = self._turn or self._call_later(0, self._inline)
        else:
            self._tokens.put(True)

    def _hurry(self) -> None:
        self._timer = None
        if self._waiting and not self._awake:
            self._wake()

    def _inline(self) -> None:
        if self._busy() and self._gathers():
            self._turn = self._call_later(0, self._inline)
            return
        self._since = None
        self._turn = None
        self._awake = False
        if not self._hires:
            self._take()
            return
        begun, others = self._clock(), self._robbed()
        self._take()
        took = self._clock() - begun
        if took > QUICK:
            took -= self._robbed() - others
        if took > QUICK:
            self._held_up += took - QUICK
            if self._held_up > HELD_UP and not self._closed and self._thread is None:
                self._hire()
        elif self._held_up:
            self._held_up *= 0.99

    def _gathers(self) -> bool:
        """Whether what waits may wait for more, which then shares its sync."""
        now = self._clock()
        if self._since is None:
            self._since = now
        return now - self._since < GATHERING

    def _hire(self) -> None:
        """Work on a thread from now on. Nothing is being worked on at this moment, for that is done right here."""
        self._thread = self._hired()
        self._thread.start()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
            self._tokens.put(True)

    def _run(self) -> None:
        going = True
        while going:
            going = self._tokens.get()
            # Before the taking: whoever puts an entry in after it wakes us again.
            self._awake = False
            self._take()
        self._call_from_thread(self._ended.callback, None)

    def _take(self) -> None:
        resting = _all(self._resting)  # first: what was put before them is among the entries
        entries = _all(self._waiting)
        try:
            if entries:
                self._work(entries)
        except Exception:  # noqa: BLE001 - a bug must not leave those who wait without an answer
            self.tell(self._broken, Failure())
        for rested in resting:
            self.tell(rested.callback, None)


def _all(queue: deque[E]) -> list[E]:
    return [queue.popleft() for _ in range(len(queue))]
