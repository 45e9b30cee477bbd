"""One timer that is always set to the earliest time anybody asked for."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Alarm:
    """Calls `ring` at the earliest time that was asked for; times are POSIX seconds, by `clock`."""

    def __init__(self, clock: IReactorTime, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._call: IDelayedCall | None = None
        self._at = 0.0
        self._stopped = False

    def at(self, when: float) -> None:
        """Ring at `when` or before."""
        if self._stopped:
            return
        if self._call is not None:
            if self._at <= when:
                return
            self._call.cancel()
        self._at = when
        self._call = self._clock.callLater(max(0.0, when - self._clock.seconds()), self._rings)

    def stop(self) -> None:
        """Never ring again."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _rings(self) -> None:
        self._call = None
        self._ring()
