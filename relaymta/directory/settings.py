"""Who may log in: the [users] table, with a table of its own for each place where accounts may be kept.

RFC 4516 (LDAP URLs), RFC 7662 (introspection). A table without its first key is not used. Nothing is opened here: what
this machine says of files and libraries is machine.py's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from attrs import Attribute, field, fields, frozen, validators

from relaymta.config import Duration
from relaymta.config.hosts import is_loopback
from relaymta.directory.account import Over, Quota
from relaymta.directory.entry import sender
from relaymta.directory.sources import NAME, Rights

RECIPIENTS_PER_HOUR = 1000  # ours: more than a person writes to, less than a compromised account sends
RECIPIENTS_PER_DAY = 10_000
SQL_NAME = re.compile(r"(?<![:\w]):name\b")  # where the name goes in a query; "::name" is a cast
_LDAP_PORTS = {"ldap": 389, "ldaps": 636}


def _senders(_: object, __: Attribute[Any], value: tuple[str, ...]) -> None:
    for one in value:
        if one != NAME:
            sender(one.replace(NAME, "name"))


def _positive() -> Any:
    return validators.gt(Duration(0.0))


@frozen(slots=True)
class QuotaSettings:
    """The [users.quota] table: how much an account may send that says nothing else; 0 is no limit."""

    messages_per_hour: int = field(default=0, validator=validators.ge(0))
    messages_per_day: int = field(default=0, validator=validators.ge(0))
    recipients_per_hour: int = field(default=RECIPIENTS_PER_HOUR, validator=validators.ge(0))
    recipients_per_day: int = field(default=RECIPIENTS_PER_DAY, validator=validators.ge(0))
    over: Over = Over.HOLD

    @property
    def quota(self) -> Quota:
        """The limits as a value."""
        return Quota(**{one.name: getattr(self, one.name) for one in fields(Quota)})


@frozen(slots=True)
class SqlSettings:
    """The [users.sql] table. `query` gives at most one row for :name, with columns called as the words of an account.

    `scram`: whether every account has SCRAM's keys in its row.
    """

    url: str = ""
    query: str = ""
    password_file: str = ""
    scram: bool = False
    timeout: Duration = field(default=Duration(5.0), validator=_positive())

    @property
    def sqlite(self) -> str:
        """The path of an SQLite database, or ""."""
        return self.url.removeprefix("sqlite:") if self.url.startswith("sqlite:") else ""

    def check(self) -> Iterable[tuple[str, str]]:
        """Contradictions, as (key, what is wrong)."""
        if not self.url:
            yield from _unused(self, "url")
            return
        parts = urlsplit(self.url)
        if parts.scheme not in ("sqlite", "postgresql") or (parts.scheme == "sqlite" and not self.sqlite):
            yield "url", '"sqlite:/path" or "postgresql://user@host/database" is wanted'
        if parts.password is not None:
            yield "url", "holds a password, which everybody may read here; write password_file"
        if parts.scheme == "sqlite" and self.password_file:
            yield "password_file", "SQLite has no passwords"
        if not SQL_NAME.search(self.query):
            yield "query", 'does not say :name, such as "SELECT password FROM accounts WHERE name = :name"'


class _Granting:
    """The table of a source that says what accounts may do: all of them, or those that say nothing of their own."""

    __slots__ = ()

    senders: tuple[str, ...]
    relay: bool

    @property
    def rights(self) -> Rights:
        """The same as a value."""
        return Rights(self.senders, self.relay)


@frozen(slots=True)
class LdapSettings(_Granting):
    """The [users.ldap] table. Either `user_dn` is where an account is, or it is searched under `base` by `filter`."""

    url: str = ""
    starttls: bool = True
    ca_file: str = ""
    user_dn: str = ""
    base: str = ""
    filter: str = "(uid={name})"
    bind_dn: str = ""
    password_file: str = ""
    name_attribute: str = ""
    senders_attribute: str = ""
    senders: tuple[str, ...] = field(default=(), validator=_senders)
    relay: bool = True
    timeout: Duration = field(default=Duration(10.0), validator=_positive())

    @property
    def server(self) -> tuple[str, int, bool]:
        """Host, port, and whether TLS begins at once."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or _LDAP_PORTS[parts.scheme], parts.scheme == "ldaps"

    def check(self) -> Iterable[tuple[str, str]]:
        """Contradictions, as (key, what is wrong)."""
        if not self.url:
            yield from _unused(self, "url")
            return
        if not _is_url(self.url, tuple(_LDAP_PORTS)) or urlsplit(self.url).path.strip("/"):
            yield "url", '"ldaps://host", "ldap://host" or one with its port is wanted'
        elif not self.starttls and self.url.startswith("ldap:") and not _is_loopback(self.url):
            yield "starttls", "passwords would cross the network in clear; only a server on this host may do without"
        if bool(self.user_dn) is bool(self.base):
            yield "user_dn", "either user_dn, or base and filter, say where an account is"
        if self.user_dn and NAME not in self.user_dn:
            yield "user_dn", f'does not say {NAME}, such as "uid={NAME},ou=people,dc=example,dc=org"'
        if self.base and NAME not in self.filter:
            yield "filter", f'does not say {NAME}, such as "(uid={NAME})"'
        if bool(self.bind_dn) is not bool(self.password_file):
            yield "bind_dn", "bind_dn and password_file go together"


@frozen(slots=True)
class DovecotSettings(_Granting):
    """The [users.dovecot] table. `socket`: where Dovecot's auth service listens for clients."""

    socket: str = ""
    service: str = field(default="smtp", validator=validators.matches_re(r"[a-z0-9-]+"))
    senders: tuple[str, ...] = field(default=(), validator=_senders)
    relay: bool = True
    timeout: Duration = field(default=Duration(30.0), validator=_positive())

    def check(self) -> Iterable[tuple[str, str]]:
        """Contradictions, as (key, what is wrong)."""
        if not self.socket:
            yield from _unused(self, "socket")
        elif not self.socket.startswith("/"):
            yield "socket", 'the path of a UNIX socket is wanted, such as "/run/dovecot/auth-client"'


@frozen(slots=True)
class CheckpasswordSettings(_Granting):
    """The [users.checkpassword] table. `program`: its path and its arguments; no shell looks at them."""

    program: tuple[str, ...] = ()
    senders: tuple[str, ...] = field(default=(), validator=_senders)
    relay: bool = True
    timeout: Duration = field(default=Duration(30.0), validator=_positive())

    def check(self) -> Iterable[tuple[str, str]]:
        """Contradictions, as (key, what is wrong)."""
        if not self.program:
            yield from _unused(self, "program")
        elif not self.program[0].startswith("/"):
            yield "program", 'begins with an absolute path, such as ["/usr/bin/checkpassword-pam", "--", "/bin/true"]'


@frozen(slots=True)
class OAuthSettings(_Granting):
    """The [users.oauth] table. `claim` names the account; `scope` and `audience` are what a token must have, if any."""

    introspection_url: str = ""
    client_id: str = ""
    client_secret_file: str = ""
    claim: str = field(default="username", validator=validators.min_len(1))
    scope: str = ""
    audience: str = ""
    ca_file: str = ""
    senders: tuple[str, ...] = field(default=(), validator=_senders)
    relay: bool = True
    timeout: Duration = field(default=Duration(10.0), validator=_positive())

    def check(self) -> Iterable[tuple[str, str]]:
        """Contradictions, as (key, what is wrong)."""
        if not self.introspection_url:
            yield from _unused(self, "introspection_url")
            return
        parts = urlsplit(self.introspection_url)
        if not _is_url(self.introspection_url, ("https", "http")):
            yield "introspection_url", 'a URL such as "https://login.example.org/introspect" is wanted'
        elif parts.scheme == "http" and not _is_loopback(self.introspection_url):
            yield "introspection_url", "tokens would cross the network in clear; only this host may do without https"
        if parts.username is not None or parts.password is not None:
            yield "introspection_url", "names no client; write client_id and client_secret_file"
        if bool(self.client_id) is not bool(self.client_secret_file):
            yield "client_id", "client_id and client_secret_file go together"


@frozen(slots=True)
class UserSettings:
    """The [users] table. `cache`: how long a right password is remembered, 0 for not at all."""

    file: str = ""
    cache: Duration = Duration(300.0)
    quota: QuotaSettings = QuotaSettings()
    sql: SqlSettings = SqlSettings()
    ldap: LdapSettings = LdapSettings()
    dovecot: DovecotSettings = DovecotSettings()
    checkpassword: CheckpasswordSettings = CheckpasswordSettings()
    oauth: OAuthSettings = OAuthSettings()

    @property
    def configured(self) -> bool:
        """Whether there is any place where accounts are kept."""
        return any(
            (
                self.file,
                self.sql.url,
                self.ldap.url,
                self.dovecot.socket,
                self.checkpassword.program,
                self.oauth.introspection_url,
            )
        )


def _unused(table: Any, first: str) -> Iterator[tuple[str, str]]:
    """A key that was given in a table that is not used would be ignored in silence."""
    for one in fields(type(table)):
        if getattr(table, one.name) != one.default:
            yield one.name, f"without {first} this table is not used"


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:
        return False


def _is_loopback(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")
