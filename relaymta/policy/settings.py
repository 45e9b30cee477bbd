"""Who may relay: the [relay] table."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from attrs import frozen

LOOPBACK: tuple[IPv4Network | IPv6Network, ...] = (
    IPv4Network("127.0.0.0/8"),
    IPv6Network("::1/128"),
)


@frozen(slots=True)
class RelaySettings:
    """The [relay] table.

    `networks`: clients that may relay to anywhere; no private network is trusted unless it is named.
    `domains`: recipient domains taken from anyone, as lower-case A-labels; a leading dot means subdomains.
    """

    networks: tuple[IPv4Network | IPv6Network, ...] = LOOPBACK
    domains: tuple[str, ...] = ()


def network(text: str) -> IPv4Network | IPv6Network:
    """Read "192.0.2.0/24" or "2001:db8::/32"; ValueError says what is wrong, host bits included."""
    return ip_network(text)
