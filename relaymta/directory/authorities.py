"""Whose certificates a server of ours may show: the system's authorities, or those of one file."""

from __future__ import annotations

from typing import Any

from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates

_END = b"-----END CERTIFICATE-----"


def authorities(ca_file: str) -> Any:
    """A trust root (IOpenSSLTrustRoot); "" is the system's. Raises OSError, or ValueError where there is none."""
    if not ca_file:
        return platformTrust()
    with open(ca_file, "rb") as stream:
        pieces = stream.read().split(_END)[:-1]
    try:
        found = [Certificate.loadPEM(piece + _END + b"\n") for piece in pieces]
    except Exception:  # noqa: BLE001 pyOpenSSL's Error, or cryptography's own
        raise ValueError(f"{ca_file}: a certificate cannot be read") from None
    if not found:
        raise ValueError(f"{ca_file}: holds no certificate in PEM form")
    return trustRootFromCertificates(found)
