"""What this host knows of its log-ins at next hops, for all of its workers: who tries now, and who was refused.

A wrong password is tried once by the host and not once by each worker: few servers let anybody be wrong ten times. For
the same reason a first log-in is one worker's, while the others wait for what comes of it. The rows are in a database
of store.state; where that cannot be had, each worker is on its own. How long a refusal counts is left to login.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred

from relaymta.store.state import State

T = TypeVar("T")
Key = tuple[str, str, int]  # the account's name, the host and its port

TRIED_WITHIN = 60.0  # seconds that one who tries is waited for; ours
GOOD_FOR = 300.0  # seconds after a log-in in which other workers may log in at once; ours
ONE_START = 10.0  # seconds in which all workers of one start or reload have begun; ours

SCHEMA = """
CREATE TABLE IF NOT EXISTS login (
    account TEXT NOT NULL,
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    mark BLOB NOT NULL,
    at REAL NOT NULL,
    until REAL NOT NULL,
    count INTEGER NOT NULL,
    reason TEXT NOT NULL,
    trying REAL NOT NULL,
    good REAL NOT NULL,
    PRIMARY KEY (account, host, port)
) WITHOUT ROWID
"""
_WHERE = "WHERE account = ? AND host = ? AND port = ?"


@frozen(slots=True)
class Refusal:
    """The `count`th in a row of the secret that has the `mark`; it is not tried before `until`."""

    mark: bytes
    at: float
    until: float
    count: int
    reason: str


@frozen(slots=True)
class Standing:
    """What is known: the last refusal of this secret, and whether the one who asked may try now."""

    refusal: Refusal | None
    may: bool


class Refusals:
    """The rows. `seconds` gives POSIX time. All Deferreds fail with sqlite3.Error where the database cannot be had."""

    def __init__(self, state: State, seconds: Callable[[], float]) -> None:
        self._state = state
        self._seconds = seconds

    def ask(self, key: Key, mark: bytes, *, tries: bool) -> Deferred[Standing]:
        """How things stand; who `tries` and may do so has the turn, until one of the next three ends it."""
        now = self._seconds()

        def work(rows: sqlite3.Connection) -> Standing:
            row = rows.execute(
                f"SELECT mark, at, until, count, reason, trying, good FROM login {_WHERE}", key
            ).fetchone()
            refusal, may = None, True
            if row is not None and row[0] == mark:
                refusal = Refusal(*row[:5]) if row[3] else None
                trying, good = row[5:]
                if good and now - good < GOOD_FOR:
                    return Standing(None, True)
                may = trying <= now and (refusal is None or refusal.until <= now)
            elif tries:
                rows.execute("INSERT OR REPLACE INTO login VALUES (?, ?, ?, ?, ?, 0, 0, '', 0, 0)", (*key, mark, now))
            if tries and may:
                rows.execute(f"UPDATE login SET trying = ? {_WHERE}", (now + TRIED_WITHIN, *key))
            return Standing(refusal, may)

        return self._state.run(work)

    def refused(self, key: Key, refusal: Refusal) -> Deferred[None]:
        """It was refused."""
        row = (*key, refusal.mark, refusal.at, refusal.until, refusal.count, refusal.reason)
        return self._do("INSERT OR REPLACE INTO login VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0)", row)

    def taken(self, key: Key, mark: bytes) -> Deferred[None]:
        """It was taken."""
        row = (*key, mark, self._seconds())
        return self._do("INSERT OR REPLACE INTO login VALUES (?, ?, ?, ?, 0, 0, 0, '', 0, ?)", row)

    def left(self, key: Key) -> Deferred[None]:
        """It came to no answer: the next one may try."""
        return self._do(f"UPDATE login SET trying = 0 {_WHERE}", key)

    def begin(self) -> Deferred[None]:
        """A start or a reload: what was refused before it may be tried again, once for all workers that begin now."""
        return self._do("DELETE FROM login WHERE at < ? AND count > 0 AND trying = 0", (self._seconds() - ONE_START,))

    def close(self) -> None:
        """Let go of the database; to be called once."""
        self._state.close()

    def _do(self, statement: str, values: tuple[object, ...]) -> Deferred[None]:
        def work(rows: sqlite3.Connection) -> None:
            rows.execute(statement, values)

        return self._state.run(work)
