"""Conversion of 8-bit content to 7-bit, for a next hop that does not offer 8BITMIME.

RFC 6152 §3 (the duty to convert or to return), RFC 2045 §6 (quoted-printable, base64), RFC 1428 (text without MIME
fields). RFC 5321 §2.4 allows the change; it breaks what was signed: DKIM body hashes (RFC 6376 §5.3) and the parts of
a multipart/signed that are not 7-bit, which RFC 1847 §2.1 asks to be 7-bit from the start.
"""

from __future__ import annotations

import binascii
import os
import tempfile
from collections.abc import Iterator
from enum import Enum
from typing import IO, Protocol

from attrs import define, field

from relaymta.mail.content import CHUNK, Content, MemoryContent, header_of
from relaymta.mail.message import Add, Edit, Remove, Replace, edit, find
from relaymta.mail.mime import Head, Kind, MimeError, Piece, structure

MEMORY_MAX = 1024 * 1024  # octets of a result kept in memory; ours, a larger one goes to a file without a name

_ENCODING = b"content-transfer-encoding"
_HIGH = bytes(range(128, 256))
_TO_QUESTION = bytes(range(128)) + b"?" * 128
_SHUT = ("message/partial", "message/external-body")  # RFC 2046 §5.2.2, §5.2.3: 7bit only
_BASE64_LINE = 57  # octets that make 76 characters (RFC 2045 §6.8)
_LONG_LINE = 64 * 1024  # octets of a line that are waited for; ours


class _Way(Enum):
    """What is done with the body of a leaf."""

    KEEP = "keep"
    QUOTE = "quoted-printable"
    BASE64 = "base64"
    ESCAPE = "escape"  # it claims quoted-printable: escape the raw octets in it
    STRIP = "strip"  # it claims base64: raw octets in it mean nothing (RFC 2045 §6.8)


@define(slots=True)
class _Leaf:
    """What the first reading learnt of a leaf's body."""

    head: Head
    eightbit: bool = False
    bare: bool = False  # CR or LF alone, or NUL: quoted-printable lines cannot show them
    cr: bool = False  # the last octet so far is CR

    def see(self, octets: bytes) -> None:
        self.eightbit = self.eightbit or not octets.isascii()
        if not self.bare:
            joined = b"\r" + octets if self.cr else octets
            pairs = joined.count(b"\r\n")
            self.cr = octets.endswith(b"\r")
            self.bare = joined.count(b"\n") != pairs or joined.count(b"\r") - self.cr != pairs or b"\0" in octets

    @property
    def way(self) -> _Way | None:
        """What is to be done; None where nothing can be."""
        head = self.head
        if not self.eightbit:
            return _Way.KEEP
        if head.encoding in ("quoted-printable", "base64"):
            return _Way.ESCAPE if head.encoding == "quoted-printable" else _Way.STRIP
        if head.encoding not in ("7bit", "8bit", "binary") or head.media in _SHUT:
            return None
        lines = head.media.startswith(("text/", "message/")) and not (self.bare or self.cr)
        return _Way.QUOTE if lines else _Way.BASE64


def to_seven_bit(content: Content) -> Content | None:
    """`content` with every octet below 128, or None where that cannot be done; 7-bit content is given back as it is.

    Text becomes quoted-printable, all else base64, part by part, messages within messages too. A part that is 7-bit and
    says so stays as it is, octet by octet. None, and so a return to the sender (RFC 6152 §3), for raw 8-bit octets in
    any header section, for encodings unknown to us, and for structures that cannot be followed (mail.mime).
    Reads `content` twice, and may write a temporary file: call it off the reactor's thread for large content.
    Raises OSError.
    """
    if not content.eightbit:
        return content
    if not content.header().isascii():
        return None
    try:
        ways = _survey(content)
    except MimeError:
        return None
    if ways is None:
        return None
    shelf = _Shelf()
    try:
        _convert(content, iter(ways), shelf)
        return shelf.content()
    except BaseException:
        shelf.drop()
        raise


def _survey(content: Content) -> list[_Way] | None:
    """First reading: what to do with each leaf, in order; None where one of them, or a header, cannot be converted."""
    ways: list[_Way] = []
    leaf: _Leaf | None = None
    for event in structure(content.chunks()):
        if isinstance(event, Piece):
            if leaf is not None:
                leaf.see(event.octets)
        elif isinstance(event, Head):
            if not event.octets.isascii():
                return None
            if leaf is not None:
                if (way := leaf.way) is None:
                    return None
                ways.append(way)
            leaf = _Leaf(event) if event.kind is Kind.LEAF else None
    if leaf is not None:
        if (way := leaf.way) is None:
            return None
        ways.append(way)
    return ways


def _convert(content: Content, ways: Iterator[_Way], shelf: _Shelf) -> None:
    """Second reading: copy, edit, encode."""
    encoder: _Encoder = _KEEP
    for event in structure(content.chunks()):
        if isinstance(event, Piece):
            shelf.write(encoder.feed(event.octets))
            continue
        shelf.write(encoder.close())
        encoder = _KEEP
        if isinstance(event, Head):
            way = next(ways) if event.kind is Kind.LEAF else _Way.KEEP
            shelf.write(edit(event.octets, _edits(event, way)))
            encoder = _encoder(way)
        else:  # between parts nobody reads; the delimiters, as they stand in an ASCII header, are ASCII
            shelf.write(event.octets.translate(_TO_QUESTION))
    shelf.write(encoder.close())


def _edits(head: Head, way: _Way) -> list[Edit]:
    """What the header section needs: the encoding in its place; what RFC 1428 asks where there is no MIME at all."""
    if way in (_Way.QUOTE, _Way.BASE64):
        label = way.value.encode("ascii")
    elif head.encoding in ("8bit", "binary"):  # RFC 2045 §6.4: what stands around it must not promise less
        label = b"7bit"
    else:
        return []
    octets = b"Content-Transfer-Encoding: " + label + b"\r\n"
    edits: list[Edit] = []
    if head.top and find(head.octets, b"mime-version") is None:
        edits.append(Add(b"MIME-Version: 1.0\r\n"))
    if not head.typed and way is not _Way.KEEP:
        edits.append(Add(b"Content-Type: text/plain; charset=unknown-8bit\r\n"))  # RFC 1428 §3
    if find(head.octets, _ENCODING) is None:
        edits.append(Add(octets))
    else:
        edits += [Remove(_ENCODING), Replace(_ENCODING, 1, octets)]
    return edits


# Encoders: fed with the pieces of one body


class _Encoder(Protocol):
    def feed(self, octets: bytes) -> bytes: ...

    def close(self) -> bytes: ...


def _encoder(way: _Way) -> _Encoder:
    if way is _Way.QUOTE:
        return _QuotedPrintable()
    if way is _Way.BASE64:
        return _Base64()
    return {_Way.KEEP: _KEEP, _Way.ESCAPE: _ESCAPE, _Way.STRIP: _STRIP}[way]


class _Keep:
    def feed(self, octets: bytes) -> bytes:
        return octets

    def close(self) -> bytes:
        return b""


class _Escape(_Keep):
    """Raw octets in quoted-printable become what they should have been."""

    def feed(self, octets: bytes) -> bytes:
        if octets.isascii():
            return octets
        return b"".join(b"=%02X" % o if o > 127 else bytes((o,)) for o in octets)


class _Strip(_Keep):
    def feed(self, octets: bytes) -> bytes:
        return octets.translate(None, _HIGH)


_KEEP, _ESCAPE, _STRIP = _Keep(), _Escape(), _Strip()


@define(slots=True)
class _QuotedPrintable:
    """RFC 2045 §6.7 over CRLF lines; encodes whole lines, and octet by octet what is too long to wait for."""

    rest: bytes = b""

    def feed(self, octets: bytes) -> bytes:
        octets = self.rest + octets
        cut = octets.rfind(b"\n") + 1
        encoded = binascii.b2a_qp(octets[:cut], istext=True)
        self.rest = octets[cut:]
        if len(self.rest) > _LONG_LINE:
            whole = len(self.rest) // 24 * 24 - 24  # something stays behind, so that no soft break ends the body
            long = self.rest[:whole]
            encoded += b"".join(
                b"=" + long[at : at + 24].hex("=").upper().encode("ascii") + b"=\r\n" for at in range(0, whole, 24)
            )
            self.rest = self.rest[whole:]
        return encoded

    def close(self) -> bytes:
        encoded = binascii.b2a_qp(self.rest, istext=True).replace(b"=\n", b"=\r\n")
        self.rest = b""
        return encoded


@define(slots=True)
class _Base64:
    """RFC 2045 §6.8; ends with CRLF, which decoders ignore."""

    rest: bytes = b""

    def feed(self, octets: bytes) -> bytes:
        octets = self.rest + octets
        whole = len(octets) // _BASE64_LINE * _BASE64_LINE
        self.rest = octets[whole:]
        return _base64_lines(octets[:whole])

    def close(self) -> bytes:
        rest, self.rest = self.rest, b""
        return _base64_lines(rest)


def _base64_lines(octets: bytes) -> bytes:
    starts = range(0, len(octets), _BASE64_LINE)
    encode = binascii.b2a_base64
    return b"".join(encode(octets[at : at + _BASE64_LINE], newline=False) + b"\r\n" for at in starts)


# The result


class _TemporaryContent:
    """Content in a file without a name; the file goes when the last reference to it does."""

    def __init__(self, file: IO[bytes], size: int, header: bytes) -> None:
        self._file = file
        self._size = size
        self._header = header

    @property
    def size(self) -> int:
        return self._size

    @property
    def eightbit(self) -> bool:
        return False

    def chunks(self) -> Iterator[bytes]:
        at = 0
        while at < self._size:
            octets = os.pread(self._file.fileno(), CHUNK, at)  # several may read at once
            if not octets:
                raise OSError("temporary file is shorter than it was")
            at += len(octets)
            yield octets

    def header(self) -> bytes:
        return self._header


@define(slots=True)
class _Shelf:
    """Where the result is written: memory, then a file."""

    memory: bytearray = field(factory=bytearray)
    file: IO[bytes] | None = None
    size: int = 0
    header: bytes = b""

    def write(self, octets: bytes) -> None:
        if not octets:
            return
        self.size += len(octets)
        self.memory += octets
        if len(self.memory) > MEMORY_MAX:
            if self.file is None:
                self.header = header_of(bytes(self.memory))
                self.file = tempfile.TemporaryFile(prefix="relaymta-")
            self.file.write(self.memory)
            self.memory.clear()

    def content(self) -> Content:
        if self.file is None:
            return MemoryContent(bytes(self.memory))
        self.file.write(self.memory)
        self.memory.clear()
        self.file.flush()
        return _TemporaryContent(self.file, self.size, self.header)

    def drop(self) -> None:
        if self.file is not None:
            self.file.close()
