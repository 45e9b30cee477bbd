"""Which name servers are asked, in which order, and what we remember of their health.

resolv.conf(5) where the configuration names none; read again when it changes. RFC 6891 §6.2.2 (servers that do not
know EDNS).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from attrs import Attribute, define, field, frozen

from relaymta.config import Duration

PORT = 53
RESOLV_CONF = Path("/etc/resolv.conf")
SERVERS_MAX = 4  # ours: a question must end in half a minute; resolv.conf(5) takes three
_LOOK_AGAIN = 30.0  # seconds between two looks at resolv.conf's time stamp
_STRIKES = 3  # silences in a row before a server rests: one slow zone must not condemn its resolver
_REST_MIN, _REST_MAX = 5.0, 60.0  # seconds; ours: short enough to notice a restart


def parse_server(text: str) -> tuple[str, int]:
    """Read "192.0.2.1:53", "[2001:db8::1]:53" or an address alone. Raises ValueError with a sentence."""
    host, port = text, str(PORT)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f'name server "{text}": expected "[address]:port"')
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        host = str(ip_address(host))
    except ValueError:
        raise ValueError(f'name server "{text}": expected an IP address and a port, like "127.0.0.1:53"') from None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f'name server "{text}": the port must be a number from 1 to 65535')
    return host, int(port)


def _valid_servers(_: object, __: Attribute[tuple[str, ...]], servers: tuple[str, ...]) -> None:
    if len(servers) > SERVERS_MAX:
        raise ValueError(f"at most {SERVERS_MAX} name servers")
    for server in servers:
        parse_server(server)


def _valid_timeouts(_: object, __: Attribute[tuple[Duration, ...]], timeouts: tuple[Duration, ...]) -> None:
    if not timeouts or min(timeouts) <= 0:
        raise ValueError("at least one time above zero is wanted")


def _positive(_: object, __: Attribute[int], number: int) -> None:
    if number < 1:
        raise ValueError("must be at least 1")


@frozen(slots=True)
class DnsSettings:
    """The [dns] table.

    `servers`: recursive name servers in the order of liking, "address:port"; none means resolv.conf(5).
    `trust_ad`: believe the AD bit, since the path to the servers and their validation are trusted (RFC 7672 §2.1).
    `timeouts`: how long each try waits, in order. `concurrency`: questions under way at once.
    """

    servers: tuple[str, ...] = field(default=(), validator=_valid_servers)
    trust_ad: bool = False
    timeouts: tuple[Duration, ...] = field(
        default=(Duration(2.0), Duration(4.0), Duration(8.0)), validator=_valid_timeouts
    )
    concurrency: int = field(default=200, validator=_positive)
    cache_entries: int = field(default=20_000, validator=_positive)


@define
class Server:
    """One name server and what we remember of it."""

    host: str
    port: int
    strikes: int = 0
    rests_until: float = 0.0
    edns: bool = True

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Servers:
    """The servers of the settings, or of `resolv_conf`; `seconds` is the clock."""

    def __init__(self, servers: tuple[str, ...], seconds: Callable[[], float], resolv_conf: Path = RESOLV_CONF) -> None:
        self._seconds = seconds
        self._resolv_conf = None if servers else resolv_conf
        self._stamp: tuple[int, int, int] | None = None
        self._look_at = 0.0
        self._servers = [Server(*parse_server(server)) for server in servers]
        if self._resolv_conf is not None:
            self._reread(seconds())

    def in_order(self) -> list[Server]:
        """The servers to ask, the healthy ones first, each group in the configured order; never empty.

        A server whose rest is over is shown as healthy to one caller; the others see it resting until it answered.
        """
        now = self._seconds()
        if self._resolv_conf is not None and now >= self._look_at:
            self._reread(now)
        if len(self._servers) == 1:
            return self._servers[:]
        order = sorted(self._servers, key=lambda server: max(0.0, server.rests_until - now))
        for server in order:
            if server.strikes >= _STRIKES and server.rests_until <= now:
                server.rests_until = now + _REST_MIN
        return order

    def answered(self, server: Server) -> None:
        """`server` is alive."""
        if server.strikes:
            server.strikes = 0
            server.rests_until = 0.0

    def silent(self, server: Server, refused: bool) -> None:
        """`server` did not answer in time, or its host said that nobody listens (`refused`)."""
        server.strikes = max(server.strikes + 1, _STRIKES) if refused else server.strikes + 1
        if server.strikes >= _STRIKES:
            rest = min(_REST_MIN * 2 ** min(server.strikes - _STRIKES, 10), _REST_MAX)
            server.rests_until = self._seconds() + rest

    def _reread(self, now: float) -> None:
        assert self._resolv_conf is not None
        self._look_at = now + _LOOK_AGAIN
        try:
            status = os.stat(self._resolv_conf)
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return
            named = nameservers(self._resolv_conf.read_bytes())
        except OSError:
            named = []
            stamp = None
        if stamp is None and self._servers:
            return  # gone or unreadable for a moment: what we knew is better than nothing
        self._stamp = stamp
        known = {(server.host, server.port): server for server in self._servers}
        # resolv.conf(5): the local machine where none is named
        addresses = named or [("127.0.0.1", PORT)]
        self._servers = [known.get(address) or Server(*address) for address in addresses]


def nameservers(octets: bytes) -> list[tuple[str, int]]:
    """The first SERVERS_MAX `nameserver` lines of a resolv.conf(5); those that name no IP address are passed over."""
    found: list[tuple[str, int]] = []
    for line in octets.decode("ascii", "replace").splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            server = (str(ip_address(words[1])), PORT)
        except ValueError:
            continue
        if server not in found:
            found.append(server)
    return found[:SERVERS_MAX]
