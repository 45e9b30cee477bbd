"""Accounts that Dovecot knows: its auth service is asked over a UNIX socket, as Postfix does.

Dovecot's auth protocol 1.1, client side. One connection for each process, made with the first question and kept; each
question has a number, and answers come in any order. The service itself delays a no, and counts failures.
"""

from __future__ import annotations

import base64
import os
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from relaymta.directory.account import Account
from relaymta.directory.credentials import DirectoryUnavailableError
from relaymta.directory.names import account_name
from relaymta.directory.patience import within
from relaymta.directory.settings import DovecotSettings

MAJOR = b"1"  # of the protocol; another one is another protocol
WAITING = 200  # questions under way; ours


class AuthClient(LineOnlyReceiver):
    """One connection to the auth service. `ready` fires when it has said that it knows PLAIN."""

    delimiter = b"\n"
    MAX_LENGTH = 16_384

    def __init__(self, service: str) -> None:
        self._service = service.encode()
        self._number = 0
        self._asked: dict[bytes, Deferred[bytes | None]] = {}
        self._plain = False
        self._gone = ""
        self.ready: Deferred[AuthClient] = Deferred()

    @property
    def usable(self) -> bool:
        """Whether it can be asked."""
        return not self._gone

    def connectionMade(self) -> None:
        """Say who we are."""
        self._send(b"VERSION\t%s\t1" % MAJOR)
        self._send(b"CPID\t%d" % os.getpid())

    def ask(self, name: str, password: bytes) -> Deferred[bytes | None]:
        """The user that the service knows by this password, or None."""
        if self._gone:
            return fail(DirectoryUnavailableError(self._gone))
        if len(self._asked) >= WAITING:
            return fail(DirectoryUnavailableError("dovecot: too many at once"))
        self._number += 1
        number = b"%d" % self._number
        shown = base64.b64encode(b"\0" + name.encode() + b"\0" + password)  # RFC 4616 §2
        # resp comes last; listeners say when a password may be sent in clear, so that to Dovecot all are secured
        self._send(b"AUTH\t%s\tPLAIN\tservice=%s\tnologin\tsecured\tresp=%s" % (number, self._service, shown))
        asked: Deferred[bytes | None] = Deferred(lambda _: self._forget(number))
        self._asked[number] = asked
        return asked

    def _forget(self, number: bytes) -> None:
        self._asked.pop(number, None)

    def _send(self, line: bytes) -> None:
        assert self.transport is not None
        self.transport.write(line + b"\n")

    def abort(self) -> None:
        """Close the connection at once."""
        self._give_up("dovecot: closed")

    def lineReceived(self, line: bytes) -> None:
        """One line of the service."""
        command, *words = line.split(b"\t")
        if command == b"VERSION" and words[:1] != [MAJOR]:
            self._give_up("dovecot: the service speaks another protocol")
        elif command == b"MECH":
            self._plain = self._plain or words[:1] == [b"PLAIN"]
        elif command == b"DONE":
            if not self._plain:
                self._give_up("dovecot: the service does not offer PLAIN")
            elif not self.ready.called:
                self.ready.callback(self)
        elif command in (b"OK", b"FAIL", b"CONT") and words:
            self._answered(command, words)

    def _answered(self, command: bytes, words: list[bytes]) -> None:
        asked = self._asked.pop(words[0], None)
        if asked is None:
            return  # nobody waits any more
        if command == b"OK":
            users = [word[5:] for word in words[1:] if word.startswith(b"user=")]
            if users:
                asked.callback(users[0])
            else:
                asked.errback(DirectoryUnavailableError("dovecot: a yes without a user"))
        elif command == b"CONT" or b"temp" in words[1:]:
            asked.errback(DirectoryUnavailableError("dovecot: a temporary failure"))
        else:
            asked.callback(None)

    def lineLengthExceeded(self, line: bytes) -> None:
        """No line of the protocol is so long."""
        self._give_up("dovecot: a line that is too long")

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Whoever waits learns it."""
        self._give_up("dovecot: the service closed the connection")

    def _give_up(self, why: str) -> None:
        if self._gone:
            return
        self._gone = why
        asked, self._asked = self._asked, {}
        for one in asked.values():
            one.errback(DirectoryUnavailableError(why))
        if not self.ready.called:
            self.ready.errback(DirectoryUnavailableError(why))
        transport: Any = self.transport
        transport.abortConnection()


class DovecotJudge:
    """Judges passwords by the auth service of `settings`."""

    def __init__(self, settings: DovecotSettings, reactor: Any) -> None:
        self._settings = settings
        self._rights = settings.rights
        self._reactor = reactor
        self._client: AuthClient | None = None

    def check(self, name: str, password: bytes) -> Deferred[Account | None]:
        """Whose password it is."""
        asked = Deferred.fromCoroutine(self._check(name, password))
        return within(self._settings.timeout, asked, self._reactor, "dovecot")

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.abort()

    async def _check(self, name: str, password: bytes) -> Account | None:
        client = self._client
        if client is None or not client.usable:
            client = await self._connect()
        user = await client.ask(name, password)
        if user is None:
            return None
        try:
            known = account_name(user.decode())  # Dovecot may know the user by another name
        except ValueError:
            raise DirectoryUnavailableError("dovecot: a user whose name cannot be used") from None
        return self._rights.account(known)

    async def _connect(self) -> AuthClient:
        endpoint = UNIXClientEndpoint(self._reactor, self._settings.socket)
        try:
            client: AuthClient = await connectProtocol(endpoint, AuthClient(self._settings.service))
        except ConnectError as error:
            raise DirectoryUnavailableError(f"dovecot: {self._settings.socket}: {error}") from None
        try:
            await client.ready
        except BaseException:  # whoever asked has lost patience, or the service is of another kind
            client.abort()
            raise
        if self._client is not None and self._client.usable:  # another question was as early
            client.abort()
            return self._client
        self._client = client
        return client
