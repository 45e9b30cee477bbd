"""The header that a proxy puts before a connection to say whose it is: octets to a value, without input or output.

The PROXY protocol of haproxy (proxy-protocol.txt, 2020/03/05): version 1 (§2.1, a line of text) and version 2 (§2.2,
binary). Every octet is judged as soon as it has come, and no split of the stream changes the verdict. Who may send one,
for how long it is awaited and what becomes of the connection is left to smtp.vestibule.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import unpack_from

from attrs import frozen

V1 = b"PROXY "
V2 = b"\r\n\r\n\0\r\nQUIT\n"  # §2.2: chosen so that no SMTP server takes it for commands
V1_MAX = 107  # §2.1: octets of the longest line, CRLF included
V2_MAX = 4096  # octets after the first 16; ours: addresses are at most 216, and known TLVs come to a few hundred

_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_FAMILIES = {0: 0, 1: 12, 2: 36, 3: 216}  # §2.2: octets of both addresses, for UNSPEC, INET, INET6 and UNIX


class ProxyHeaderError(ValueError):
    """What came is no header of a proxy; the text says why, and holds nothing of what was sent."""


@frozen(slots=True)
class ProxyHeader:
    """Whose connection it is: addresses as text, IPv4 where it is IPv4-mapped.

    `client` "" is nobody: the proxy speaks for itself (LOCAL, its health checks), or cannot say (UNKNOWN, UNSPEC, a
    client of its UNIX socket).
    """

    client: str = ""
    port: int = 0
    local: str = ""


def parse(octets: bytes) -> tuple[ProxyHeader, int] | None:
    """The header at the start of `octets` and its length; None when more octets are needed.

    Raises ProxyHeaderError, as early as the first octet that cannot be right.
    """
    if V2.startswith(octets[:12]):
        return _version2(octets)
    if V1.startswith(octets[:6]):
        return _version1(octets)
    raise ProxyHeaderError("no PROXY header")


def _version1(octets: bytes) -> tuple[ProxyHeader, int] | None:
    end = octets.find(b"\r\n", 0, V1_MAX)
    if end < 0:
        if len(octets) >= V1_MAX:
            raise ProxyHeaderError("the PROXY line is too long")
        if b"\n" in octets:
            raise ProxyHeaderError("the PROXY line does not end with CRLF")
        return None
    line = octets[:end]
    if b"\n" in line or b"\r" in line:
        raise ProxyHeaderError("the PROXY line does not end with CRLF")
    return _named(line), end + 2


def _named(line: bytes) -> ProxyHeader:
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":  # §2.1: the rest of the line is ignored
        return ProxyHeader()
    versions = {b"TCP4": 4, b"TCP6": 6}
    if len(words) != 6 or words[1] not in versions:
        raise ProxyHeaderError("malformed PROXY line")
    client, local = (_address(word, versions[words[1]]) for word in words[2:4])
    port, _ = (_port(word) for word in words[4:6])
    return ProxyHeader(client, port, local)


def _address(word: bytes, version: int) -> str:
    try:
        address = ip_address(word.decode("ascii"))
    except ValueError:  # UnicodeDecodeError is one
        raise ProxyHeaderError("malformed address in the PROXY line") from None
    if address.version != version or b"%" in word:
        raise ProxyHeaderError("malformed address in the PROXY line")
    return plain(address)


def _port(word: bytes) -> int:
    if not _PORT.fullmatch(word) or int(word) > 65535:
        raise ProxyHeaderError("malformed port in the PROXY line")
    return int(word)


def _version2(octets: bytes) -> tuple[ProxyHeader, int] | None:
    if len(octets) > 12 and octets[12] not in (0x20, 0x21):  # §2.2: other versions and commands are to be dropped
        raise ProxyHeaderError("unknown version or command in the PROXY header")
    if len(octets) < 16:
        return None
    length: int = unpack_from("!H", octets, 14)[0]
    local = octets[12] == 0x20
    family, transport = octets[13] >> 4, octets[13] & 15
    if not local:  # §2.2: LOCAL ignores the family as well
        if family not in _FAMILIES or transport > 1:  # mail comes by no datagram
            raise ProxyHeaderError("unknown address family in the PROXY header")
        if length < _FAMILIES[family]:
            raise ProxyHeaderError("the PROXY header is too short for its addresses")
    if length > V2_MAX:
        raise ProxyHeaderError("the PROXY header is too long")
    if len(octets) < 16 + length:
        return None
    return ProxyHeader() if local or not transport else _unpacked(octets, family), 16 + length  # TLVs are skipped


def _unpacked(octets: bytes, family: int) -> ProxyHeader:
    if family == 1:
        client, local, port = unpack_from("!4s4sH", octets, 16)
        return ProxyHeader(str(IPv4Address(client)), port, str(IPv4Address(local)))
    if family == 2:
        client, local, port = unpack_from("!16s16sH", octets, 16)
        return ProxyHeader(plain(IPv6Address(client)), port, plain(IPv6Address(local)))
    return ProxyHeader()


def plain(address: IPv4Address | IPv6Address) -> str:
    """An address as text; an IPv4-mapped one is the IPv4 one (RFC 4291 §2.5.5.2)."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
