"""All accounts behind one door: who someone is, by a password, a proof, a certificate or a token.

RFC 4616 §2 (a password, prepared by us), RFC 5802 §3 (a proof), RFC 4422 appendix A (a certificate), RFC 7628 (a
token). Sources are asked in order, and the first that knows a name decides. A name that nobody knows costs what a known
one costs: a hash is compared in any case, and every no is told on a beat. The dialogue of a mechanism is left to smtp.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from relaymta.directory.account import Account, Quota
from relaymta.directory.cred import Checker, Realm
from relaymta.directory.credentials import (
    BearerToken,
    Certificate,
    IBearerToken,
    ICertificate,
    IScramProof,
    ScramKeys,
    ScramProof,
)
from relaymta.directory.entry import FINGERPRINT, Entry
from relaymta.directory.hashes import DUMMY, ITERATIONS, fake_keys, fits_hash, fits_keys, proves
from relaymta.directory.names import account_name, password_text
from relaymta.directory.remembered import Remembered
from relaymta.directory.sources import Keeper, Rights, Source
from relaymta.directory.threads import Pool

THREADS = 2  # of each process, for hashes; ours: workers share the cores with them
WAITING = 200  # checks that wait for them, some seconds' worth; ours
BEAT = 0.25  # seconds: a no is told at a multiple of this, so that no time says where a check ended; ours

PASSWORD = ("PLAIN", "LOGIN")
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")
CERTIFICATE = ("EXTERNAL",)
TOKEN = ("OAUTHBEARER", "XOAUTH2")


class Tokens(Protocol):
    """Who is asked about tokens. An account that no source knows has the `rights`."""

    rights: Rights

    def claimed(self, token: str) -> Deferred[str | None]:
        """The prepared name that a token is for; None when it is nobody's, or not any more."""

    def close(self) -> None:
        """Let go of what is open. To be called once."""


class Accounts:
    """A Directory over `sources`.

    `remember`: seconds for which a right password is remembered, 0 for not at all. `secret` makes the fakes that SCRAM
    shows of unknown names: octets that all workers share and a restart keeps. `quota`: of accounts without their own.
    """

    def __init__(
        self,
        reactor: Any,
        sources: Sequence[Source],
        tokens: Tokens | None = None,
        *,
        quota: Quota,
        remember: float,
        secret: bytes,
    ) -> None:
        self._reactor = reactor
        self._sources = sources
        self._keepers = [source for source in sources if isinstance(source, Keeper)]
        self._tokens = tokens
        self._quota = quota
        self._remember = remember
        self._secret = secret
        self._pool = Pool("password checks", THREADS, WAITING, reactor.callFromThread)
        self._right: Remembered[Account] = Remembered(reactor.seconds)
        self._changes = 0
        self._changed: dict[str, int] = {}  # by name, the last of its changes
        self.mechanisms: frozenset[str] = frozenset()
        self.portal = Portal(Realm())
        for interface, ask in (
            (IUsernamePassword, self._by_password),
            (IScramProof, self._by_proof),
            (ICertificate, self._by_certificate),
            (IBearerToken, self._by_token),
        ):
            self.portal.registerChecker(Checker(interface, ask))
        self.changed()

    def changed(self, names: Collection[str] = ()) -> None:
        """Accounts have become others: what was right before is not remembered, other mechanisms may be possible.

        `names` are those that are gone, or are not what they were: who has logged in to one is to do so again.
        """
        self._changes += 1
        self._changed.update(dict.fromkeys(names, self._changes))
        self._right.clear()
        keepers = self._keepers
        possible: list[str] = []
        if self._sources:
            possible.extend(PASSWORD)
        # a client takes SCRAM where it is offered, and then has nothing else: offered where every account can
        if self._sources and len(keepers) == len(self._sources) and all(one.has_scram for one in keepers):
            possible.extend(SCRAM)
        if any(one.has_certificates for one in keepers):
            possible.extend(CERTIFICATE)
        if self._tokens is not None:
            possible.extend(TOKEN)
        self.mechanisms = frozenset(possible)

    def keys(self, name: str) -> Deferred[ScramKeys]:
        """For the server's first message of SCRAM. Fails with DirectoryUnavailableError."""
        return Deferred.fromCoroutine(self._keys(name))

    def account(self, name: str) -> Deferred[Account | None]:
        """The account of that name, where a source keeps it and can be asked without a password."""
        return Deferred.fromCoroutine(self._named(name))

    def changes(self, name: str) -> int:
        """A number that is another one when what is kept of that account has changed."""
        return self._changed.get(name, 0)

    async def _named(self, name: str) -> Account | None:
        prepared = _name(name)
        entry = None if prepared is None else await self._find(prepared)
        return None if entry is None or entry.disabled else entry.account(self._quota)

    def retire(self, seconds: float) -> None:
        """Others take our place: nothing is watched any more, and what was begun has so long to end."""
        for keeper in self._keepers:
            keeper.rest()
        self._reactor.callLater(seconds, self.close)

    def close(self) -> None:
        """Let go of everything. To be called once, or not at all where retire() was."""
        self._pool.close()
        for source in self._sources:
            source.close()
        if self._tokens is not None:
            self._tokens.close()

    # Passwords

    async def _by_password(self, shown: UsernamePassword) -> Account | None:
        began = self._reactor.seconds()
        name, password = _name(shown.username), shown.password
        if name is None or not password or b"\0" in password:  # RFC 4616 §2: neither may be empty or have a NUL
            await self._compare(None, "nobody's")
            await self._beat(began)
            return None
        account = self._right.get(name.encode(), password)
        if account is None:
            changes = self._changes
            account = await self._judged(name, password)
            if account is None:
                await self._beat(began)
                return None
            if changes == self._changes:
                self._right.put(account, self._remember, name.encode(), password)
        return account

    async def _judged(self, name: str, password: bytes) -> Account | None:
        try:
            prepared = password_text(password)  # RFC 4616 §2
        except ValueError:  # nobody has such a password with us; a judge may think otherwise
            prepared = ""
        for source in self._sources:
            if isinstance(source, Keeper):
                entry = await source.find(name)
                if entry is not None:
                    right = await self._compare(entry, prepared)
                    return entry.account(self._quota) if right and not entry.disabled else None
            else:
                account = await source.check(name, password)
                if account is not None:
                    return account
        if self._keepers:
            await self._compare(None, prepared)
        return None

    async def _compare(self, entry: Entry | None, password: str) -> bool:
        """Whether a prepared password is that of `entry`; without one or the other a no that costs the same."""
        if entry is not None and entry.scram and not entry.password:
            return bool(password) and await self._pool.run(fits_keys, entry.scram, password)
        kept = entry.password if entry is not None else ""
        dummy = self._keepers[0].dummy if self._keepers else DUMMY
        fits = await self._pool.run(fits_hash, kept or dummy, password or "nobody's")
        return fits and bool(kept) and bool(password)

    async def _beat(self, began: float) -> None:
        passed = self._reactor.seconds() - began
        await deferLater(self._reactor, BEAT - passed % BEAT, lambda: None)

    # Proofs

    async def _keys(self, name: str) -> ScramKeys:
        try:
            prepared = account_name(name)
        except ValueError:
            prepared = name
        else:
            entry = await self._find(prepared)
            if entry is not None and entry.scram is not None:
                return entry.scram
        return fake_keys(self._secret, prepared, self._keepers[0].iterations if self._keepers else ITERATIONS)

    async def _by_proof(self, shown: ScramProof) -> Account | None:
        began = self._reactor.seconds()
        right = proves(shown.keys, shown.auth_message, shown.proof)
        name = _name(shown.name)
        entry = await self._find(name) if name is not None else None
        # the keys in force, not those of the first message: a password may have been changed in between
        if not right or entry is None or entry.scram != shown.keys or entry.disabled:
            await self._beat(began)
            return None
        return entry.account(self._quota)

    # Certificates and tokens

    async def _by_certificate(self, shown: Certificate) -> Account | None:
        wanted = [FINGERPRINT + shown.fingerprint.lower(), *(name.lower() for name in shown.names)]
        entries: dict[str, Entry] = {}
        if shown.name:
            name = _name(shown.name)
            entry = await self._find(name) if name is not None else None
            if entry is not None and set(wanted) & set(entry.certificates):
                entries[entry.name] = entry
        else:
            for keeper in self._keepers:
                for certificate in wanted:
                    for entry in await keeper.by_certificate(certificate):
                        entries.setdefault(entry.name, entry)
        allowed = [entry for entry in entries.values() if not entry.disabled]
        return allowed[0].account(self._quota) if len(allowed) == 1 else None  # of two, the client must say which

    async def _by_token(self, shown: BearerToken) -> Account | None:
        if self._tokens is None:
            return None
        claimed = await self._tokens.claimed(shown.token)
        if claimed is None or (shown.name and _name(shown.name) != claimed):
            return None
        entry = await self._find(claimed)
        if entry is None:
            return self._tokens.rights.account(claimed)
        return None if entry.disabled else entry.account(self._quota)

    async def _find(self, name: str) -> Entry | None:
        for keeper in self._keepers:
            entry = await keeper.find(name)
            if entry is not None:
                return entry
        return None


def _name(said: bytes | str) -> str | None:
    """What a client said its name is, prepared; None for what cannot be one."""
    try:
        return account_name(said.decode() if isinstance(said, bytes) else said)
    except ValueError:
        return None
