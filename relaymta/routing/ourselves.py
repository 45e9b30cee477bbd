"""Who we are to the rest of the world: the names and addresses that lead back to this relay.

RFC 5321 §5.1 (a relay in its own MX set). Knowing them is what keeps mail from going round.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address

_KNOWN_MAX = 1000  # addresses whose answer is kept


def is_local(address: str) -> bool:
    """Whether an IP address is one of this machine's: exactly those can be bound."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True


class Ourselves:
    """`hostname`: ours, on the ports that we listen on; another server of this machine may have the others.

    `listening`: (address, port) of our SMTP listeners; "0.0.0.0", "::" and a name stand for all local addresses.
    `names`, `addresses`: those that lead to us on whatever port (before a NAT or a proxy). `local` tells which
    addresses are this machine's.
    """

    def __init__(
        self,
        hostname: str = "",
        listening: Iterable[tuple[str, int]] = (),
        names: Iterable[str] = (),
        addresses: Iterable[str] = (),
        local: Callable[[str], bool] = is_local,
    ) -> None:
        self._hostname = hostname.rstrip(".").lower()
        self._names = frozenset(name.rstrip(".").lower() for name in names)
        self._addresses = frozenset(str(ip_address(address)) for address in addresses)
        everywhere: set[int] = set()
        named: set[tuple[str, int]] = set()
        for address, port in listening:
            try:
                ip = ip_address(address)
            except ValueError:
                everywhere.add(port)  # a host name: some address of this machine
                continue
            if ip.is_unspecified:
                everywhere.add(port)
            else:
                named.add((str(ip), port))
        self._everywhere = frozenset(everywhere)
        self._named = frozenset(named)
        self._ports = self._everywhere | {port for _, port in named}
        self._local = local
        self._known: dict[str, bool] = {}

    def named(self, name: str, port: int) -> bool:
        """Whether the host `name` (lower case) is ourselves at `port`."""
        return name in self._names or (name == self._hostname and port in self._ports)

    def at(self, address: str, port: int) -> bool:
        """Whether a connection to `address` (as str(ip_address()) writes it) and `port` would come to us."""
        if (address, port) in self._named or address in self._addresses:
            return True
        return port in self._everywhere and self._is_local(address)

    def _is_local(self, address: str) -> bool:
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            known = self._known[address] = self._local(address)
        return known
