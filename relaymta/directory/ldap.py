"""Accounts in an LDAP directory: right is the password with which the server lets the account's entry bind.

RFC 4511 (LDAP), RFC 4513 §5.1 (simple bind), RFC 4514 and RFC 4515 (names in DNs and filters), by ldap3 on threads.
TLS is Python's own, which looks at the certificate and at its name; ldap3 merely speaks through it.
"""

from __future__ import annotations

import math
import ssl
from contextlib import suppress
from typing import Any

from ldap3 import BASE, NONE, SIMPLE, SUBTREE, SYNC, Connection, Server, Tls
from ldap3.core.results import (
    RESULT_INVALID_CREDENTIALS,
    RESULT_INVALID_DN_SYNTAX,
    RESULT_NO_SUCH_OBJECT,
    RESULT_SUCCESS,
)
from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import escape_rdn
from twisted.internet.defer import Deferred

from relaymta.directory.account import Account
from relaymta.directory.credentials import DirectoryUnavailableError
from relaymta.directory.names import account_name, password_text
from relaymta.directory.patience import within
from relaymta.directory.settings import LdapSettings
from relaymta.directory.sources import NAME, is_mailbox, only
from relaymta.directory.threads import Pool

THREADS = 4  # of each process, each with a connection of its own; ours
WAITING = 100
NOBODY = (RESULT_INVALID_CREDENTIALS, RESULT_NO_SUCH_OBJECT, RESULT_INVALID_DN_SYNTAX)


class VerifiedTls(Tls):  # type: ignore[misc] # ldap3 has no types
    """ldap3's TLS, but with a context that verifies the certificate and the name by itself."""

    def __init__(self, host: str, ca_file: str) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._host = host
        self._context = ssl.create_default_context(cafile=ca_file or None)

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        """Begin TLS on the connection's socket; the handshake is made here in any case."""
        connection.socket = self._context.wrap_socket(connection.socket, server_hostname=self._host)


class LdapJudge:
    """Judges passwords by the server of `settings`; `password` is that of its bind_dn."""

    def __init__(self, settings: LdapSettings, password: str, reactor: Any) -> None:
        self._settings = settings
        self._password = password
        self._reactor = reactor
        self._pool = Pool("ldap", THREADS, WAITING, reactor.callFromThread)
        host, port, tls = settings.server
        self._starttls = settings.starttls and not tls
        self._server = Server(
            host,
            port,
            use_ssl=tls,
            tls=VerifiedTls(host, settings.ca_file) if tls or self._starttls else None,
            get_info=NONE,
            connect_timeout=settings.timeout,
        )

    def check(self, name: str, password: bytes) -> Deferred[Account | None]:
        """Whose password it is."""
        asked = self._pool.run(self._check, name, password)
        return within(self._settings.timeout, asked, self._reactor, "ldap")

    def close(self) -> None:
        """Connections end with their question."""
        self._pool.close()

    def _check(self, name: str, password: bytes) -> Account | None:
        """On a thread."""
        try:
            prepared = password_text(password)
        except ValueError:
            return None
        if not prepared:  # RFC 4513 §5.1.2: a bind without a password is right for everybody
            return None
        try:
            return self._ask(name, prepared)
        except DirectoryUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 ldap3's own, the socket's, and what broken BER comes to
            raise DirectoryUnavailableError(f"ldap: {_reason(error)}") from None

    def _ask(self, name: str, password: str) -> Account | None:
        settings = self._settings
        connection = Connection(
            self._server,
            settings.bind_dn or None,
            self._password or None,
            client_strategy=SYNC,
            auto_referrals=False,  # our passwords go to the server that was named
            receive_timeout=max(1, math.ceil(settings.timeout)),  # whole seconds are all that it can
            return_empty_attributes=False,
        )
        try:
            connection.open(read_server_info=False)
            if self._starttls and not connection.start_tls(read_server_info=False):
                raise DirectoryUnavailableError("ldap: the server does not begin TLS")
            dn = self._find(connection, name)
            if not dn:  # RFC 4513 §5.1.1: a bind without a name is anonymous, whatever the password
                return None
            connection.rebind(dn, password, SIMPLE, read_server_info=False)
            code = connection.result["result"]
            if code in NOBODY:
                return None
            if code != RESULT_SUCCESS:
                raise DirectoryUnavailableError(f"ldap: {connection.result['description']} at bind")
            return self._account(connection, dn, name)
        finally:
            with suppress(Exception):  # on a socket that broke; what broke it is the reason
                connection.unbind()

    def _find(self, connection: Any, name: str) -> str:
        """The DN of the account, or ""."""
        settings = self._settings
        if settings.user_dn:
            return settings.user_dn.replace(NAME, escape_rdn(name))  # RFC 4514 §2.4
        if not connection.bind(read_server_info=False):
            raise DirectoryUnavailableError(f"ldap: {connection.result['description']} at bind as bind_dn")
        fitting = settings.filter.replace(NAME, escape_filter_chars(name))  # RFC 4515 §3
        found = self._search(connection, settings.base, fitting, SUBTREE, [])
        if len(found) > 1:
            raise DirectoryUnavailableError("ldap: the filter finds more than one entry for a name")
        return str(found[0]["dn"]) if found else ""

    def _account(self, connection: Any, dn: str, name: str) -> Account:
        settings = self._settings
        if settings.name_attribute:
            name = self._known_as(connection, dn)
        account = settings.rights.account(name)
        if not settings.senders_attribute:
            return account
        values = self._values(connection, dn, settings.senders_attribute)
        return Account(name, only(filter(is_mailbox, values)), account.relay)

    def _known_as(self, connection: Any, dn: str) -> str:
        """One name for each entry, whichever spelling or alias of it the filter has found; of several the first."""
        attribute, names = self._settings.name_attribute, list[str]()
        for value in self._values(connection, dn, attribute):
            with suppress(ValueError):
                names.append(account_name(value))
        if not names:
            raise DirectoryUnavailableError(f"ldap: the entry has no {attribute} that can be a name")
        return min(names)

    def _values(self, connection: Any, dn: str, attribute: str) -> list[str]:
        found = self._search(connection, dn, "(objectClass=*)", BASE, [attribute])
        return [str(value) for one in found for given in one["attributes"].values() for value in _listed(given)]

    def _search(self, connection: Any, base: str, fitting: str, scope: str, attributes: list[str]) -> list[Any]:
        connection.search(
            base, fitting, scope, attributes=attributes, size_limit=2, time_limit=max(1, int(self._settings.timeout))
        )
        code = connection.result["result"]
        found = [one for one in connection.response or [] if one["type"] == "searchResEntry"]
        if code == RESULT_NO_SUCH_OBJECT or (code != RESULT_SUCCESS and len(found) < 2):
            raise DirectoryUnavailableError(f"ldap: {connection.result['description']} at search")
        return found


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
