"""The counts of failed log-ins on a real database, whose thread is waited for without sleeping."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from relaymta.config import Duration
from relaymta.policy.bruteforce import SCHEMA, BruteForce
from relaymta.policy.settings import AuthSettings
from relaymta.store.state import State

NOW = 1_790_000_000.0
SETTINGS = AuthSettings(offences=6, offences_per_account=3, within=Duration(60.0), refuse=Duration(100.0))


class CountedState(State):
    """Knows how much of its work is not yet told of; `settle` tells of it."""

    def __init__(self, path: Path) -> None:
        self._calls: SimpleQueue[Any] = SimpleQueue()
        self._pending = 0
        self.broken: Exception | None = None
        super().__init__(str(path), SCHEMA, lambda *call: self._calls.put(call))

    def run(self, work: Callable[[sqlite3.Connection], Any]) -> Deferred[Any]:
        self._pending += 1
        broken = self.broken

        def fail(_: sqlite3.Connection) -> Any:
            assert broken is not None
            raise broken

        return super().run(work if broken is None else fail)

    def settle(self) -> None:
        """Wait for what was asked, and for what was asked because of that."""
        while self._pending:
            call, *facts = self._calls.get(timeout=20)
            self._pending -= 1
            call(*facts)


class Rig:
    """Counts with a clock."""

    def __init__(self, path: Path, settings: AuthSettings = SETTINGS) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.state = CountedState(path)
        self.guard = BruteForce(self.state, settings, self.clock.seconds)

    @property
    def now(self) -> float:
        """POSIX time."""
        return self.clock.seconds()

    def done(self, waiting: Deferred[Any]) -> Any:
        """What a Deferred fires with, after the thread's work."""
        found: list[Any] = []
        waiting.addBoth(found.append)
        self.state.settle()
        if hasattr(found[0], "raiseException"):
            found[0].raiseException()
        return found[0]

    def fail(self, client: str, account: str, secret: bytes | None, *, exempt: bool = False) -> Any:
        """Count a failure."""
        return self.done(self.guard.failed(client, account, secret, exempt=exempt))

    def refused(self, client: str, account: str) -> Any:
        """Whether somebody is refused."""
        return self.done(self.guard.refusal(client, account))
