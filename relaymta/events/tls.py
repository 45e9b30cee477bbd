"""TLS with clients: handshakes, and the certificates that we show (RFC 3207, RFC 8314)."""

from __future__ import annotations

from attrs import frozen

from relaymta.events.ears import Event


@frozen(slots=True)
class TlsStarted(Event):
    """A session's TLS handshake ended well.

    `server_name`: whom the client asked for. `certificate`: the fingerprint (SHA-256) of the client's own, where it
    showed one; `names`: those in it, where it can be trusted.
    """

    session: str
    client: str
    tls: str
    server_name: str = ""
    certificate: str = ""
    names: str = ""


@frozen(slots=True)
class TlsFailed(Event):
    """A session's TLS handshake did not end, or ended badly."""

    session: str
    listener: str
    client: str
    reason: str


@frozen(slots=True)
class CertificateLoaded(Event):
    """Files of a certificate or of authorities have changed, and are in force; `until`: the day (UTC) of their end."""

    file: str
    names: str
    until: str


@frozen(slots=True)
class CertificateRefused(Event):
    """A certificate's files have changed and cannot be used; what they held before stays in force."""

    file: str
    reason: str
