"""TLS connections of the client's side, and the proof that their peers are who they must be.

RFC 7435 §3 (unauthenticated), RFC 6125 and RFC 8461 §4.2 (a certificate of a known authority), RFC 7672 (DANE),
RFC 8996 (nothing older than TLS 1.2 proves anything), RFC 6066 §3 (the name that is shown to the server). The proof
is looked at when the handshake is done and before a word is said, so that what was wrong can be told exactly. Which
of these is asked for is left to delivery.security.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from attrs import evolve
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from relaymta.config.hosts import is_address
from relaymta.net import dane
from relaymta.net.dane_chain import EXPIRED, Result
from relaymta.smtp.actions import Verdict

UNPROVEN: Final = Verdict()
# Without ephemeral Diffie-Hellman over numbers: of the size that a server may choose for it (10,000 bits with OpenSSL)
# one handshake took 0.9 s, in which nobody else was served. TLS 1.3 names its groups, and those are small.
CIPHERS: Final = b"DEFAULT:!kDHE"
_LABEL: Final = re.compile(r"[0-9A-Za-z_-]{1,63}")
UNREADABLE: Final = Verdict("", Result.NOT_TRUSTED.value, "the certificate cannot be read", True)


def can_be_named(host: str) -> bool:
    """Whether a certificate can bear this name (A-labels)."""
    labels = host.split(".")
    return host.isascii() and len(host) <= 253 and all(map(_LABEL.fullmatch, labels))


def _connection(context: SSL.Context, name: str) -> SSL.Connection:
    connection = SSL.Connection(context, None)
    if not is_address(name) and can_be_named(name):
        connection.set_tlsext_host_name(name.encode("ascii"))  # RFC 6066 §3: names only
    return connection


def _trusting_all(_: SSL.Connection, __: crypto.X509, ___: int, ____: int, _____: int) -> bool:
    return True


def open_context() -> SSL.Context:
    """The library's own minimum version and nearly its ciphers; no certificate is looked at."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_cipher_list(CIPHERS)
    context.set_options(SSL.OP_NO_RENEGOTIATION)  # who was looked at stays who it is, and one handshake is enough
    context.set_verify(SSL.VERIFY_NONE, _trusting_all)
    return context


def strict_context() -> SSL.Context:
    """For what shall prove something; the certificate is looked at afterwards."""
    context = open_context()
    context.set_min_proto_version(SSL.TLS1_2_VERSION)  # RFC 8996
    return context


def trusting_context(ca_file: str) -> SSL.Context:
    """With the authorities of this file, or the system's where it is "". Raises SSL.Error."""
    context = strict_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.set_default_verify_paths()
    return context


class Contexts:
    """The contexts of one configuration, each made when it is first wanted: the authorities take a while to read."""

    def __init__(self, ca_file: str = "") -> None:
        self._ca_file = ca_file
        self._made: dict[str, SSL.Context] = {}

    @property
    def open(self) -> SSL.Context:
        """As open_context."""
        return self._get("open", open_context)

    @property
    def strict(self) -> SSL.Context:
        """As strict_context."""
        return self._get("strict", strict_context)

    @property
    def trusting(self) -> SSL.Context:
        """As trusting_context. Raises SSL.Error."""
        return self._get("trusting", lambda: trusting_context(self._ca_file))

    def _get(self, name: str, make: Callable[[], SSL.Context]) -> SSL.Context:
        context = self._made.get(name)
        if context is None:
            context = self._made[name] = make()
        return context


@implementer(IOpenSSLClientConnectionCreator)
class Unauthenticated:
    """Shows the host's name and takes any certificate (RFC 7435 §3)."""

    def __init__(self, contexts: Contexts, name: str) -> None:
        self._contexts = contexts
        self._name = name

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """A connection object for one handshake."""
        return _connection(self._contexts.open, self._name)

    def judge(self, connection: SSL.Connection) -> Verdict:
        """Nothing was asked and nothing is proved."""
        return UNPROVEN


@implementer(IOpenSSLClientConnectionCreator)
class Pkix:
    """The certificate must chain to a known authority and bear the host's name.

    Not `binding`: it is looked at for a report alone (RFC 8461 §5, "testing").
    """

    def __init__(self, contexts: Contexts, host: str, how: str = "PKIX", *, binding: bool = True) -> None:
        self._context = contexts.trusting
        self._host = host
        self._how = how
        self._binding = binding
        self._faults: WeakKeyDictionary[SSL.Connection, list[int]] = WeakKeyDictionary()

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """A connection object that notes what OpenSSL finds wrong, and goes on to be judged."""
        connection = _connection(self._context, self._host)
        faults = self._faults[connection] = []
        connection.set_verify(SSL.VERIFY_PEER, _note_into(faults))
        return connection

    def judge(self, connection: SSL.Connection) -> Verdict:
        """By what was noted, and the names."""
        try:
            result, text = self._look(connection)
        except Exception:  # noqa: BLE001 - what makes a library stumble proves nothing
            return evolve(UNREADABLE, fatal=self._binding)
        if result is None:
            return Verdict(self._how)
        return Verdict("", result.value, text, self._binding)

    def _look(self, connection: SSL.Connection) -> tuple[Result | None, str]:
        faults = self._faults[connection]
        if connection.get_peer_certificate() is None:
            return Result.VALIDATION, "the peer showed no certificate"
        if faults:
            expired = next((fault for fault in faults if fault in EXPIRED), None)
            untrusted = next((fault for fault in faults if fault not in EXPIRED), None)
            if untrusted is not None:
                return Result.NOT_TRUSTED, f"the certificate is not trusted: {_words(untrusted)}"
            return Result.EXPIRED, f"the certificate is not in force: {_words(expired)}"
        try:
            if is_address(self._host):
                verify_ip_address(connection, self._host)
            else:
                verify_hostname(connection, self._host)
        except (VerificationError, CertificateError):
            return Result.HOST_MISMATCH, f"the certificate is not for {self._host}"
        return None, ""


def _note_into(faults: list[int]) -> Callable[[SSL.Connection, crypto.X509, int, int, int], bool]:
    def note(_: SSL.Connection, __: crypto.X509, fault: int, ___: int, ____: int) -> bool:
        if fault:
            faults.append(fault)
        return True

    return note


_WORDS = {
    9: "it is not yet valid",
    10: "it has expired",
    18: "it is signed by itself",
    19: "its root is unknown here",
    20: "its issuer is unknown here",
    21: "its issuer is unknown here",
    26: "it is not for servers",
    66: "its key is too weak",
    67: "a key above it is too weak",
    68: "it is signed with a weak digest",
}


def _words(fault: int | None) -> str:
    return _WORDS.get(fault or 0, f"OpenSSL says error {fault}")


@implementer(IOpenSSLClientConnectionCreator)
class Dane:
    """The chain must be what TLSA records say. `names`: whom it may be for under DANE-TA (RFC 7672 §3.2.2)."""

    def __init__(self, contexts: Contexts, terms: dane.Terms, names: tuple[str, ...]) -> None:
        self._context = contexts.strict
        self._terms = terms
        self._names = names

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """A connection object that shows the TLSA base domain (RFC 7672 §8.1)."""
        return _connection(self._context, self._terms.base)

    def judge(self, connection: SSL.Connection) -> Verdict:
        """By the chain as the peer presented it."""
        try:
            certificates = connection.get_peer_cert_chain() or []
            chain = [crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in certificates]
            finding = dane.verify(chain, self._terms.records, self._names)
        except Exception:  # noqa: BLE001 - as above
            return UNREADABLE
        if finding.result is None:
            return Verdict(finding.how)
        text = f"DANE at {self._terms.base}: {finding.text}"
        return Verdict("", finding.result.value, text, fatal=True)
