"""What TLS gives to a log-in, read from OpenSSL's connection: data for channel binding, the client certificate.

RFC 9266 (tls-exporter, for TLS 1.3), RFC 5929 §4 (tls-server-end-point). tls-unique is not there: it is undefined for
TLS 1.3, and unsafe below without extensions that OpenSSL does not tell of (RFC 7627).
"""

from __future__ import annotations

import hashlib
from typing import Any

from relaymta.smtp.authing import CLEAR, Channel

EXPORTER = "tls-exporter"
END_POINT = "tls-server-end-point"
_LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266 §2
_LENGTH = 32  # octets; the same


def channel_of(connection: Any, certificate: str = "", names: tuple[str, ...] = ()) -> Channel:
    """The channel of an OpenSSL.SSL.Connection after its handshake; the client certificate is as in Peer."""
    if connection is None:
        return CLEAR

    def binding(kind: str) -> bytes | None:
        if kind == EXPORTER and EXPORTER in kinds:
            exported: bytes = connection.export_keying_material(_LABEL, _LENGTH)
            return exported
        return _end_point(connection) if kind == END_POINT else None

    kinds: tuple[str, ...]
    if connection.get_protocol_version_name() == "TLSv1.3":
        kinds = (EXPORTER, END_POINT)
    else:
        kinds = () if _end_point(connection) is None else (END_POINT,)
    return Channel(kinds, binding, certificate, names)


def _end_point(connection: Any) -> bytes | None:
    """The hash of our certificate, by the hash function of its signature (RFC 5929 §4.1); None where it has none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = connection.get_certificate(as_cryptography=True)
    try:
        function = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if function is None:
        return None
    name = "sha256" if function.name in ("md5", "sha1") else function.name
    try:
        return hashlib.new(name.replace("-", "_"), certificate.public_bytes(Encoding.DER)).digest()
    except ValueError:  # a function that this OpenSSL does not have
        return None
