"""What an event is, and who listens: the log, the metrics and the console are ears.

Nothing here formats or writes.
"""

from __future__ import annotations

from collections.abc import Callable


class Event:
    """What all events are. The first field is the id that ties lines together."""

    __slots__ = ()


Ear = Callable[[Event], None]


class Ears:
    """Who listens. `tell` costs one loop over a tuple; an ear that fails is told of and never hurts mail."""

    def __init__(self, complain: Callable[[], None] = lambda: None) -> None:
        self._ears: tuple[Ear, ...] = ()
        self._complain = complain

    def add(self, ear: Ear) -> None:
        """Let `ear` hear every event from now on."""
        self._ears = (*self._ears, ear)

    def remove(self, ear: Ear) -> None:
        """Let `ear` hear no more."""
        self._ears = tuple(known for known in self._ears if known is not ear)

    def tell(self, event: Event) -> None:
        """Hand `event` to every ear."""
        for ear in self._ears:
            try:
                ear(event)
            except Exception:  # noqa: BLE001 a broken ear must not turn a 250 into a 451
                self._complain()
