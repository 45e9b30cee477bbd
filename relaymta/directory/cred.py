"""The pieces that twisted.cred wants: checkers that ask one coroutine each, and a realm that gives the account."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from zope.interface import Interface, implementer

from relaymta.directory.account import Account, IAccount

Ask = Callable[[Any], Coroutine[Any, Any, Account | None]]


@implementer(ICredentialsChecker)
class Checker:
    """Checks credentials of one interface by `ask`; the id of an avatar is its Account."""

    def __init__(self, interface: type[Interface], ask: Ask) -> None:
        self.credentialInterfaces = (interface,)
        self._ask = ask

    def requestAvatarId(self, credentials: ICredentials) -> Deferred[Any]:
        """Fires with the account; fails with UnauthorizedLogin for a no, or DirectoryUnavailableError."""
        return Deferred.fromCoroutine(self._found(credentials))

    async def _found(self, credentials: ICredentials) -> Account:
        account = await self._ask(credentials)
        if account is None:
            raise UnauthorizedLogin
        return account


@implementer(IRealm)
class Realm:
    """Gives the account that a checker has found."""

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: type[Interface]) -> Any:
        """(IAccount, the account, what to call at the end: nothing ends)."""
        if IAccount not in interfaces:
            raise NotImplementedError("an account is all there is")
        return IAccount, avatarId, lambda: None
