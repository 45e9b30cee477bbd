"""What is open to more than its writer may think: networks as wide as the world, files that anybody may change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

WIDEST = {4: 8, 6: 16}  # bits; ours: no holder of addresses has more than a /8, or a /16 of IPv6

Network = IPv4Network | IPv6Network


def are_everybody(networks: Iterable[Network]) -> bool:
    """Whether networks that are not everybody each are all of IPv4 or of IPv6 together: 0.0.0.0/1 and 128.0.0.0/1."""
    found = list(networks)
    if any(one.prefixlen == 0 for one in found):
        return False
    four = collapse_addresses(one for one in found if isinstance(one, IPv4Network))
    six = collapse_addresses(one for one in found if isinstance(one, IPv6Network))
    return any(one.prefixlen == 0 for one in four) or any(one.prefixlen == 0 for one in six)


def is_wide(network: Network) -> bool:
    """Whether so much can be nobody's own."""
    return network.prefixlen < WIDEST[network.version] and not (network.is_private or network.is_link_local)


def is_changeable(path: str) -> bool:
    """Whether everybody on this machine may write to the file, or make others in the directory."""
    try:
        facts = os.stat(path)
    except OSError:
        return False
    return bool(facts.st_mode & stat.S_IWOTH) and not stat.S_ISCHR(facts.st_mode)
