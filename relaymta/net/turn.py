"""The turn of the reactor: what is ready is served, and nothing else is done for each event.

Twisted's own turn makes a logging context for every event, in which whatever is logged bears the prefix of the
transport that it came from: a tenth of what a small message costs, for a prefix that our log does not have.
"""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.epollreactor import EPollReactor


def lighten(reactor: Any) -> None:
    """Have a reactor that polls with epoll serve its events without contexts; any other is left as it is.

    What a descriptor raises is logged and ends that descriptor, as before.
    """
    if type(reactor) is not EPollReactor:
        return
    ours: Any = reactor
    poll, serve, selectables = ours._poller.poll, ours._doReadOrWrite, ours._selectables

    def turn(timeout: float | None) -> None:
        try:
            events = poll(-1 if timeout is None else timeout, len(selectables))
        except OSError as error:
            if error.errno == errno.EINTR:
                return
            raise
        for descriptor, event in events:
            selectable = selectables.get(descriptor)  # one that an earlier event ended is not there any more
            if selectable is not None:
                serve(selectable, descriptor, event)

    ours.doIteration = turn
