"""Accounts in memory behind a real portal of twisted.cred, and a SCRAM client, for whoever tests log-ins."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any

from attrs import define, field
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from relaymta.directory import scramkeys
from relaymta.directory.account import Account, IAccount
from relaymta.directory.credentials import (
    DirectoryUnavailableError,
    IBearerToken,
    ICertificate,
    IScramProof,
    ScramKeys,
)
from relaymta.directory.saslprep import prepare
from relaymta.smtp import scram

ALL = ("PLAIN", "LOGIN", "SCRAM-SHA-256", "EXTERNAL", "OAUTHBEARER", "XOAUTH2")
SALT = b"salt of the test"
ALICE, SECRET, TOKEN = "alice@example.org", "pa55-Wort-äöü", "ya29.secret-token"


@implementer(IRealm)
class Realm:
    """Gives an account by its name."""

    def __init__(self, accounts: dict[str, Account]) -> None:
        self._accounts = accounts

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        assert IAccount in interfaces
        return IAccount, self._accounts[avatarId], lambda: None


@implementer(ICredentialsChecker)
@define(eq=False)
class Checker:
    """Knows all four kinds of credentials."""

    credentialInterfaces = (IUsernamePassword, IScramProof, IBearerToken, ICertificate)
    house: Accounts

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        return self.house.answer(lambda: self._name(credentials))

    def _name(self, credentials: Any) -> str:
        house = self.house
        name: str = ""
        right = False
        if IUsernamePassword.providedBy(credentials):
            name = credentials.username.decode()
            right = house.passwords.get(name) == credentials.password.decode()
        elif IScramProof.providedBy(credentials):
            name = credentials.name
            right = name in house.passwords
            right &= scramkeys.proves(credentials.keys.stored_key, credentials.auth_message, credentials.proof)
        elif IBearerToken.providedBy(credentials):
            name = house.tokens.get(credentials.token, "")
            right = bool(name) and credentials.name in ("", name)
        elif ICertificate.providedBy(credentials):
            name = house.certificates.get(credentials.fingerprint, "")
            right = bool(name) and credentials.name in ("", name)
        if not right:
            raise UnauthorizedLogin("no")
        return name


@define(eq=False)
class Accounts:
    """A Directory. `later` keeps each answer until `release`; `down` is why nobody can be asked."""

    passwords: dict[str, str] = field(factory=lambda: {ALICE: SECRET})
    tokens: dict[str, str] = field(factory=lambda: {TOKEN: ALICE})
    certificates: dict[str, str] = field(factory=dict)
    mechanisms: frozenset[str] = frozenset(ALL)
    rights: dict[str, Account] = field(factory=dict)
    later: bool = False
    down: Exception | None = None
    asked: int = 0
    waiting: list[Callable[[], None]] = field(factory=list)
    changed: dict[str, int] = field(factory=dict)
    portal: Portal = field(init=False)

    def __attrs_post_init__(self) -> None:
        names = {*self.passwords, *self.tokens.values(), *self.certificates.values()}
        self.portal = Portal(Realm({name: self.rights.get(name, Account(name)) for name in names}), [Checker(self)])

    def answer(self, find: Callable[[], Any]) -> Deferred[Any]:
        self.asked += 1
        found: Deferred[Any] = succeed(None)
        if self.later:
            found = Deferred()
            held = found
            self.waiting.append(lambda: held.callback(None))
        if self.down is not None:
            down = self.down
            return found.addCallback(lambda _: fail(down))
        return found.addCallback(lambda _: find())

    def close(self) -> None:
        """Nothing is open."""

    def retire(self, seconds: float) -> None:
        """Nothing will be open then either."""

    def release(self) -> None:
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one()

    def keys(self, name: str) -> Deferred[ScramKeys]:
        salted = scramkeys.salted_password(prepare(self.passwords.get(name, "?")).encode(), SALT, 4096)
        return self.answer(lambda: ScramKeys(SALT, 4096, *scramkeys.derive(salted)))

    def changes(self, name: str) -> int:
        return self.changed.get(name, 0)

    def account(self, name: str) -> Deferred[Account | None]:
        return self.answer(lambda: self.rights.get(name, Account(name)) if name in self.passwords else None)


DOWN = DirectoryUnavailableError("the server is away")


def accounts(mechanisms: Iterable[str] = ALL, **facts: Any) -> Accounts:
    """A directory with one account, or as `facts` say."""
    return Accounts(mechanisms=frozenset(mechanisms), **facts)


def b64(octets: bytes | str) -> bytes:
    """Base64 for the wire."""
    return base64.b64encode(octets.encode() if isinstance(octets, str) else octets)


def plain(name: str = ALICE, password: str = SECRET, authzid: str = "") -> bytes:
    """The response of PLAIN."""
    return b64(f"{authzid}\0{name}\0{password}")


@define(eq=False)
class ScramClient:
    """A SCRAM client, in three messages. `gs2` is its header, `data` the channel binding's."""

    name: str = ALICE
    password: str = SECRET
    gs2: str = "n,,"
    data: bytes = b""
    nonce: str = "fyko+d2lbbFgONRv9qkxdawL"
    salted: bytes = b""
    message: bytes = b""

    @property
    def first(self) -> bytes:
        return f"{self.gs2}n={scram.saslname(self.name)},r={self.nonce}".encode()

    def last(self, challenge: bytes) -> bytes:
        nonce, salt, iterations = scram.attributes(challenge.decode(), "rsi")
        without = f"c={scram.encode(self.gs2.encode() + self.data)},r={nonce}"
        self.salted = scramkeys.salted_password(
            prepare(self.password).encode(), scram.decode(salt), int(iterations)
        )
        bare = self.first.decode()[len(self.gs2) :]
        self.message = f"{bare},{challenge.decode()},{without}".encode()
        return f"{without},p={scram.encode(scramkeys.client_proof(self.salted, self.message))}".encode()

    def knows(self, final: bytes) -> bool:
        """Whether the server has shown that it knows the password too."""
        signature = scramkeys.server_signature(scramkeys.derive(self.salted)[1], self.message)
        return final == f"v={scram.encode(signature)}".encode()
