"""Who may relay: the [relay] table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from attrs import frozen

LOOPBACK: tuple[IPv4Network | IPv6Network, ...] = (
    IPv4Network("127.0.0.0/8"),
    IPv6Network("::1/128"),
)

_FINGERPRINT = re.compile(r"[0-9a-f]{64}", re.ASCII)


@frozen(slots=True)
class RelaySettings:
    """The [relay] table.

    `networks`: clients that may relay to anywhere; no private network is trusted unless it is named.
    `certificates`: fingerprints of client certificates (SHA-256 in hex) whose owners may; the fingerprint alone
    decides. `certificate_names`: names in those that an authority of the listener's `tls_client_ca` has signed; a
    leading dot means subdomains.
    `domains`: recipient domains taken from anyone, as lower-case A-labels; a leading dot means subdomains.
    """

    networks: tuple[IPv4Network | IPv6Network, ...] = LOOPBACK
    domains: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    certificate_names: tuple[str, ...] = ()

    def check(self) -> Iterable[tuple[str, str]]:
        """What is no fingerprint, as (key, what is wrong)."""
        for position, text in enumerate(self.certificates):
            if not _FINGERPRINT.fullmatch(fingerprint(text)):
                yield (
                    f"certificates[{position}]",
                    f'"{text}" is not a SHA-256 fingerprint: 64 digits of hex, as `openssl x509 -noout -fingerprint'
                    " -sha256 -in FILE` shows them",
                )


def fingerprint(text: str) -> str:
    """A fingerprint as we compare them: without colons, in lower case."""
    return text.replace(":", "").lower()


def network(text: str) -> IPv4Network | IPv6Network:
    """Read "192.0.2.0/24" or "2001:db8::/32"; ValueError says what is wrong, host bits included."""
    return ip_network(text)
