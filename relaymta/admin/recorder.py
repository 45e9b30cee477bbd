"""The recorder: the last events of this process in memory, so that `relaymta trace` can tell a message's story.

It costs one append for each event; searching is done when somebody asks. What happened before the oldest
event here is left to the log, and what waits to the queue file, which tells its own story.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from relaymta.events import (
    Authenticated,
    AuthenticationFailed,
    Event,
    MessageAccepted,
    NoticeQueued,
    QuotaExceeded,
    SessionRefused,
    TlsFailed,
    TlsStarted,
)

EVENTS_MAX = 20_000  # ours: about 8 MB
# what `relaymta stats` counts of clients, by its name there: things that go wrong by night
COUNTED: dict[type[Event], str] = {
    SessionRefused: "turned_away",
    TlsStarted: "under_tls",
    TlsFailed: "tls_failed",
    Authenticated: "logged_in",
    AuthenticationFailed: "logins_failed",
    QuotaExceeded: "over_quota",
}


class Recorder:
    """An ear with a memory of `size` events. `clock` gives POSIX time in seconds. `counts`: how many, of some."""

    def __init__(self, clock: Callable[[], float], size: int = EVENTS_MAX) -> None:
        self._clock = clock
        self._events: deque[tuple[float, Event]] = deque(maxlen=size)
        self.counts = dict.fromkeys(COUNTED.values(), 0)

    def __call__(self, event: Event) -> None:
        """Remember one event."""
        self._events.append((self._clock(), event))
        counted = COUNTED.get(type(event))
        if counted is not None:
            self.counts[counted] += 1

    def trace(self, identity: str) -> Iterator[tuple[float, Event]]:
        """What is remembered of a queue id or a session id, oldest first, as (POSIX time, event).

        A queue id brings its session's events and the notices that were made for it.
        """
        if not identity:
            return
        wanted = {identity}
        for _, event in self._events:
            if isinstance(event, MessageAccepted) and event.id == identity and event.session:
                wanted.add(event.session)
            elif isinstance(event, NoticeQueued) and event.id == identity:
                wanted.add(event.notice)
        for at, event in tuple(self._events):
            if identity_of(event) in wanted:
                yield at, event


def identity_of(event: Event) -> str:
    """The session id or queue id that an event belongs to, or ""."""
    found = getattr(event, "id", None) or getattr(event, "session", None)
    return found if isinstance(found, str) else ""
