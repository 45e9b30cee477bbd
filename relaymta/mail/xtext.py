"""The xtext encoding of ENVID, ORCPT and AUTH values, and the UTF-8 forms of ORCPT.

RFC 3461 §4 (xtext) and §4.2 (ORCPT), RFC 6533 §3 (utf-8-addr-xtext, utf-8-addr-unitext). How long a value may be is
left to smtp.grammar.
"""

from __future__ import annotations

import re

_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2})*")  # RFC 3461 §4: xchar and hexchar
_HEXCHAR = re.compile(r"\+([0-9A-Fa-f]{2})")
_PRINTABLE = re.compile(r"[\t -~]*")
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*")
_XSPECIAL = re.compile(r"[^!-*,-<>-~]")
_QSPECIAL = re.compile(r"[^!-*,-<>-\[\]-~]")  # RFC 6533 §3: all but QCHAR
_NO_QUCHAR = r"\x00- +=\\\x7f-\x9f"  # RFC 6533 §3; named by what it is not, a class takes no milliseconds to compile
_QUSPECIAL = re.compile(rf"[{_NO_QUCHAR}]")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}|\+([0-9A-Fa-f]{2})")
_RAW_UTF8 = re.compile(rf"(?:[^{_NO_QUCHAR}\ud800-\udfff]|\\x\{{[0-9A-Fa-f]{{2,6}}\}}|\+[0-9A-Fa-f]{{2}})+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def xtext_encode(text: str) -> bytes:
    """`text` (str, printable ASCII, space and tab) as xtext. Raises ValueError on anything else (RFC 3461 §4)."""
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("xtext holds printable ASCII only")
    return _XSPECIAL.sub(lambda found: f"+{ord(found[0]):02X}", text).encode("ascii")


def xtext_decode(octets: bytes) -> str:
    """The text of the xtext `octets`, as str of printable ASCII, space and tab.

    Raises ValueError on broken encoding, and on any other character: RFC 3461 §4.2 and §4.4 forbid them, and a line
    end smuggled in here would end up in a header.
    """
    if not _XTEXT.fullmatch(octets):
        raise ValueError("malformed xtext")
    if b"+" not in octets:
        return octets.decode("ascii")
    text = _HEXCHAR.sub(lambda found: chr(int(found[1], 16)), octets.decode("ascii"))
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("xtext holds a character that is not printable ASCII")
    return text


def orcpt_decode(octets: bytes, *, utf8: bool = False) -> str:
    """The value of an ORCPT parameter as "addr-type;address", decoded (str).

    `utf8` allows raw UTF-8 in the utf-8 address type, as SMTPUTF8 does (RFC 6533 §3). Raises ValueError.
    """
    kind, semicolon, value = octets.partition(b";")
    name = kind.decode("ascii", "replace")
    if not semicolon or not _TYPE.fullmatch(name) or not value:
        raise ValueError("malformed original recipient")
    if name.lower() != "utf-8":
        return f"{name};{xtext_decode(value)}"
    if not utf8 and not value.isascii():
        raise ValueError("non-ASCII original recipient needs SMTPUTF8")
    text = value.decode("utf-8")  # UnicodeDecodeError is a ValueError
    if not _RAW_UTF8.fullmatch(text):
        raise ValueError("malformed UTF-8 original recipient")
    text = _EMBEDDED.sub(_point, text)
    if _CONTROL.search(text):
        raise ValueError("UTF-8 original recipient holds a control character")
    return f"{name};{text}"


def orcpt_encode(orcpt: str, *, utf8: bool = False) -> bytes:
    """The decoded `orcpt` ("addr-type;address") for the wire.

    `utf8` says that the transaction has SMTPUTF8: the utf-8 type is then written as utf-8-addr-unitext, else as
    utf-8-addr-xtext (RFC 6533 §3). Raises ValueError where `orcpt` cannot be written.
    """
    kind, _, value = orcpt.partition(";")
    if not _TYPE.fullmatch(kind) or not value:
        raise ValueError("malformed original recipient")
    if kind.lower() != "utf-8":
        return kind.encode("ascii") + b";" + xtext_encode(value)
    if _CONTROL.search(value):
        raise ValueError("UTF-8 original recipient holds a control character")
    special = _QUSPECIAL if utf8 else _QSPECIAL
    return f"{kind};{special.sub(_embed, value)}".encode()


def embed_unicode(text: str) -> str:
    """`text` in utf-8-addr-xtext: ASCII alone, every other character as "\\x{HEX}" (RFC 6533 §3)."""
    return _QSPECIAL.sub(_embed, text)


def _embed(found: re.Match[str]) -> str:
    return f"\\x{{{ord(found[0]):02X}}}"


def _point(found: re.Match[str]) -> str:
    point = int(found[1] or found[2], 16)
    if point > 0x10FFFF:
        raise ValueError("no such Unicode character")
    return chr(point)
