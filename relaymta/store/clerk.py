"""The clerk: does the work on files in the order in which it was asked for, and puts new files in place in batches.

A slow fsync of a large message delays other files and never the journal, which has a hand of its own.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relaymta.store.hands import Delayed, Hand
from relaymta.store.shelf import Placement, Shelf

BATCH = 128  # files put in place together; ours: more gains little and makes the first ones wait

Done = Callable[[OSError | None], None]


@frozen(slots=True)
class Errand:
    """A placement or a call, and who hears on the reactor's thread what came of it."""

    placement: Placement | None
    call: Callable[[], None] | None
    done: Done


class Clerk:
    """Works on a shelf with one hand."""

    def __init__(
        self,
        shelf: Shelf,
        broken: Callable[[Failure], None],
        call_later: Callable[..., Delayed],
        call_from_thread: Callable[..., object],
        threaded: bool,
    ) -> None:
        self._shelf = shelf
        self._hand: Hand[Errand] = Hand(
            "spool files", self._work, broken, call_later, call_from_thread, threaded
        )
        self._told = 0  # of the errands under way
        self.start = self._hand.start
        self.rest = self._hand.rest
        self.close = self._hand.close

    def place(self, placement: Placement, done: Done) -> None:
        """Put a file in place, with others that wait for the same."""
        self._hand.put(Errand(placement, None, done))

    def call(self, call: Callable[[], None], done: Done) -> None:
        """Have `call` made; OSError is told to `done`."""
        self._hand.put(Errand(None, call, done))

    def ask(self, call: Callable[[], None]) -> Deferred[None]:
        """Have `call` made; fires with None or the exception that it raised, whichever."""
        answer: Deferred[None] = Deferred()

        def ask() -> None:
            try:
                call()
            except Exception:  # noqa: BLE001 - handed to whoever asked
                self._hand.tell(answer.errback, Failure())
            else:
                self._hand.tell(answer.callback, None)

        self.call(ask, _ignore)
        return answer

    def _work(self, errands: list[Errand]) -> None:
        self._told = 0
        try:
            self._do(errands)
        except Exception as bug:
            self._report([(errand.done, _as_error(bug)) for errand in errands[self._told :]])
            raise

    def _do(self, errands: list[Errand]) -> None:
        placing: list[tuple[Placement, Done]] = []
        called: list[tuple[Done, OSError | None]] = []
        for errand in errands:
            if errand.placement is not None:
                placing.append((errand.placement, errand.done))
            if placing and (errand.call is not None or len(placing) == BATCH):
                self._report(called)
                self._place(placing)
                called, placing = [], []
            if errand.call is not None:
                called.append((errand.done, _outcome(errand.call)))
        self._report(called)
        self._place(placing)

    def _place(self, placing: list[tuple[Placement, Done]]) -> None:
        if placing:
            outcomes = self._shelf.place([placement for placement, _ in placing])
            self._report([(done, outcome) for (_, done), outcome in zip(placing, outcomes, strict=True)])

    def _report(self, outcomes: list[tuple[Done, OSError | None]]) -> None:
        if outcomes:
            self._told += len(outcomes)
            self._hand.tell(_tell, outcomes)


def _outcome(call: Callable[[], None]) -> OSError | None:
    try:
        call()
    except OSError as error:
        return error
    return None


def _as_error(bug: Exception) -> OSError:
    return OSError(errno.EIO, f"a bug in the spool: {bug!r}")


def _tell(outcomes: list[tuple[Done, OSError | None]]) -> None:
    for done, error in outcomes:
        done(error)


def _ignore(error: OSError | None) -> None:
    """The answer goes another way."""
