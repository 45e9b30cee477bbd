"""From settings to a Directory: each source that is configured, in the order in which they are asked.

A library that only one source needs is imported when that source is. A source that cannot be made, since a file of its
own is missing, answers that it cannot be asked: mail that needs no log-in goes on. machine.py says it beforehand.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from typing import Any

from twisted.internet.defer import Deferred, fail

from relaymta.directory.accounts import Accounts, Tokens
from relaymta.directory.credentials import DirectoryUnavailableError
from relaymta.directory.fromfile import FromFile
from relaymta.directory.secrets import STEADY_OCTETS, read_secret, steady_secret
from relaymta.directory.settings import UserSettings
from relaymta.directory.sources import Keeper, Rights, Source

Tell = Callable[[str, str], None]
Make = Callable[[], Any]


class Unusable:
    """In the place of a source or of tokens that could not be made."""

    rights = Rights()

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def check(self, name: str, password: bytes) -> Deferred[Any]:
        """Nobody can be asked."""
        return fail(DirectoryUnavailableError(self._reason))

    def claimed(self, token: str) -> Deferred[Any]:
        """Nobody can be asked."""
        return fail(DirectoryUnavailableError(self._reason))

    def close(self) -> None:
        """Nothing is open."""


def make_directory(
    settings: UserSettings, reactor: Any, state: str, *, on_read: Callable[[str, int], None], on_broken: Tell
) -> Accounts | None:
    """The accounts of `settings`; None where nothing is configured.

    `state` is a directory of ours that outlives the process. `on_read(file, accounts)` tells of a file of accounts that
    has changed, `on_broken(place, reason)` of one that cannot be used, and of a source that cannot be made.
    """
    if not settings.configured:
        return None
    made: list[Accounts] = []

    def changed(names: Collection[str]) -> None:
        for accounts in made:
            accounts.changed(names)

    def attempt(place: str, make: Make) -> Any:
        try:
            return make()
        except Exception as error:  # noqa: BLE001 whatever a library has against its settings: the rest goes on
            on_broken(place, str(error))
            return Unusable(f"{place}: {error}")

    sources: list[Source] = []
    if settings.file:
        sources.append(FromFile(settings.file, reactor, on_change=changed, on_read=on_read, on_broken=on_broken))
    sources.extend(attempt(place, make) for place, make in _makers(settings, reactor))
    tokens: Tokens | None = None
    if settings.oauth.introspection_url:
        tokens = attempt("users.oauth", lambda: _make_tokens(settings, reactor))
    secret = os.urandom(STEADY_OCTETS)
    if any(isinstance(source, Keeper) for source in sources):
        try:
            secret = steady_secret(os.path.join(state, "scram.secret"))
        except OSError as error:  # then the fakes of SCRAM are other ones after a restart
            on_broken("users", f"{error}")
    made.append(
        Accounts(reactor, sources, tokens, quota=settings.quota.quota, remember=settings.cache, secret=secret)
    )
    return made[0]


def _makers(settings: UserSettings, reactor: Any) -> Iterator[tuple[str, Make]]:
    """Every source but the file, with what makes it."""
    if settings.sql.url:
        yield "users.sql", lambda: _make_sql(settings, reactor)
    if settings.ldap.url:
        yield "users.ldap", lambda: _make_ldap(settings, reactor)
    if settings.dovecot.socket:
        yield "users.dovecot", lambda: _make_dovecot(settings, reactor)
    if settings.checkpassword.program:
        yield "users.checkpassword", lambda: _make_checkpassword(settings, reactor)


def _make_sql(settings: UserSettings, reactor: Any) -> Source:
    from relaymta.directory.sql import FromSql

    return FromSql(settings.sql, _secret(settings.sql.password_file), reactor)


def _make_ldap(settings: UserSettings, reactor: Any) -> Source:
    from relaymta.directory.ldap import LdapJudge

    return LdapJudge(settings.ldap, _secret(settings.ldap.password_file), reactor)


def _make_dovecot(settings: UserSettings, reactor: Any) -> Source:
    from relaymta.directory.dovecot import DovecotJudge

    return DovecotJudge(settings.dovecot, reactor)


def _make_checkpassword(settings: UserSettings, reactor: Any) -> Source:
    from relaymta.directory.checkpassword import CheckpasswordJudge

    return CheckpasswordJudge(settings.checkpassword, reactor)


def _make_tokens(settings: UserSettings, reactor: Any) -> Tokens:
    from relaymta.directory.oauth import Introspection

    return Introspection(settings.oauth, _secret(settings.oauth.client_secret_file), reactor)


def _secret(file: str) -> str:
    return read_secret(file) if file else ""
