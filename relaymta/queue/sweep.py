"""The sweep: finds what is too old, wherever it waits, whatever its lane does.

Expiry belongs to the message and not to its next attempt. Queue ids sort by the time of acceptance, so that tickets
that are young are passed over without being opened; what was opened in vain is remembered until its own time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relaymta.mail.queueid import IdMaker
from relaymta.queue.manager import Manager

EVERY = 60.0  # seconds between two sweeps
SLICE = 20  # files opened, or messages given up, at a time: a few milliseconds
PAUSE = 0.05  # seconds until a sweep goes on that was asked to wait
LOOKBACK = 3600.0  # seconds before the start for which delays that fell due meanwhile are told; ours


class Sweep:
    """The sweeps of one shard.

    `look` is called at the start of each. `give_up` is called with the queue id of each message whose lifetime is over
    or whose delay is to be told; while `busy` says so, the sweep waits.
    """

    def __init__(
        self,
        manager: Manager,
        clock: IReactorTime,
        look: Callable[[], None],
        give_up: Callable[[str], None],
        busy: Callable[[], bool],
    ) -> None:
        self._manager = manager
        self._clock = clock
        self._look = look
        self._give_up = give_up
        self._busy = busy
        self._spared: dict[str, float] = {}
        self._warned_to = ""
        self._later: dict[str, float] = {}
        self._found: Iterator[str | None] | None = None
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Sweep every EVERY seconds from now on."""
        self._timer = self._clock.callLater(EVERY, self._begin)

    def stop(self) -> None:
        """Look no further."""
        self._found = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self._timer = self._clock.callLater(EVERY, self._begin)
        self._look()
        if self._found is None:  # else the last sweep is still under way
            self._found = self._find(self._clock.seconds())
            self._go_on()

    def _go_on(self) -> None:
        found = self._found
        if found is None:
            return
        if self._busy():
            self._clock.callLater(PAUSE, self._go_on)
            return
        for _ in range(SLICE):
            try:
                queue_id = next(found)
            except StopIteration:
                self._found = None
                return
            if queue_id is not None:
                self._give_up(queue_id)
        self._clock.callLater(0, self._go_on)

    def _find(self, now: float) -> Iterator[str | None]:
        """What is too old, or late; None is a moment to pause."""
        self._spared = {i: until for i, until in self._spared.items() if until > now}
        yield from self._expired(now)
        yield from self._late(now)
        for queue_id, message in tuple(self._manager.live.items()):
            if min(self._manager.expires(message), self._manager.warns(message)) <= now:
                yield queue_id

    def _expired(self, now: float) -> Iterator[str | None]:
        manager = self._manager
        for ids in manager.timeline.older("", _stamp(now - manager.settings.expire)):
            yield None
            for queue_id in ids:
                if queue_id in self._spared:
                    continue
                message = manager.peek(queue_id)
                if message is None:
                    continue
                if manager.expires(message) <= now:
                    yield queue_id
                else:
                    self._spared[queue_id] = manager.expires(message)
                    yield None

    def _late(self, now: float) -> Iterator[str | None]:
        """Each message is opened in the sweep after its delay would be one to tell, and when it is: what was released
        later than it came has more time."""
        manager = self._manager
        due = [queue_id for queue_id, at in self._later.items() if at <= now]
        for queue_id in due:
            del self._later[queue_id]
            yield queue_id if self._is_late(queue_id, now) else None
        if not manager.settings.warn_after:
            return
        late = now - manager.settings.warn_after
        after, self._warned_to = self._warned_to or _stamp(late - LOOKBACK), _stamp(late)
        for ids in manager.timeline.older(after, self._warned_to):
            yield None
            for queue_id in ids:
                yield queue_id if self._is_late(queue_id, now) else None

    def _is_late(self, queue_id: str, now: float) -> bool:
        message = self._manager.peek(queue_id)
        at = inf if message is None else self._manager.warns(message)
        if now < at < inf:
            self._later[queue_id] = at
        return at <= now


def _stamp(seconds: float) -> str:
    """What ids made at that POSIX time begin with."""
    return IdMaker(lambda: max(seconds, 0.0)).next()[:-1]
