"""The turn of the reactor: what is ready is served, and nothing else is done for each event.

Twisted's own turn makes a logging context for every event, in which whatever is logged bears the prefix of the
transport that it came from: a twentieth of what a small message costs, for a prefix that our log does not have.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.epollreactor import EPollReactor


class _Turn:
    """One turn after the other of a reactor that polls with epoll. `served` is how many events the last one had."""

    def __init__(self, reactor: Any) -> None:
        self._poll = reactor._poller.poll
        self._serve = reactor._doReadOrWrite
        self._selectables = reactor._selectables
        self.served = 0

    def __call__(self, timeout: float | None) -> None:
        """Wait for events, `timeout` seconds at most (None: for ever), and serve them."""
        selectables, serve = self._selectables, self._serve
        try:
            events = self._poll(-1 if timeout is None else timeout, len(selectables))
        except OSError as error:
            if error.errno == errno.EINTR:
                return
            raise
        self.served = len(events)
        for descriptor, event in events:
            selectable = selectables.get(descriptor)  # one that an earlier event ended is not there any more
            if selectable is not None:
                serve(selectable, descriptor, event)


def lighten(reactor: Any) -> None:
    """Have a reactor that polls with epoll serve its events without contexts; any other is left as it is.

    What a descriptor raises is logged and ends that descriptor, as before.
    """
    if type(reactor) is EPollReactor:
        ours: Any = reactor
        ours.doIteration = _Turn(reactor)


def busy(reactor: Any) -> Callable[[], bool]:
    """Whether there was something to do in the last turn, so that more is likely to be ready; never, where unknown."""
    turn = getattr(reactor, "doIteration", None)
    return (lambda: turn.served > 0) if isinstance(turn, _Turn) else lambda: False
