"""The part of a notice that gives the message back: whole, or its header section.

RFC 6522 §3 and §4 (text/rfc822-headers), RFC 2046 §5.2.1 (message/rfc822), RFC 6532 §3.7 and RFC 6533 §6 (the global
kinds), RFC 5322 §2.1.1 (line lengths). Dots and 7-bit peers are left to the way out.
"""

from __future__ import annotations

import binascii
import re

from attrs import frozen

from relaymta.mail.content import Content
from relaymta.mail.message import section_end

_BAD_LINE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0|[^\r\n]{999}")  # RFC 5321 §2.3.8, §4.1.1.4; RFC 5322 §2.1.1


@frozen(slots=True)
class Returned:
    """The MIME part with its header section; `whole` says that it holds the whole message."""

    octets: bytes
    whole: bool


def part(content: Content, header: bytes, *, whole: bool, utf8: bool) -> Returned:
    """Give back `content`, or `header`, its header section, where `whole` is False or its lines cannot travel so.

    `utf8` says that the message came with SMTPUTF8. message/rfc822 may not be encoded (RFC 2046 §5.2.1), so that a
    message with lines too long for SMTP comes back as its header alone. Raises OSError if `content` cannot be read.
    """
    wide = not header.isascii() and (utf8 or _is_utf8(header))
    if whole:
        octets = b"".join(content.chunks())
        if not _BAD_LINE.search(octets):
            kind = b"message/global" if wide else b"message/rfc822"
            return Returned(_head(kind, b"Your message", octets) + octets, True)
    lines = _lines(header)
    kind = b"message/global-headers" if wide else b"text/rfc822-headers"
    if _BAD_LINE.search(lines) or not (wide or lines.isascii()):  # RFC 6522 §4: broken ones may be encoded
        lines = _quoted_printable(lines)
        head = _head(kind, b"The header of your message", b"", b"quoted-printable")
    else:
        head = _head(kind, b"The header of your message", lines)
    return Returned(head + lines, False)


def _lines(header: bytes) -> bytes:
    """The fields, without the empty line; a field that was cut off goes."""
    lines = header[: section_end(header)]
    return lines if not lines or lines.endswith(b"\n") else lines[: lines.rfind(b"\n") + 1] or lines


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def _head(kind: bytes, description: bytes, octets: bytes, encoding: bytes = b"") -> bytes:
    encoding = encoding or (b"" if octets.isascii() else b"8bit")
    line = b"Content-Transfer-Encoding: " + encoding + b"\r\n" if encoding else b""
    return b"Content-Type: " + kind + b"\r\n" + line + b"Content-Description: " + description + b"\r\n\r\n"


def _quoted_printable(octets: bytes) -> bytes:
    """RFC 2045 §6.7, with bare CR and LF as octets, so that they are seen and do no harm."""
    lines = octets.split(b"\r\n")
    encoded = [binascii.b2a_qp(line, istext=False).replace(b"=\n", b"=\r\n") for line in lines]
    return b"\r\n".join(encoded)
