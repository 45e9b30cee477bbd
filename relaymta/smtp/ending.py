"""What a connection says of itself, in words for a log: its TLS, and how it ended.

RFC 6066 §3 (server name indication). The connection is pyOpenSSL's, or whatever says the same.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.python.failure import Failure


def tls_facts(connection: Any) -> str:
    """Version, cipher and bits, like "TLSv1.3 TLS_AES_256_GCM_SHA384 256"."""
    return f"{connection.get_protocol_version_name()} {connection.get_cipher_name()} {connection.get_cipher_bits()}"


def server_name(connection: Any) -> str:
    """Whom the client asked for in the handshake, or ""; its own word, whatever it is."""
    name: bytes | None = connection.get_servername()
    return "" if name is None else name.decode("ascii", "backslashreplace")


def why(failure: Failure) -> str:
    """How a connection ended."""
    if failure.check(ConnectionDone):
        return "closed by the client"
    if failure.check(ConnectionAborted):
        return "aborted"
    error = failure.value
    said = error.args[0] if isinstance(error, SSL.Error) and error.args else ""
    if isinstance(said, list) and said:  # OpenSSL's own list of (library, function, reason)
        return f"TLS: {'; '.join(str(one[-1]) for one in said)}"
    return f"lost: {failure.getErrorMessage()}"
