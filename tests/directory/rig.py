"""Accounts made for a test: cheap hashes, a file, and a portal to log in by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from attrs import evolve
from twisted.cred.credentials import ICredentials, UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from relaymta.directory import accounts as module
from relaymta.directory.account import Account, IAccount
from relaymta.directory.accounts import Accounts
from relaymta.directory.entry import Entry, entry_of
from relaymta.directory.hashes import make_keys
from relaymta.directory.maker import make_directory
from relaymta.directory.settings import UserSettings

_CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


def cheap_hash(password: str) -> str:
    """A hash that costs a test nothing."""
    return _CHEAP.hash(password)


def entry(name: str, password: str = "", *, scram: bool = True, **more: str) -> Entry:
    """An account with that password, and whatever else a line may say."""
    made = entry_of(name, more)
    if not password:
        return made
    return evolve(
        made, password=cheap_hash(password), scram=make_keys(password, iterations=4096) if scram else None
    )


def write(file: Path, *entries: Entry) -> None:
    """Make these the accounts of a file, as an editor would."""
    fresh = file.with_name("fresh")
    fresh.write_text("".join(f"{one}\n" for one in entries))
    fresh.rename(file)


class AccountsCase(TestCase):
    """A test with accounts of its own, which end with it."""

    timeout = 30
    beat = 0.02  # seconds; shorter than the real one, which one test looks at

    def make(self, settings: UserSettings, folder: Path) -> Accounts:
        """The accounts of these settings; what they tell is in `told`."""
        self.patch(module, "BEAT", self.beat)
        self.told: list[tuple[str, object]] = []
        tell: Callable[[str, object], None] = lambda place, what: self.told.append((place, what))  # noqa: E731
        made = make_directory(settings, reactor, str(folder / "state"), on_read=tell, on_broken=tell)
        assert made is not None
        self.addCleanup(made.close)
        return made

    def enter(self, accounts: Accounts, credentials: ICredentials) -> Deferred[Account]:
        """Log in, as a session does."""
        return accounts.portal.login(credentials, None, IAccount).addCallback(_avatar)

    def password(self, accounts: Accounts, name: str, password: str | bytes) -> Deferred[Account]:
        """Log in by a password."""
        octets = password.encode() if isinstance(password, str) else password
        return self.enter(accounts, UsernamePassword(name.encode(), octets))


def _avatar(found: tuple[Any, Account, Callable[[], None]]) -> Account:
    interface, account, leave = found
    assert interface is IAccount and leave() is None  # type: ignore[func-returns-value]
    return account
