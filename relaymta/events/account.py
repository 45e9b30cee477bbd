"""Accounts of ours: who logged in, who could not, who sent too much, and the files that they stand in."""

from __future__ import annotations

from attrs import frozen

from relaymta.events.ears import Event


@frozen(slots=True)
class Authenticated(Event):
    """A client logged in as `account`, by that mechanism."""

    session: str
    client: str
    account: str
    mechanism: str


@frozen(slots=True)
class AuthenticationFailed(Event):
    """A client failed to log in; `name` is who it said it was, where it said so. `failures`: so far, of that client."""

    session: str
    client: str
    name: str
    mechanism: str
    reason: str
    failures: int = 0


@frozen(slots=True)
class QuotaExceeded(Event):
    """A message would be one too many for its account: `limit` ("recipients_per_hour") allows `allowed`.

    `over` is what becomes of it: "hold" or "refuse".
    """

    session: str
    client: str
    account: str
    limit: str
    would_be: int
    allowed: int
    over: str


@frozen(slots=True)
class UsersRead(Event):
    """The file of accounts has changed, and so many accounts are in force."""

    file: str
    accounts: int


@frozen(slots=True)
class UsersBroken(Event):
    """Accounts cannot be read; those of a file that was read before stay in force.

    `file` is the file, or the table of a source that cannot be used.
    """

    file: str
    reason: str
