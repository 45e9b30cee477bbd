"""The certificate that both servers show in the scenarios over TLS: ECDSA P-256, signed by itself, good for a day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# What both servers agree on with our client, whose first choice it is; the generator refuses anything else.
CIPHER = "TLS_AES_256_GCM_SHA384"


@frozen
class Files:
    """Where it is: certificate, key, and both in one file, the key first."""

    certificate: Path
    key: Path
    both: Path


def make(directory: Path) -> Files:
    """Make it in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = Files(directory / "tls.pem", directory / "tls.key", directory / "both.pem")
    for path, octets in ((files.certificate, pem), (files.key, secret), (files.both, secret + pem)):
        path.touch(0o600)
        path.write_bytes(octets)
    return files
