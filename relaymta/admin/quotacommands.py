"""The commands over quotas: what each account has sent, and to let one begin anew."""

from __future__ import annotations

import sqlite3
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relaymta.admin.control import Arguments, Command, CommandError, Rows
from relaymta.policy.quota import Quotas


class QuotaCommands:
    """Reads and resets what the host has counted; every worker answers alike."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    def table(self) -> dict[str, Command]:
        """The commands by name."""
        return {"quota.list": self.listing, "quota.reset": self.reset}

    def listing(self, _: Arguments) -> Deferred[Rows]:
        """A row for each account that has sent in the last day."""

        def rows(found: list[dict[str, object]]) -> Rows:
            return found

        return self._quotas.listing().addCallbacks(rows, _explain)

    def reset(self, arguments: Arguments) -> Deferred[Rows]:
        """Forget what an account has sent."""
        account = arguments.get("account")
        if not isinstance(account, str) or not account:
            raise CommandError("say which account")

        def rows(changed: bool) -> Rows:
            return [{"account": account, "changed": changed}]

        return self._quotas.reset(account).addCallbacks(rows, _explain)


def _explain(failure: Failure) -> Any:
    failure.trap(sqlite3.Error, OSError)
    raise CommandError(f"the quotas cannot be looked up: {failure.getErrorMessage()}")
