"""What the operator says of our accounts at next hops: the [[account]] tables.

RFC 4954 (AUTH), RFC 6749 (OAuth 2.0). How they are used is left to delivery.login, what is said to smtp.sasl_client.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from attrs import Attribute, field, frozen

from relaymta.config.hosts import is_loopback
from relaymta.config.privileges import is_public, may_read, to_let_in
from relaymta.config.secretfile import SecretError, SecretFile
from relaymta.routing.route import TlsLevel
from relaymta.routing.settings import RouteSettings, parse_target
from relaymta.smtp.sasl_client import BY_PASSWORD, BY_TOKEN, Mechanism


class GrantKind(Enum):
    """What we show for a token: a refresh token (RFC 6749 §6), or who the program is (RFC 6749 §4.4)."""

    REFRESH_TOKEN = "refresh_token"
    CLIENT_CREDENTIALS = "client_credentials"



def _sayable(_: object, __: Attribute[str], value: str) -> None:
    if not value:
        raise ValueError("must not be empty")
    if not value.isprintable():
        raise ValueError("has a character that cannot be printed")


def _url(_: object, __: Attribute[Any], value: str) -> None:
    """HTTPS, or HTTP to this very machine: what is sent there opens our mailbox."""
    if not value:
        return
    try:
        parts = urlsplit(value)
        host = parts.hostname or ""
        parts.port  # noqa: B018 - raises ValueError where it is no number
    except ValueError:
        raise ValueError(f'"{value}" is not a URL; write "https://login.example.org/token"') from None
    if not value.isascii() or not value.isprintable() or " " in value or not host or parts.username is not None:
        raise ValueError(f'"{value}" is not a URL; write "https://login.example.org/token"')
    if parts.scheme == "http" and is_loopback(host):
        return
    if parts.scheme != "https":
        raise ValueError(f'"{value}" must begin with https://; http:// is for this very machine')


@frozen(slots=True)
class OauthSettings:
    """The [account.oauth] table: where tokens come from. Without `token_url` there are none.

    `grant`: what we show there. `client_secret_file`, `refresh_token_file`: files with one line each.
    """

    token_url: str = field(default="", validator=_url)
    grant: GrantKind = GrantKind.REFRESH_TOKEN
    client_id: str = ""
    client_secret_file: str = ""
    refresh_token_file: str = ""
    scope: str = ""

    def check(self) -> Iterable[tuple[str, str]]:
        """What contradicts what: (key, sentence)."""
        if not self.token_url:
            for key in ("client_id", "client_secret_file", "refresh_token_file", "scope"):
                if getattr(self, key):
                    yield "token_url", f"is missing, and {key} is of no use without it"
            return
        if not self.client_id:
            yield "client_id", "is missing: who we are to the authorization server"
        if self.grant is GrantKind.REFRESH_TOKEN and not self.refresh_token_file:
            yield "refresh_token_file", 'is missing; or write grant = "client_credentials"'
        if self.grant is GrantKind.CLIENT_CREDENTIALS:
            if not self.client_secret_file:
                yield "client_secret_file", "is missing: the client has nothing else to show"
            if self.refresh_token_file:
                yield "refresh_token_file", 'is of no use with grant = "client_credentials"'


@frozen(slots=True)
class AccountSettings:
    """One [[account]]: who we log in as at a next hop.

    `password_file`: a file with one line. `mechanisms`: those that may be used, all that fit where none is named.
    `insecure`: also where nobody has proven to be the server, and in clear.
    """

    name: str = field(validator=_sayable)
    username: str = field(validator=_sayable)
    password_file: str = ""
    mechanisms: tuple[Mechanism, ...] = ()
    insecure: bool = False
    oauth: OauthSettings = field(factory=OauthSettings)

    @property
    def by_token(self) -> bool:
        """Whether it logs in with a token, and not with a password."""
        return bool(self.oauth.token_url)

    @property
    def allowed(self) -> tuple[Mechanism, ...]:
        """The mechanisms that may be used."""
        return self.mechanisms or (BY_TOKEN if self.by_token else BY_PASSWORD)

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """The files with its secrets, each with its key."""
        oauth = self.oauth
        named = (
            ("password_file", self.password_file),
            ("oauth.client_secret_file", oauth.client_secret_file),
            ("oauth.refresh_token_file", oauth.refresh_token_file),
        )
        return tuple((key, path) for key, path in named if path)

    def check(self) -> Iterable[tuple[str, str]]:
        """What contradicts what: (key, sentence)."""
        if bool(self.password_file) == self.by_token:
            if self.by_token:
                yield "password_file", "is of no use beside [account.oauth]"
            else:
                yield "password_file", "is missing: a file with the password; or write [account.oauth]"
        for position, mechanism in enumerate(self.mechanisms):
            if mechanism not in (BY_TOKEN if self.by_token else BY_PASSWORD):
                wanted = "a password" if self.by_token else "a token, from [account.oauth]"
                yield f"mechanisms[{position}]", f"{mechanism.value} wants {wanted}"


def check_accounts(
    accounts: Sequence[AccountSettings], routes: Sequence[RouteSettings]
) -> Iterator[tuple[str, str]]:
    """What contradicts what between [[account]] and [[route]]: (key, sentence)."""
    known: dict[str, AccountSettings] = {}
    for position, account in enumerate(accounts):
        if account.name in known:
            yield f"account[{position}].name", f'there is another [[account]] called "{account.name}"'
        known.setdefault(account.name, account)
    for position, route in enumerate(routes):
        if not route.account:
            continue
        found = known.get(route.account)
        if found is None:
            yield f"route[{position}].account", f'there is no [[account]] called "{route.account}"'
            continue
        if None in parse_target(route.to).hops:
            yield (
                f"route[{position}].account",
                'to = "mx" would show it to whatever server a recipient\'s domain names; name the next hop',
            )
        if route.tls not in _VERIFIED and not found.insecure:
            yield (
                f"route[{position}].tls",
                (
                    f'"{route.tls.value}" would show account "{route.account}" to whoever is in between; write'
                    ' tls = "verify", or insecure = true in its [[account]]'
                ),
            )


_VERIFIED = (TlsLevel.VERIFY, TlsLevel.DANE)


def unreadable(account: AccountSettings, user: str = "") -> Iterator[tuple[str, str]]:
    """The files of secrets that cannot be used, as (key, why). `user` is who will read them, "" for ourselves."""
    for key, path in account.files:
        try:
            SecretFile(path).read()
        except SecretError as error:
            yield key, str(error)
            continue
        if not may_read(path, user):
            yield key, f"{path} cannot be read by {user}, who the daemon becomes: {to_let_in(user, path)}"


def exposed(account: AccountSettings) -> Iterator[tuple[str, str]]:
    """The files of secrets that everybody may read, as (key, what to do)."""
    for key, path in account.files:
        if is_public(path):
            yield key, f"{path} can be read by everybody on this machine; chmod o-rwx it"
