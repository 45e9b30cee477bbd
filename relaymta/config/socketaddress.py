"""Socket addresses as the operator writes them: host and port, or the path of a UNIX socket."""

from __future__ import annotations

import ipaddress
import re
from typing import ClassVar

from attrs import frozen

from relaymta.config.hosts import is_loopback

UNIX_PATH_MAX = 107  # octets of sun_path on Linux without its final NUL, unix(7)

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.\-]*[A-Za-z0-9])?", re.ASCII)


@frozen(slots=True)
class SocketAddress:
    """Where to listen or connect: a host and port, or the path of a UNIX socket (then host is "" and port 0).

    `host` is an address or a name, IPv6 without its brackets; str.
    """

    WANTED: ClassVar[str] = 'an address such as "0.0.0.0:25", "[::]:25" or "unix:/run/x.sock"'

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def from_text(cls, text: str) -> SocketAddress:
        """Read "192.0.2.1:25", "[2001:db8::1]:25", "name:25" or "unix:/path". Raises ValueError."""
        if text.startswith("unix:"):
            return cls(path=_socket_path(text[5:]))
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit():
            raise ValueError(f'"{text}" has no port; write it as "{_with_port(text)}"')
        if not 0 < int(port) < 65536:
            raise ValueError(f'"{text}": a port is a number from 1 to 65535')
        return cls(_host(host, text), int(port))

    @property
    def is_unix(self) -> bool:
        """Whether this is the path of a UNIX socket."""
        return bool(self.path)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.is_unix or is_loopback(self.host)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _socket_path(path: str) -> str:
    if not path:
        raise ValueError('a UNIX socket needs a path, such as "unix:/run/relaymta/x.sock"')
    if len(path.encode()) > UNIX_PATH_MAX:
        raise ValueError(f"the path of a UNIX socket has at most {UNIX_PATH_MAX} octets, this one {len(path.encode())}")
    return path


def _host(host: str, text: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f'"{text}": {host} is not an IPv6 address') from None
    if ":" in host:
        raise ValueError(f'"{text}": an IPv6 address stands in brackets, such as "{_bracketed(host, text)}"')
    if not _HOST.fullmatch(host):
        raise ValueError(f'"{text}" is not an address; write it as "0.0.0.0:25", "[::]:25" or "unix:/run/x.sock"')
    if host.replace(".", "").isdigit():
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f'"{text}": {host} is not an IPv4 address') from None
    return host


def _bracketed(host: str, text: str) -> str:
    """Of the two ways to read it, the one whose host is an address."""
    try:
        return f"[{ipaddress.IPv6Address(host)}]:{text.rpartition(':')[2]}"
    except ValueError:
        return _with_port(text)


def _with_port(text: str) -> str:
    try:
        return f"[{ipaddress.IPv6Address(text.strip('[]'))}]:25"
    except ValueError:
        return f"{text or '0.0.0.0'}:25"
