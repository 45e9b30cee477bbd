"""The seam between the dialogue and whoever decides: what a session asks, and what it may be answered.

Every answer may be a plain value, which keeps the session synchronous, or an awaitable. Nothing more is read from
the client while one is awaited, so that the answers to pipelined commands keep their order (RFC 2920 §3.2).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from attrs import define

from relaymta.directory.account import Account
from relaymta.directory.credentials import ScramKeys
from relaymta.mail.reply import Reply
from relaymta.smtp import answers
from relaymta.smtp.authing import LoggingIn
from relaymta.smtp.commands import MailCommand, RcptCommand, XForward

Verdict = Reply | None | Awaitable[Reply | None]  # None: the standard positive reply


@define(slots=True, eq=False)
class Peer:
    """The facts of one session, filled as it goes on.

    `client` and `local` are IP addresses as text, "" over a UNIX socket; `tls` is like
    "TLSv1.3 TLS_AES_256_GCM_SHA384 256", or "" in clear; `account` is who authenticated, by XCLIENT's word too, or "".
    `server_name` is whom the client asked for in the handshake (SNI), as it said it, or "".
    `certificate` is the SHA-256 fingerprint (lower-case hex) of a client certificate, "" without one;
    `certificate_names` the names (str: DNS names and mailboxes of its subjectAltName, else its CN) of one that chains
    to the listener's `tls_client_ca`, () where it does not.
    `proxy` is the address of who said whose connection this is, "" where nobody did; `introduced`: by XCLIENT. Where it
    could not say, `known` is False and `client` the proxy's own address, which earns nothing. `name` is the client's
    name in the DNS as XCLIENT gave it. `forwarded` is where the message under way comes from, as XFORWARD said.
    `commands` is counted up to date when the handler's `closed` is called.
    """

    session: str
    listener: str
    client: str
    port: int
    local: str
    helo: str = ""
    esmtp: bool = False
    tls: str = ""
    account: str = ""
    server_name: str = ""
    certificate: str = ""
    certificate_names: tuple[str, ...] = ()
    commands: int = 0
    lmtp: bool = False
    known: bool = True
    proxy: str = ""
    introduced: bool = False
    name: str = ""
    forwarded: XForward | None = None


class Sink(Protocol):
    """Where the content of one message goes. After `finish` or `abort` it is not called again."""

    def write(self, octets: bytes) -> None:
        """Take clean content, CRLF line ends and dots unstuffed, in pieces of whatever size."""

    def finish(self) -> Reply | Awaitable[Reply]:
        """The content is whole; the reply to the end of data. An awaitable is not cancelled when the client goes."""

    def abort(self) -> None:
        """The content is not wanted: connection lost, too large, bad, RSET between chunks."""


class NoLogins:
    """The part of a Handler that is asked about AUTH, where there are no accounts: it never is."""

    def keys(self, name: str) -> Reply:
        """Cannot be had."""
        return answers.AUTH_UNAVAILABLE

    def auth(self, attempt: LoggingIn) -> Reply:
        """Cannot be checked."""
        return answers.AUTH_UNAVAILABLE

    def authenticated(self, account: Account, mechanism: str) -> None:
        """Nobody is."""


class Handler(Protocol):
    """Decides for one session; made by the factory when the client has connected."""

    def connect(self) -> Verdict:
        """A client is there. None greets it; a reply is said instead of the greeting, and closes.

        Of an `introduced` peer it takes the `account` away, where that is nobody's.
        """

    def helo(self, name: str, esmtp: bool) -> Verdict:
        """EHLO (`esmtp`) or HELO; the peer's `helo` and `esmtp` are already those."""

    def keys(self, name: str) -> ScramKeys | Reply | Awaitable[ScramKeys | Reply]:
        """AUTH by SCRAM, as `name`: the keys of its password."""

    def auth(self, attempt: LoggingIn) -> Account | Reply | Awaitable[Account | Reply]:
        """AUTH has come to its credentials: whose they are, or why they are not taken (535, 454)."""

    def authenticated(self, account: Account, mechanism: str) -> None:
        """AUTH ended well; the peer's `account` is that name already."""

    def mail(self, command: MailCommand) -> Verdict:
        """MAIL, well formed and in turn."""

    def rcpt(self, command: RcptCommand) -> Verdict:
        """RCPT, well formed and in turn."""

    def data(self) -> Sink | Reply | Awaitable[Sink | Reply]:
        """DATA or the first BDAT, with at least one recipient accepted."""

    def reset(self) -> None:
        """The transaction is gone: RSET, EHLO, after the end of data, connection lost."""

    def refused(self, command: str, reply: Reply) -> None:
        """The dialogue itself said a 4xx or 5xx: grammar, order or limits. `command` is fit for a log."""

    def closed(self, reason: str) -> None:
        """The connection is gone. The last call of a session."""
