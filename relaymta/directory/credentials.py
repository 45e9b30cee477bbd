"""What a client may show to prove who it is, for twisted.cred; and what can go wrong when it is looked at.

RFC 5802 and RFC 7677 (SCRAM), RFC 7628 (OAUTHBEARER), RFC 4422 appendix A (EXTERNAL). A password is
twisted.cred.credentials.UsernamePassword, both bytes in UTF-8. A portal's login() answers with an Account
(IAccount), fails with twisted.cred.error.UnauthorizedLogin for a plain no, and with DirectoryUnavailableError where
nobody could be asked: a no and "could not ask" are two answers. The dialogue of a mechanism is left to smtp.
"""

from __future__ import annotations

from typing import Protocol

from attrs import field, frozen
from twisted.cred.credentials import ICredentials
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from zope.interface import implementer

from relaymta.directory.account import Account


class DirectoryUnavailableError(Exception):
    """The accounts could not be asked; the text says why, for the log. The client may try again later."""


@frozen(slots=True)
class ScramKeys:
    """What SCRAM-SHA-256 knows of a password (RFC 5802 §3). For a name that does not exist: a likely, steady fake."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


class IScramProof(ICredentials):
    """A SCRAM client's proof."""


@implementer(IScramProof)
@frozen
class ScramProof:
    """`proof` of who knows the password of `name`, for `auth_message` (RFC 5802 §3), made with `keys`."""

    name: str
    auth_message: bytes = field(repr=False)
    proof: bytes = field(repr=False)
    keys: ScramKeys


class IBearerToken(ICredentials):
    """An OAuth 2.0 access token."""


@implementer(IBearerToken)
@frozen
class BearerToken:
    """`token` as sent (RFC 6750 §2.1); `name` is who the client says that it is, or ""."""

    name: str
    token: str = field(repr=False)


class ICertificate(ICredentials):
    """A client certificate that the TLS handshake has verified."""


@implementer(ICertificate)
@frozen
class Certificate:
    """`names` and SHA-256 `fingerprint` (hex) of a certificate; `name` is whom the client asks to be, or ""."""

    name: str
    names: tuple[str, ...]
    fingerprint: str


class Directory(Protocol):
    """All accounts behind one door. `mechanisms`: the SASL names whose credentials the portal can check."""

    portal: Portal
    mechanisms: frozenset[str]

    def keys(self, name: str) -> Deferred[ScramKeys]:
        """For the server's first message of SCRAM. Fails with DirectoryUnavailableError."""

    def changes(self, name: str) -> int:
        """A number that is another one when what is kept of that account has changed, as far as we are told."""

    def account(self, name: str) -> Deferred[Account | None]:
        """The account of that name, which nobody has logged in to; None where it is disabled, or nobody keeps it.

        Fails with DirectoryUnavailableError.
        """
