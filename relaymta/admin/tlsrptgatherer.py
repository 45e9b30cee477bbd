"""The ear that counts TLS sessions for reports (RFC 8460 §4.3): by policy domain, policy and UTC day.

A success costs one step in a dictionary; every now and then what was counted goes to the shelf that all workers
share. What becomes of it is left to tlsrptsender.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python import failure

from relaymta import events
from relaymta.admin.tlsrptshelf import Failure, Key, Shelf
from relaymta.reports.tlsrpt import DAY, TEXT_MAX

FLUSH_SECONDS: Final = 30.0  # until what was counted is on disk; ours
PENDING_MAX: Final = 20_000  # different results in memory; when a slow disk lets them grow beyond, they are lost; ours
SETTLED: Final = 600.0  # seconds after midnight before which no report is made: all workers have written; ours
SPREAD: Final = 4 * 3600.0  # RFC 8460 §4.1: a random delay, that not all the world reports at midnight

DNS: Final = "dns"  # StsPolicyFailed.result where the name server failed: no result type of RFC 8460


class TlsGatherer:
    """An ear. `seconds` gives POSIX time, `call_later` is the reactor's."""

    def __init__(
        self,
        shelf: Shelf,
        seconds: Callable[[], float],
        call_later: Callable[..., IDelayedCall],
        random: Random,
        tell: Callable[[events.Event], None],
    ) -> None:
        self._shelf = shelf
        self._seconds = seconds
        self._call_later = call_later
        self._random = random
        self._tell = tell
        self._successes: dict[Key, int] = {}
        self._failures: dict[tuple[Key, Failure], int] = {}
        self._timer: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None

    def __call__(self, event: events.Event) -> None:
        """Hear one event."""
        if isinstance(event, events.TlsChecked):
            self._count(event)
        elif isinstance(event, events.StsPolicyFailed):
            self._count_policy(event)

    def _count(self, event: events.TlsChecked) -> None:
        day = int(self._seconds()) // DAY
        key = (day, event.domain, event.policy, event.policy_domain, event.terms, event.mx_patterns)
        if not event.result:
            self._successes[key] = self._successes.get(key, 0) + 1
        else:
            self._failed(key, (event.result, event.source, event.mx, event.address, event.reason[:TEXT_MAX]))
        self._wake()

    def _count_policy(self, event: events.StsPolicyFailed) -> None:
        """RFC 8460 §4.3.2.2: a policy that cannot be fetched is told too; there is none to be shown."""
        if event.result != DNS:
            key: Key = (int(self._seconds()) // DAY, event.domain, "sts", "", (), ())
            self._failed(key, (event.result, "", "", "", event.reason[:TEXT_MAX]))
            self._wake()

    def _failed(self, key: Key, failure: Failure) -> None:
        self._failures[key, failure] = self._failures.get((key, failure), 0) + 1

    def _wake(self) -> None:
        if self._timer is None:
            self._timer = self._call_later(FLUSH_SECONDS, self._due)
        elif len(self._successes) + len(self._failures) > PENDING_MAX:
            if self._writing is None:
                self.flush()
            else:
                self._successes.clear()
                self._failures.clear()
                self._tell(events.StateFailed("tlsrpt.sqlite", "too slow: results of TLS sessions are not counted"))

    def _due(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> Deferred[None]:
        """Write what was counted; fires when it is on the shelf. Never fails."""
        if not self._successes and not self._failures:
            return self._after(self._writing)
        successes, self._successes = self._successes, {}
        failures, self._failures = self._failures, {}
        writing = self._writing = self._shelf.add(successes, failures, self._due_of)
        writing.addErrback(self._lost)
        writing.addBoth(self._written, writing)
        return self._after(writing)

    def close(self) -> None:
        """Hand over the rest; the shelf writes it before it closes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()

    def _due_of(self, day: int) -> float:
        return (day + 1) * DAY + SETTLED + self._random.random() * SPREAD

    def _written(self, _: object, writing: Deferred[None]) -> None:
        if self._writing is writing:
            self._writing = None

    def _lost(self, error: failure.Failure) -> None:
        error.trap(sqlite3.Error, OSError)
        self._tell(events.StateFailed("tlsrpt.sqlite", f"results of TLS sessions are lost: {error.getErrorMessage()}"))

    def _after(self, writing: Deferred[Any] | None) -> Deferred[None]:
        """Fires when that write has ended."""
        if writing is None or writing.called:
            return succeed(None)
        waiter: Deferred[None] = Deferred()

        def pass_on(result: Any) -> Any:
            waiter.callback(None)
            return result

        writing.addBoth(pass_on)
        return waiter
