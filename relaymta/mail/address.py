"""Mail addresses: the path of an envelope, parsed once and rendered the same everywhere.

RFC 5321 §4.1.2 (grammar), §4.5.3.1 (lengths), RFC 6531 §3.3 (UTF-8), RFC 5891 (IDN domains to A-labels).
What a command around the path looks like is left to smtp.grammar.
"""

from __future__ import annotations

import ipaddress
import re

import idna
from attrs import field, frozen

LOCAL_MAX = 64  # RFC 5321 §4.5.3.1.1, octets
DOMAIN_MAX = 255  # RFC 5321 §4.5.3.1.2, octets
PATH_MAX = 256  # RFC 5321 §4.5.3.1.3, octets, "<" and ">" included

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
# RFC 6531 §3.3: atext and qtext with UTF8-non-ascii, but no controls and lone surrogates. Named by what they are not:
# a class of all of Unicode takes milliseconds to compile.
_NO_UTEXT = r'\x00- "(),.:;<>@\[\\\]\x7f-\u00a0\ud800-\udfff'
_NO_QTEXT = r'\x00-\x1f"\\\x7f-\u00a0\ud800-\udfff'
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"  # RFC 1035 §2.3.4: 63 octets
_PLAIN = re.compile(rf"([{_ATEXT}]+(?:\.[{_ATEXT}]+)*)@({_LABEL}(?:\.{_LABEL})*)")
_DOT_STRING = re.compile(rf"[^{_NO_UTEXT}]+(?:\.[^{_NO_UTEXT}]+)*")
_QUOTED = re.compile(rf'"((?:[^{_NO_QTEXT}]|\\[ -~])*)"')
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LITERAL = re.compile(r"\[[0-9A-Za-z:.]{1,253}\]")  # no zone ids: they mean something on one host alone
_SOURCE_ROUTE = re.compile(r"@[^\s<>\",:@]+(?:,@[^\s<>\",:@]+)*:")
_UNQUOTE = re.compile(r"\\(.)", re.DOTALL)
_QUOTE = re.compile(r'(["\\])')


class AddressError(ValueError):
    """A path or mailbox that the grammar of RFC 5321 §4.1.2 does not allow; the text is one short sentence."""


@frozen(slots=True)
class Address:
    """A mailbox: `local` as it means (quotes and backslashes gone), `domain` as lower-case A-labels or a literal.

    Two spellings of one mailbox compare equal. `domain` is "" only for the bare `<postmaster>`
    (RFC 5321 §4.1.1.3).
    """

    local: str
    domain: str
    _text: str = field(default="", eq=False, repr=False, init=False)

    def __attrs_post_init__(self) -> None:
        local = self.local
        if not _DOT_STRING.fullmatch(local):
            local = '"' + _QUOTE.sub(r"\\\1", local) + '"'
        object.__setattr__(self, "_text", f"{local}@{self.domain}" if self.domain else local)

    def __str__(self) -> str:
        return self._text

    @property
    def internationalized(self) -> bool:
        """Whether the local part needs SMTPUTF8 on the wire (RFC 6531 §3.3); domains never do, as A-labels."""
        return not self.local.isascii()

    @property
    def is_literal(self) -> bool:
        """Whether the domain is an address literal (RFC 5321 §4.1.3)."""
        return self.domain.startswith("[")

    def path(self) -> bytes:
        """The forward- or reverse-path for the wire: `<local@domain>`, UTF-8 where the local part needs it."""
        return b"<" + self._text.encode() + b">"


def sender_path(sender: Address | None) -> bytes:
    """The reverse-path for the wire; None is the null reverse-path `<>` (RFC 5321 §4.5.5)."""
    return b"<>" if sender is None else sender.path()


def parse_path(path: bytes, *, utf8: bool = False) -> Address | None:
    """Read a reverse- or forward-path with its angle brackets; None is `<>`.

    A source route is accepted and ignored (RFC 5321 §4.1.2, appendix C). `utf8` allows RFC 6531 addresses.
    Raises AddressError.
    """
    if len(path) > PATH_MAX:
        raise AddressError("path too long")  # RFC 5321 §4.5.3.1.3
    if not (path.startswith(b"<") and path.endswith(b">")):
        raise AddressError("path must stand in angle brackets")
    inner = path[1:-1]
    if not inner:
        return None
    try:
        text = inner.decode("utf-8" if utf8 else "ascii")
    except UnicodeDecodeError:
        raise AddressError("non-ASCII address needs SMTPUTF8" if not utf8 else "address is not UTF-8") from None
    if text[0] == "@":
        route = _SOURCE_ROUTE.match(text)
        if route is None:
            raise AddressError("malformed source route")
        text = text[route.end() :]  # RFC 5321 §4.1.2: SHOULD ignore the route
    if text.lower() == "postmaster":  # RFC 5321 §4.1.1.3
        return Address("postmaster", "")
    return parse_mailbox(text)


def parse_mailbox(text: str) -> Address:
    """Read `local@domain` without brackets (str, non-ASCII allowed). Raises AddressError."""
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        local, domain = plain.groups()
        if len(local) > LOCAL_MAX:
            raise AddressError("local part too long")  # RFC 5321 §4.5.3.1.1
        if len(domain) > DOMAIN_MAX:
            raise AddressError("domain too long")  # RFC 5321 §4.5.3.1.2
        return Address(local, domain.lower())
    quoted = _QUOTED.match(text)
    if quoted is not None:
        local, rest = _UNQUOTE.sub(r"\1", quoted[1]), text[quoted.end() :]
    else:
        dotted = _DOT_STRING.match(text)
        if dotted is None:
            raise AddressError("malformed local part")
        local, rest = dotted[0], text[dotted.end() :]
    if not rest.startswith("@"):
        raise AddressError("malformed address")
    if len(local.encode()) > LOCAL_MAX:
        raise AddressError("local part too long")  # RFC 5321 §4.5.3.1.1
    return Address(local, parse_domain(rest[1:]))


def parse_domain(text: str) -> str:
    """Read a domain or an address literal; the result is lower-case A-labels or a canonical literal.

    Raises AddressError.
    """
    if text.startswith("["):
        return _parse_literal(text)
    if not text.isascii():
        text = _to_ascii(text)
    if len(text) > DOMAIN_MAX:
        raise AddressError("domain too long")  # RFC 5321 §4.5.3.1.2
    if not _DOMAIN.fullmatch(text):
        raise AddressError("malformed domain")
    return text.lower()


def _to_ascii(text: str) -> str:
    try:
        return idna.encode(text, uts46=True, transitional=False).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise AddressError("malformed internationalized domain") from None


def _parse_literal(text: str) -> str:
    if not _LITERAL.fullmatch(text):
        raise AddressError("malformed address literal")
    inner = text[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":  # RFC 5321 §4.1.3
            return f"[IPv6:{ipaddress.IPv6Address(inner[5:]).compressed}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        raise AddressError("malformed address literal") from None
