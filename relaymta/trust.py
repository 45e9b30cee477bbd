"""That a server of HTTPS is whom its URL names: a chain to an authority that is believed, and the name.

RFC 6125 §6, RFC 6066 §3. Not by twisted's optionsForClientTLS, and so not by the Agent's own policy either: there a
certificate whose names cannot be read, as one without any, passes for every host once its chain is good. Here whatever
is not proved fails.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from OpenSSL import SSL
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, platformTrust
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

# Twisted's own, without Diffie-Hellman over numbers, whose size a server chooses: up to a second of our time for each
# handshake.
CIPHERS = "ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES256:ECDH+AES128:RSA+AESGCM:RSA+AES:!aNULL:!MD5:!DSS"


def believing(trust_root: Any = None) -> CertificateOptions:
    """What every connection of a client shares: the authorities are read once.

    `trust_root` is Twisted's IOpenSSLTrustRoot; None is the system's.
    """
    return CertificateOptions(
        trustRoot=platformTrust() if trust_root is None else trust_root,
        acceptableCiphers=AcceptableCiphers.fromOpenSSLCipherString(CIPHERS),
    )


@implementer(IOpenSSLClientConnectionCreator)
class Verifying:
    """Makes a connection that shows the host's name and takes no certificate but one for it."""

    def __init__(self, options: CertificateOptions, host: str) -> None:
        self._options = options
        self.stranger = False  # whether a certificate with a good chain was not for the host
        try:
            self._service: Any = IPAddress_ID(str(ip_address(host)))
            self._name = b""
        except ValueError:
            self._service = DNS_ID(host)
            self._name = host.encode("ascii")

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """For one handshake."""
        connection = SSL.Connection(self._options.getContext(), None)
        if self._name:
            connection.set_tlsext_host_name(self._name)  # RFC 6066 §3: names only
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._check)
        return connection

    def _check(self, connection: SSL.Connection, certificate: Any, error: int, depth: int, ok: int) -> bool:
        """OpenSSL asks for each certificate of the chain, the server's own last."""
        if not ok or depth:
            return bool(ok)
        try:
            verify_service_identity(extract_patterns(certificate), [self._service], [])
        except Exception:  # noqa: BLE001 a name that cannot be read is no proof
            self.stranger = True
            return False
        return True


@implementer(IPolicyForHTTPS)
class VerifyingPolicy:
    """For twisted.web's Agent, in the place of its BrowserLikePolicyForHTTPS."""

    def __init__(self, options: CertificateOptions) -> None:
        self._options = options
        self._creator: Verifying | None = None

    @property
    def stranger(self) -> bool:
        """Whether the last server had a good certificate, but one for another name."""
        return self._creator is not None and self._creator.stranger

    def creatorForNetloc(self, hostname: bytes, port: int) -> Verifying:
        """For the Agent. Raises ValueError for a name that is none."""
        self._creator = Verifying(self._options, hostname.decode("ascii").strip("[]"))
        return self._creator
