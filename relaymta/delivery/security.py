"""Which TLS a host must show before it gets a message, and what we remember of hosts whose TLS is broken.

RFC 3207 (STARTTLS), RFC 7435 (opportunistic security), RFC 6125 (names in certificates). The levels of a route:

    none            never
    opportunistic   where offered, unauthenticated; in clear where not offered or broken
    encrypt         or not at all; unauthenticated
    verify          or not at all; the certificate chains to a known CA and bears the host's name
    dane            or not at all; needs DNSSEC, which is not looked at yet: the message waits

How TLS is spoken is left to smtp.client.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from attrs import frozen
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import optionsForClientTLS
from zope.interface import implementer

from relaymta.routing.route import TlsLevel
from relaymta.smtp.actions import Answer, Stage, Tls, Trouble


@frozen(slots=True)
class Need:
    """What is asked of one connection. `mark` tells apart connections that must not be shared."""

    tls: Tls
    creator: IOpenSSLClientConnectionCreator | None
    mark: str


@implementer(IOpenSSLClientConnectionCreator)
class Unauthenticated:
    """Makes client connections that show the host's name (SNI) and take any certificate (RFC 7435 §3)."""

    _context: SSL.Context | None = None

    def __init__(self, name: str) -> None:
        self._name = name.encode("ascii")

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """A connection object for one handshake."""
        cls = type(self)
        if cls._context is None:
            cls._context = SSL.Context(SSL.TLS_CLIENT_METHOD)  # the library's own minimum version and ciphers
            cls._context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        connection = SSL.Connection(cls._context, None)
        if _is_name(self._name.decode()):
            connection.set_tlsext_host_name(self._name)  # RFC 6066 §3: names only
        return connection


class Security:
    """The judge. `seconds` is a monotonic clock; `memory` is how long a broken handshake is remembered."""

    def __init__(self, seconds: Callable[[], float], memory: float) -> None:
        self._seconds = seconds
        self._memory = memory
        self._broken: dict[tuple[str, int], float] = {}

    def need(self, level: TlsLevel, host: str, address: str, port: int) -> Need | Answer:
        """What a connection to `address` must be; an Answer where none will do. `host` is the MX or the named host."""
        if level is TlsLevel.NONE:
            return CLEAR
        if level is TlsLevel.OPPORTUNISTIC:
            if self._avoids_tls(address, port):
                return Need(Tls.NEVER, None, "opportunistic")
            return Need(Tls.MAY, Unauthenticated(host), "opportunistic")
        if level is TlsLevel.ENCRYPT:
            return Need(Tls.MUST, Unauthenticated(host), "encrypt")
        if level is TlsLevel.VERIFY:
            try:
                return Need(Tls.MUST, _verifying(host), f"verify {host}")
            except ValueError as error:
                return Answer(Stage.STARTTLS, trouble=Trouble.NO_TLS, text=f"no certificate can name {host}: {error}")
        text = "the route demands DANE, and this relay cannot verify it yet"
        return Answer(Stage.STARTTLS, trouble=Trouble.NO_TLS, text=text)

    def in_clear(self, need: Need, answer: Answer, address: str, port: int) -> Need | None:
        """What to try after TLS failed with `answer`: clear text where nothing demands TLS, else nothing.

        A failed handshake is remembered for minutes and not days; a peer that injects text is not rewarded.
        """
        if need.tls is not Tls.MAY or answer.stage not in (Stage.STARTTLS, Stage.HANDSHAKE):
            return None
        if answer.trouble not in (Trouble.TLS, Trouble.LOST, Trouble.TIMEOUT):
            return None
        now = self._seconds()
        self._broken = {key: until for key, until in self._broken.items() if until > now}
        self._broken[address, port] = now + self._memory
        return Need(Tls.NEVER, None, need.mark)

    def _avoids_tls(self, address: str, port: int) -> bool:
        until = self._broken.get((address, port))
        return until is not None and until > self._seconds()


CLEAR = Need(Tls.NEVER, None, "none")


@lru_cache(maxsize=256)
def _verifying(host: str) -> IOpenSSLClientConnectionCreator:
    """What checks a certificate for `host`, by the system's CAs (RFC 6125); costly to make. Raises ValueError."""
    creator: IOpenSSLClientConnectionCreator = optionsForClientTLS(host)
    return creator


def _is_name(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return True
    return False
