"""The commands over failed log-ins: who is refused, and the end of a refusal.

The counts are the host's, so that one worker answers for all. Where clients cannot log in there is nothing to tell.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relaymta.admin.control import Arguments, Command, CommandError, Rows
from relaymta.policy.bruteforce import BruteForce


class AuthCommands:
    """`guard` gives the counts that are in force, or None."""

    def __init__(self, guard: Callable[[], BruteForce | None]) -> None:
        self._guard = guard

    def table(self) -> dict[str, Command]:
        """The commands by name."""
        return {"auth.list": self.list, "auth.unlock": self.unlock}

    def list(self, _: Arguments) -> Rows | Deferred[Rows]:
        """Every address and account with failures that count now; `account` null is the address as a whole."""
        guard = self._guard()
        if guard is None:
            return []

        def show(rows: Any) -> Rows:
            return [attrs.asdict(row) for row in rows]

        return guard.rows().addCallbacks(show, _explain)

    def unlock(self, arguments: Arguments) -> Rows | Deferred[Rows]:
        """Forget what counts against an address or an account."""
        what = arguments.get("what")
        if not isinstance(what, str) or not what:
            raise CommandError("say what to unlock: an address or an account")
        guard = self._guard()
        if guard is None:
            raise CommandError("no listener lets clients log in")

        def show(counts: tuple[int, int]) -> Rows:
            return [{"unlocked": what, "refusals": counts[0], "offences": counts[1]}]

        return guard.unlock(what).addCallbacks(show, _explain)


def _explain(failure: Failure) -> Rows:
    failure.trap(sqlite3.Error)
    raise CommandError(f"the failures cannot be read: {failure.getErrorMessage()}")
