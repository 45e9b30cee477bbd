"""Certificates made for one test run: an authority, and leaves that it signs."""

from __future__ import annotations

import datetime
import functools
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import Certificate
from zope.interface import implementer


@implementer(IOpenSSLServerConnectionCreator)
@frozen
class ServerSide:
    """Makes a server's TLS connections with one certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_privatekey(self.key)
        context.use_certificate(self.certificate)
        return SSL.Connection(context, None)


@frozen
class Authority:
    """A CA by itself."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def trusted(self) -> Certificate:
        """As Twisted wants its trust roots."""
        return Certificate.loadPEM(self.certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str, names: tuple[str, ...] | None = None) -> ServerSide:
        """A server's side with a certificate for `name`; `names` stand in its subjectAltName instead, none for ()."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self.certificate.subject, key.public_key())
        alternative = [x509.DNSName(one) for one in ((name,) if names is None else names)]
        if alternative:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        signed = builder.sign(self.key, hashes.SHA256())
        return ServerSide(key, signed)


@functools.cache
def authority() -> Authority:
    """The CA of this run."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relaymta test authority")])
    builder = _builder("relaymta test authority", name, key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return Authority(key, builder.sign(key, hashes.SHA256()))


def _builder(subject: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
