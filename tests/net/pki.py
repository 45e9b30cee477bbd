"""Certificates for one test run: roots, intermediates and leaves, well made or with one fault."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Sequence
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
DAY = datetime.timedelta(days=1)


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    """One for the run: they are slow to make."""
    return rsa.generate_private_key(65537, 2048)


@frozen
class Issued:
    """A certificate and its key."""

    key: Key
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        """As it goes over the wire."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def spki(self) -> bytes:
        """Its public key, as selector SPKI(1) means it."""
        return self.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def pem(self) -> bytes:
        """As a file holds it."""
        return self.certificate.public_bytes(Encoding.PEM)


def issue(
    common: str,
    issuer: Issued | None = None,
    *,
    names: Sequence[str] = (),
    authority: bool = False,
    expired: bool = False,
    early: bool = False,
    usage: x509.ObjectIdentifier | None = None,
    key: Key | None = None,
    extra: x509.ExtensionType | None = None,
) -> Issued:
    """A certificate for `common` and `names`, signed by `issuer` or by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    begin, end = now - DAY, now + DAY
    if expired:
        begin, end = now - 3 * DAY, now - DAY
    if early:
        begin, end = now + DAY, now + 3 * DAY
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    if extra is not None:
        builder = builder.add_extension(extra, False)
    signer = issuer.key if issuer else key
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Issued(key, builder.sign(signer, algorithm))


@implementer(IOpenSSLServerConnectionCreator)
@frozen
class Presents:
    """The server's side of TLS with a chain."""

    chain: tuple[Issued, ...]

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_privatekey(self.chain[0].key)
        context.use_certificate(self.chain[0].certificate)
        for above in self.chain[1:]:
            context.add_extra_chain_cert(above.certificate)
        return SSL.Connection(context, None)
