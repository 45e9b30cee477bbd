"""Our accounts at next hops in use: secrets and tokens are fetched, log-ins tried, and refused ones not hammered.

RFC 4954 §6 (what a refusal says). A refusal is remembered for each account and host, for longer each time, until the
password changes or a reload comes: a wrong password that is tried for every message locks an account. What the other
workers of the host know of it is in refusals. Over which channel a log-in may go is decided here and held once more by
smtp.dialogue; what an answer means for the message is left to classify.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any

from attrs import define, evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from relaymta.config.secretfile import SecretError, SecretFile
from relaymta.delivery.account import AccountSettings
from relaymta.delivery.refusals import Key, Refusal, Refusals
from relaymta.events import Ear, LoginRefused
from relaymta.net.oauth import Grant, Token, TokenError, Tokens
from relaymta.smtp.actions import Answer, Stage, Trouble
from relaymta.smtp.client import RelaySender, SessionError
from relaymta.smtp.sasl_client import Login

BACKOFFS = (60.0, 120.0, 300.0, 900.0, 3600.0)  # seconds, the last one repeats; ours
KNOWN_MAX = 1000  # refusals remembered; ours
LOOK_AGAIN = 0.1  # seconds until we ask again whether another worker has logged in; ours
_ANSWERED = (None, Trouble.NO_AUTH)  # troubles of a log-in that was answered, or that never can be

Dial = Callable[[Login], Deferred[RelaySender]]


@define(eq=False)
class _Account:
    """One account: its settings, where its secret comes from, and the Login made of it last."""

    settings: AccountSettings
    password: SecretFile | None
    tokens: Tokens | None
    login: Login | None = None

    def mark(self) -> bytes:
        """What tells a secret from another one; tokens come and go, and are as one. Raises SecretError."""
        return b"" if self.password is None else sha256(self.password.read().encode()).digest()

    async def fetch(self) -> tuple[Login, Token | None]:
        """Who we are now, and the token that this hangs on. Raises SecretError and TokenError."""
        token = None
        if self.tokens is not None:
            token = await self.tokens.get()
            secret = token.value
        else:
            assert self.password is not None
            secret = self.password.read()
        login = self.login
        if login is None or login.secret != secret:
            settings = self.settings
            login = Login(settings.name, settings.username, secret, settings.allowed, settings.insecure)
            self.login = login
        return login, token


class Accounts:
    """The accounts of one process. `seconds` gives POSIX time; `trust_root`: as trust.believing has it.

    `refusals` is what the workers of this host know together; None: there is nobody else.
    """

    def __init__(
        self,
        reactor: Any,
        accounts: Iterable[AccountSettings],
        seconds: Callable[[], float],
        tell: Ear,
        trust_root: Any = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._reactor = reactor
        self._host = refusals
        self._seconds = seconds
        self._tell = tell
        self._refusals: dict[Key, Refusal] = {}
        self._proven: dict[Key, bytes] = {}  # the secret that was taken last
        self._scouts: dict[Key, list[Deferred[None]]] = {}  # who waits for the first log-in with a secret
        self._accounts = {
            one.name: _Account(
                one,
                SecretFile(one.password_file) if one.password_file else None,
                Tokens(reactor, _grant(one), seconds, trust_root) if one.by_token else None,
            )
            for one in accounts
        }

    async def open(self, name: str, host: str, port: int, verified: bool, dial: Dial) -> RelaySender:
        """A session that is logged in as `name`. Raises SessionError.

        `verified`: whether the channel that `dial` opens proves who the host is. A token that was kept is thrown away
        when it is refused, and a fresh one tried once.
        """
        account = self._accounts.get(name)
        if account is None:
            raise _impossible(f"there is no [[account]] called {name}")
        if not verified and not account.settings.insecure:
            raise _impossible(f"account {name} is not shown to {host}, since nothing proves that it is this host")
        key = (name, host, port)
        try:
            mark = account.mark()
        except SecretError as error:
            raise _impossible(f"account {name}: {error}") from None
        if self._proven.get(key) == mark:
            await self._hear(key, mark)
            self._look_whether_refused(key, mark)
            return await self._log_in(account, key, mark, dial)
        scouted = self._scouts.get(key)
        if scouted is not None:
            # Wait for the first log-in with this secret: a wrong one is tried once, and not for each message.
            waiter: Deferred[None] = Deferred()
            scouted.append(waiter)
            await waiter
        self._look_whether_refused(key, mark)
        first = self._scouts.setdefault(key, []) if key not in self._scouts else None
        try:
            if first is None or not await self._take_turn(key, mark):
                return await self._log_in(account, key, mark, dial)
            return await self._in_turn(account, key, mark, dial)
        finally:
            if first is not None:
                for waiting in self._scouts.pop(key):
                    waiting.callback(None)

    async def _take_turn(self, key: Key, mark: bytes) -> bool:
        """Wait until no other worker tries; False where nothing can be known of others. Raises SessionError."""
        while self._host is not None:
            try:
                standing = await self._host.ask(key, mark, tries=True)
            except sqlite3.Error:
                break
            if standing.refusal is not None:
                self._refusals[key] = standing.refusal
                self._look_whether_refused(key, mark)
            if standing.may:
                return True
            await deferLater(self._reactor, LOOK_AGAIN)
        return False

    async def _in_turn(self, account: _Account, key: Key, mark: bytes, dial: Dial) -> RelaySender:
        """Log in, and let the other workers know what came of it."""
        assert self._host is not None
        before = self._refusals.get(key)
        try:
            sender = await self._log_in(account, key, mark, dial)
        except BaseException:
            if self._refusals.get(key) is before:
                self._host.left(key).addErrback(_unknown)
            raise
        self._host.taken(key, mark).addErrback(_unknown)
        return sender

    async def _log_in(self, account: _Account, key: Key, mark: bytes, dial: Dial) -> RelaySender:
        login, token = await self._fetch(account)
        for last in (False, True):
            try:
                sender = await dial(login)
            except SessionError as error:
                if not is_about_us(error.answer):
                    raise
                refused = error.answer.reply is not None and error.answer.reply.permanent
                before = login
                if token is not None and account.tokens is not None and refused:
                    account.tokens.discard(token)
                    if not last:
                        login, token = await self._fetch(account)
                if login.secret == before.secret:
                    raise self._refused(key, mark, error.answer) from None
            else:
                self._proven[key] = mark
                self._refusals.pop(key, None)
                return sender
        raise AssertionError("the second refusal is the last")

    async def _fetch(self, account: _Account) -> tuple[Login, Token | None]:
        try:
            return await account.fetch()
        except (SecretError, TokenError) as error:
            raise _impossible(f"account {account.settings.name}: {error}") from None

    async def refusal(self, name: str, host: str, port: int) -> str:
        """Why this account is not tried there now, "" where it is."""
        account, key = self._accounts.get(name), (name, host, port)
        if account is None:
            return ""
        try:
            mark = account.mark()
        except SecretError as error:
            return f"account {name}: {error}"
        await self._hear(key, mark)
        return self._refusal(key, mark)

    async def _hear(self, key: Key, mark: bytes) -> None:
        """Learn what another worker was refused."""
        if self._host is None:
            return
        try:
            standing = await self._host.ask(key, mark, tries=False)
        except sqlite3.Error:
            return
        if standing.refusal is not None:
            self._refusals[key] = standing.refusal

    def _refusal(self, key: Key, mark: bytes) -> str:
        refusal = self._refusals.get(key)
        now = self._seconds()
        if refusal is None or refusal.mark != mark or now >= refusal.until:
            return ""
        return f"account {key[0]} was refused {now - refusal.at:.0f} s ago, and is not tried: {refusal.reason}"

    def _look_whether_refused(self, key: Key, mark: bytes) -> None:
        text = self._refusal(key, mark)
        if text:
            raise SessionError(Answer(Stage.AUTH, trouble=Trouble.NO_AUTH, text=text, status="4.7.8"))

    def _refused(self, key: Key, mark: bytes, answer: Answer) -> SessionError:
        """Remember it and tell it; the error to go on with, which names the account."""
        now = self._seconds()
        before = self._refusals.get(key)
        count = before.count + 1 if before is not None and before.mark == mark else 1
        seconds = BACKOFFS[min(count, len(BACKOFFS)) - 1]
        reason = str(answer.reply) if answer.reply is not None else answer.text
        if len(self._refusals) >= KNOWN_MAX:
            self._refusals.clear()
        self._refusals[key] = Refusal(mark, now, now + seconds, count, reason)
        self._proven.pop(key, None)
        if self._host is not None:
            self._host.refused(key, self._refusals[key]).addErrback(_unknown)
        self._tell(LoginRefused(key[0], key[1], reason, seconds))
        if answer.reply is None and key[0] not in answer.text:
            answer = evolve(answer, text=f"account {key[0]}: {answer.text}")
        return SessionError(answer)


def _unknown(failure: Failure) -> None:
    """The others do not get to know it; the database has told of its trouble."""
    failure.trap(sqlite3.Error)


def is_about_us(answer: Answer) -> bool:
    """Whether the log-in failed, and not the connection or the whole host (421)."""
    if answer.stage is not Stage.AUTH or answer.trouble not in _ANSWERED:
        return False
    return answer.reply is None or answer.reply.code != 421


def _impossible(text: str) -> SessionError:
    return SessionError(Answer(Stage.AUTH, trouble=Trouble.NO_AUTH, text=text, status="4.7.0"))


def _grant(settings: AccountSettings) -> Grant:
    oauth = settings.oauth
    return Grant(
        oauth.token_url,
        oauth.client_id,
        oauth.scope,
        SecretFile(oauth.client_secret_file) if oauth.client_secret_file else None,
        SecretFile(oauth.refresh_token_file) if oauth.refresh_token_file else None,
    )
