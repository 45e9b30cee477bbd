"""Logging in: the accounts are asked, failures are counted, and who fails waits or is refused.

RFC 4954 §4 and §6 (235, 535, 454). A no and "could not ask" are two answers. An unknown name is treated as a known one
in all that is done here; that asking costs the same is the directory's. Who leaves before the answer has been counted
all the same. Nothing that a client has shown gets into an event or an error.
"""

from __future__ import annotations

import sqlite3
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from attrs import frozen
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from relaymta import events
from relaymta.directory.account import Account, IAccount
from relaymta.directory.credentials import Directory, DirectoryUnavailableError, ScramKeys, ScramProof
from relaymta.mail.reply import Reply
from relaymta.policy.bruteforce import BruteForce, Refused, Tally, address_of
from relaymta.smtp import answers
from relaymta.smtp.authing import LoggingIn
from relaymta.smtp.handler import Peer

T = TypeVar("T")

AT_ONCE_MAX = 256  # log-ins that are being checked in this process; ours
AT_ONCE_PER_ADDRESS = 32  # ours: a guess must not run ahead of its count by more

# Why, in AuthenticationFailed; an interface, since fail2ban reads it
WRONG = "wrong credentials"
REFUSED = "too many failures"
REFUSED_THERE = "too many failures at this account"
BUSY = "too many at once"
UNAVAILABLE = "accounts unavailable"
UNKNOWN = "no such account"

XCLIENT = "XCLIENT"  # in the place of a mechanism

LOCKED = Reply(454, "4.7.0", "too many failed log-ins, try again later")
LOCKED_OUT = Reply(421, "4.7.0", "too many failed log-ins from your address, try again later", close=True)
HURRIED = Reply(421, "4.7.0", "authentication credentials invalid, and too many clients wait", close=True)


@frozen(slots=True)
class _No:
    """The reply, and how many seconds it is held back."""

    reply: Reply
    delay: float = 0.0


class Logins:
    """The way from credentials to an account. `exempt` says which clients are never refused as a whole.

    `tell` hears AuthenticationFailed and BugCaught.
    """

    def __init__(
        self,
        directory: Directory,
        guard: BruteForce,
        clock: IReactorTime,
        tell: Callable[[events.Event], None],
        exempt: Callable[[str], bool],
    ) -> None:
        self.directory = directory
        self._guard = guard
        self._clock = clock
        self._tell = tell
        self._exempt = exempt
        self._delayed = 0
        self._checking: Counter[str] = Counter()  # by address

    async def keys(self, peer: Peer, name: str) -> ScramKeys | Reply:
        """What SCRAM needs to know of the account `name`, or why it cannot be had."""
        outcome = await self._apart(peer, name, "SCRAM-SHA-256", self._keys(peer, name))
        return outcome if isinstance(outcome, ScramKeys) else outcome.reply

    async def login(self, peer: Peer, attempt: LoggingIn) -> Account | Reply:
        """Whose the credentials are, or the refusal, after its delay."""
        checking = self._login(peer, attempt)
        outcome = await self._apart(peer, attempt.shown.name, attempt.mechanism, checking)
        if isinstance(outcome, Account):
            return outcome
        return await self._hold_back(outcome) if outcome.delay else outcome.reply

    async def introduced(self, peer: Peer) -> Account | None:
        """Whom a named host says, by XCLIENT, that its client has logged in as; None for nobody who is kept here.

        Fails with DirectoryUnavailableError.
        """
        account = await self.directory.account(peer.account)
        if account is None:
            self._say(peer, peer.account, XCLIENT, UNKNOWN)
        return account

    # Asking

    async def _keys(self, peer: Peer, name: str) -> ScramKeys | _No:
        refused = await self._guard.refusal(peer.client, name)
        if refused is not None:
            return self._refuse(peer, name, "SCRAM-SHA-256", refused)
        return await self.directory.keys(name)

    async def _login(self, peer: Peer, attempt: LoggingIn) -> Account | _No:
        name, credentials = attempt.shown.name, attempt.shown.credentials
        refused = await self._guard.refusal(peer.client, name)
        if refused is not None:
            return self._refuse(peer, name, attempt.mechanism, refused)
        try:
            _, account, _ = await self.directory.portal.login(credentials, None, IAccount)
        except UnauthorizedLogin:
            return await self._count(peer, attempt)
        if isinstance(credentials, (UsernamePassword, ScramProof)):
            await self._guard.succeeded(peer.client, name)
        assert isinstance(account, Account)
        return account

    async def _count(self, peer: Peer, attempt: LoggingIn) -> _No:
        name, credentials = attempt.shown.name, attempt.shown.credentials
        settings = self._guard.settings
        exempt = self._exempt(peer.client)
        tally = Tally(0, 0)  # a token or a certificate cannot be guessed, and every token expires: no offence
        if isinstance(credentials, (UsernamePassword, ScramProof)):
            secret = credentials.password if isinstance(credentials, UsernamePassword) else None
            tally = await self._guard.failed(peer.client, name, secret, exempt=exempt)
        self._say(peer, name, attempt.mechanism, WRONG, tally.offences)
        times = max(tally.attempts, 0 if exempt else tally.offences, 1)
        return _No(answers.AUTH_FAILED, min(settings.delay_max, settings.delay * 2.0 ** min(times - 1, 30)))

    def _refuse(self, peer: Peer, name: str, mechanism: str, refused: Refused) -> _No:
        self._say(peer, name, mechanism, REFUSED if refused.whole else REFUSED_THERE)
        return _No(LOCKED_OUT if refused.whole else LOCKED)

    async def _apart(
        self, peer: Peer, name: str, mechanism: str, asking: Coroutine[Deferred[Any], Any, T | _No]
    ) -> T | _No:
        """Do it to its end, whether the client stays or not, unless too much is being done."""
        address = address_of(peer.client)
        crowded = self._checking[address] >= AT_ONCE_PER_ADDRESS and not self._exempt(peer.client)
        if crowded or self._checking.total() >= AT_ONCE_MAX:
            asking.close()
            self._say(peer, name, mechanism, BUSY)
            return _No(answers.AUTH_UNAVAILABLE)
        self._checking[address] += 1

        async def ask() -> T | _No:
            try:
                return await asking
            except DirectoryUnavailableError as error:
                self._say(peer, name, mechanism, f"{UNAVAILABLE}: {error}")
            except sqlite3.Error as error:  # when unsure, not now: uncounted guesses are worth waiting for
                self._say(peer, name, mechanism, f"failures cannot be counted: {error}")
            except Exception as error:  # noqa: BLE001 - its text may hold what the client has shown
                where = "".join(traceback.format_tb(error.__traceback__))
                self._tell(events.BugCaught("policy.logins", f"{where}{type(error).__name__}"))
            finally:
                self._checking[address] -= 1
                if not self._checking[address]:
                    del self._checking[address]
            return _No(answers.AUTH_UNAVAILABLE)

        heard: Deferred[T | _No] = Deferred()  # cancelled alone, when the client goes
        Deferred.fromCoroutine(ask()).addCallback(heard.callback)
        return await heard

    # Holding back

    async def _hold_back(self, no: _No) -> Reply:
        if self._delayed >= self._guard.settings.delayed:
            return HURRIED
        self._delayed += 1
        try:
            await deferLater(self._clock, no.delay)
        finally:
            self._delayed -= 1
        return no.reply

    def _say(self, peer: Peer, name: str, mechanism: str, reason: str, failures: int = 0) -> None:
        self._tell(events.AuthenticationFailed(peer.session, peer.client, name, mechanism, reason, failures))
