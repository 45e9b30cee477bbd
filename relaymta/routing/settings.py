"""What the operator says of routing: [[route]] rules, and how the hosts of a next hop are chosen.

RFC 5321 §5, RFC 2033 (LMTP). Read once into values; every mistake is a ValueError whose sentence says what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from ipaddress import ip_address

from attrs import Attribute, field, frozen

from relaymta.config.hosts import is_address
from relaymta.directory.names import account_name
from relaymta.mail.address import AddressError, parse_domain, parse_mailbox
from relaymta.mail.reply import Reply
from relaymta.routing.route import LMTP_PORT, SMTP_PORT, Hop, TlsLevel, Transport

ANY = "*"
NULL_SENDER = "<>"
HOPS_MAX = 20  # ours: next hops of one route, each of which may cost a connect timeout
_UNIX_MAX = 107  # octets of sun_path on Linux without its final NUL, unix(7)
_ERROR = re.compile(r"([45]\d\d)(?: +([245]\.\d{1,3}\.\d{1,3}))?(?: +(\S.*))?", re.ASCII)
_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::(.*))?")


class Texts(tuple[str, ...]):
    """One string or a list of strings in the file: `to = "mx"`, `to = ["[10.0.0.5]:25", "mx"]`."""

    __slots__ = ()

    @classmethod
    def read(cls, value: object) -> Texts:
        """What the file says. Raises ValueError."""
        if isinstance(value, str):
            return cls((value,))
        if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
            return cls(value)
        raise ValueError('a string or a list of strings is wanted, like "mx" or ["[10.0.0.5]:25", "mx"]')

    def __str__(self) -> str:
        return ", ".join(self)


@frozen(slots=True)
class Pattern:
    """One pattern over addresses: "*", "example.org", ".example.org" (its subdomains), "user@example.org", "<>"."""

    domain: str = ""
    subdomains: bool = False
    local: str = ""
    any: bool = False
    null: bool = False

    @classmethod
    def of(cls, text: str) -> Pattern:
        """Raises ValueError with a sentence."""
        if text == ANY:
            return cls(any=True)
        if text == NULL_SENDER:
            return cls(null=True)
        try:
            if "@" in text[1:]:
                address = parse_mailbox(text)
                return cls(address.domain, local=address.local.lower())
            if text.startswith("."):
                return cls(parse_domain(text[1:]), subdomains=True)
            return cls(parse_domain(text.removeprefix("@")))
        except AddressError as error:
            raise ValueError(
                f'"{text}": {error}; expected "example.org", ".example.org", "user@example.org" or "*"'
            ) from None


@frozen(slots=True)
class Target:
    """What a `to` means. `hops` holds None where it says "mx": the MX of the recipient's own domain."""

    transport: Transport
    hops: tuple[Hop | None, ...] = ()
    reply: Reply | None = None


def parse_target(texts: Iterable[str]) -> Target:
    """Read the value of `to`, one next hop each, in the order in which they are tried. Raises ValueError."""
    targets = [_parse_one(text) for text in texts]
    if not targets:
        raise ValueError(
            'says nowhere; expected "mx", "host:port", "[address]:port", "lmtp:...", "discard" or "error:..."'
        )
    first = targets[0]
    if len(targets) == 1:
        return first
    transports = {target.transport for target in targets}
    if transports & {Transport.DISCARD, Transport.ERROR}:
        raise ValueError('"discard" and "error:..." stand alone: nothing can be tried before or after them')
    if len(transports) > 1:
        raise ValueError("either all next hops speak SMTP or all LMTP")
    if len(targets) > HOPS_MAX:
        raise ValueError(f"at most {HOPS_MAX} next hops")
    hops = tuple(hop for target in targets for hop in target.hops)
    if len(set(hops)) < len(hops):
        raise ValueError("names a next hop twice")
    return Target(first.transport, hops)


def _parse_one(text: str) -> Target:
    if text == "mx":
        return Target(Transport.SMTP, (None,))
    if text == "discard":
        return Target(Transport.DISCARD)
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "error":
        return Target(Transport.ERROR, reply=_parse_error(rest))
    if colon and scheme == "lmtp":
        return Target(Transport.LMTP, (_parse_lmtp(rest),))
    return Target(Transport.SMTP, (_parse_host(text, SMTP_PORT),))


def _parse_error(text: str) -> Reply:
    match = _ERROR.fullmatch(text)
    if match is None or not text.isprintable():
        raise ValueError(f'"error:{text}": expected a reply like "error:550 5.1.1 no such user"')
    code, enhanced, said = int(match[1]), match[2] or "", match[3] or "mail for this address is refused"
    if enhanced and enhanced[0] != match[1][0]:
        raise ValueError(f'"error:{text}": {enhanced} does not go with {code} (RFC 3463 §3.1)')
    return Reply(code, enhanced or f"{code // 100}.0.0", said)


def _parse_lmtp(text: str) -> Hop:
    if text.startswith("unix:"):
        path = text[5:]
        if not path.startswith("/") or len(path.encode()) > _UNIX_MAX:
            raise ValueError(f'"lmtp:{text}": expected an absolute path of at most {_UNIX_MAX} octets')
        return Hop("", 0, mx=False, path=path, configured=True)
    try:
        hop = _parse_host(text, LMTP_PORT)
    except ValueError as error:
        raise ValueError(f'"lmtp:": {error}') from None
    return Hop(hop.name, hop.port, mx=False, configured=True)  # LMTP goes to a host: RFC 2033 knows no MX


def _parse_host(text: str, default: int) -> Hop:
    if ":" in text and is_address(text):
        raise ValueError(f'"{text}": an IPv6 address stands in brackets; write "[{text}]:{default}"')
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}": expected "host:port" or "[host]:port"')
    host, port_text = match[1], match[2]
    port = default
    if port_text is not None:
        if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536):
            raise ValueError(f'"{text}": the port must be a number from 1 to 65535')
        port = int(port_text)
    direct = host.startswith("[")
    name = host[1:-1] if direct else host
    if name[:5].lower() == "ipv6:":
        name = name[5:]
    if is_address(name):
        return Hop(str(ip_address(name)), port, mx=False, configured=True)
    try:
        return Hop(parse_domain(name), port, mx=not direct, configured=True)
    except AddressError as error:
        raise ValueError(f'"{text}": {error}; expected "host:port" or "[host]:port"') from None


def _texts(value: object) -> Texts:
    return Texts.read(value)


def _valid_recipients(_: object, __: Attribute[Texts], texts: Texts) -> None:
    for text in texts:
        if Pattern.of(text).null:
            raise ValueError('"<>" is no recipient')


def _valid_senders(_: object, __: Attribute[Texts], texts: Texts) -> None:
    for text in texts:
        Pattern.of(text)


def _valid_logins(_: object, __: Attribute[Texts], texts: Texts) -> None:
    for text in texts:
        if text != ANY:
            account_name(text)


def _valid_to(_: object, __: Attribute[Texts], texts: Texts) -> None:
    parse_target(texts)


@frozen(slots=True)
class RouteSettings:
    """One [[route]] table; the first that matches wins.

    It matches when `recipient`, `sender` and `login` all do, of those that are given; within one, any pattern.
    `login`: names of accounts, as clients of ours logged in; "*" is any. `to`: the next hops in order. `account`:
    the [[account]] with which we log in there. `source`: the egress source.
    """

    to: Texts = field(converter=_texts, validator=_valid_to)
    recipient: Texts = field(default=Texts(), converter=_texts, validator=_valid_recipients)
    sender: Texts = field(default=Texts(), converter=_texts, validator=_valid_senders)
    login: Texts = field(default=Texts(), converter=_texts, validator=_valid_logins)
    tls: TlsLevel = TlsLevel.OPPORTUNISTIC
    account: str = ""
    source: str = ""

    def check(self) -> Iterable[tuple[str, str]]:
        """What contradicts what: (key, sentence)."""
        if not (self.recipient or self.sender or self.login):
            yield "", 'says nothing of whose mail it is for; recipient = "*" is everybody\'s'
        transport = parse_target(self.to).transport
        if transport in (Transport.DISCARD, Transport.ERROR):
            for key in ("account", "source"):
                if getattr(self, key):
                    yield key, f'no connection is made where to = "{self.to}"'

    def __str__(self) -> str:
        """Its conditions, for people."""
        parts = [f"{key} {getattr(self, key)}" for key in ("recipient", "sender", "login") if getattr(self, key)]
        return "; ".join(parts)


class Prefer(Enum):
    """Which address family of a host is tried first; "any" is a toss."""

    ANY = "any"
    IPV6 = "ipv6"
    IPV4 = "ipv4"


def _valid_addresses(_: object, __: Attribute[tuple[str, ...]], addresses: tuple[str, ...]) -> None:
    for address in addresses:
        if not is_address(address):
            raise ValueError(f'"{address}" is no IP address')


@frozen(slots=True)
class HostSettings:
    """How hosts of a next hop are chosen.

    `prefer`: address family first tried; both are, in turn. `loopback_hosts`: whether an MX may lead to a loopback
    address; where that is one of our own listeners it is ourselves in any case. `own_names`, `own_addresses`: names
    and addresses beside those we listen on that lead to us (before a NAT or a proxy), for RFC 5321 §5.1.
    """

    prefer: Prefer = Prefer.ANY
    loopback_hosts: bool = True
    own_names: tuple[str, ...] = ()
    own_addresses: tuple[str, ...] = field(default=(), validator=_valid_addresses)
