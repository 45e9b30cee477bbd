"""Certificates made for tests: of any kind of key, signed by themselves or by one another, valid when wanted."""

from __future__ import annotations

import datetime
import functools
from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID, NameOID


@functools.cache
def key_of(kind: str) -> Any:
    """A key, made once a run: "ec", "ec-other", "rsa", "rsa-1024"."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind.partition("-")[2] or 2048))
    return ec.generate_private_key(ec.SECP256R1())


@frozen
class Made:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def write(self, folder: Path, name: str, mode: int = 0o600) -> tuple[str, str]:
        """Write NAME.pem and NAME.key; their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.pem)
        key.touch(mode)
        key.chmod(mode)
        key.write_bytes(self.key_pem)
        return str(certificate), str(key)


def naming(octets: bytes) -> Made:
    """A certificate whose subjectAltName is these octets, whatever they are."""
    made = make()
    known = made.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(known.subject)
        .issuer_name(known.issuer)
        .public_key(made.key.public_key())
        .serial_number(known.serial_number)
        .not_valid_before(known.not_valid_before_utc)
        .not_valid_after(known.not_valid_after_utc)
        .add_extension(x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, octets), critical=False)
    )
    return Made(builder.sign(made.key, hashes.SHA256()), made.key)


def make(
    *names: str,
    kind: str = "ec",
    by: Made | None = None,
    days: float = 30,
    since: float = -1,
    ca: bool = False,
    common_name: str = "test",
) -> Made:
    """A certificate for DNS names and mailboxes (with "@"), valid from `since` to `days` days from now."""
    key = key_of(kind)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(by.certificate.subject if by else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=since))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
    if names:
        alternatives = [x509.RFC822Name(one) if "@" in one else x509.DNSName(one) for one in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return Made(builder.sign(by.key if by else key, hashes.SHA256()), key)
