"""The MIME structure of a message as a stream of pieces: headers, bodies, and what stands between.

RFC 2045 §5 and §6 (the two fields), RFC 2046 §5.1 (boundaries) and §5.2.1 (message/rfc822), RFC 5322 §2.2. Reads
chunks with bounded memory; every octet is in exactly one piece, so that the pieces joined are the message.
What to change in them is left to downgrade.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum

from attrs import define, field, frozen

from relaymta.mail.content import HEADER_MAX
from relaymta.mail.message import find

DEPTH_MAX = 32  # multiparts and messages within each other; ours, above anything a program makes
PARTS_MAX = 10_000  # parts in a message; ours, so that a hostile one costs no memory
_BLOCK = 64 * 1024  # octets without a line end after which a line is handed on in pieces; ours

_SKIP = r"(?:[ \t\r\n]|\((?:[^()\\]|\\.)*+\))*+"  # RFC 5322 §3.2.2, comments one level deep
_TOKEN = r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]++"  # RFC 2045 §5.1
_MEDIA_TYPE = re.compile(rf"{_SKIP}({_TOKEN}){_SKIP}/{_SKIP}({_TOKEN})")
_PARAMETER = re.compile(rf'{_SKIP};{_SKIP}({_TOKEN}){_SKIP}={_SKIP}(?:"((?:[^"\\]|\\.)*+)"|([^\s;"()]++))')
_ENCODING = re.compile(rf"{_SKIP}({_TOKEN})")
_UNQUOTE = re.compile(r"\\(.)", re.DOTALL)


class MimeError(ValueError):
    """The structure cannot be followed: too deep, too many parts, a header without end, a missing boundary."""


class Kind(Enum):
    """What a part is: a leaf has a body of octets, a multipart has parts, a message has a header and a body again."""

    LEAF = "leaf"
    MULTIPART = "multipart"
    MESSAGE = "message"


@frozen(slots=True)
class Head:
    """The header section of a part, its empty line included where it has one; `top`: a message's, not a part's."""

    octets: bytes
    kind: Kind
    media: str  # "text/plain", lower case
    encoding: str  # of Content-Transfer-Encoding, lower case, "7bit" by default (RFC 2045 §6.1)
    typed: bool  # whether it has a Content-Type of its own
    top: bool


@frozen(slots=True)
class Piece:
    """Octets of the body of the leaf whose Head came last; the CRLF before a delimiter is not among them."""

    octets: bytes


@frozen(slots=True)
class Between:
    """What belongs to no part: delimiters with the CRLF before them, preambles, epilogues."""

    octets: bytes
    delimiter: bool


Event = Head | Piece | Between


def structure(chunks: Iterable[bytes]) -> Iterator[Event]:
    """The pieces of the message in `chunks` (CRLF line ends), in order. Raises MimeError."""
    reader = _Reader()
    for block in _blocks(chunks):
        yield from reader.feed(block)
    yield from reader.close()


def media_type(header: bytes) -> tuple[str, dict[str, str]] | None:
    """The Content-Type of a header section, lower case, and its parameters; None where it has none that can be read."""
    known = find(header, b"content-type")
    if known is None:
        return None
    text = known.value.decode("latin-1")
    found = _MEDIA_TYPE.match(text)
    if found is None:
        return None
    parameters: dict[str, str] = {}
    at = found.end()
    while (parameter := _PARAMETER.match(text, at)) is not None:
        name, quoted, plain = parameter.groups()
        parameters.setdefault(name.lower(), _UNQUOTE.sub(r"\1", quoted) if quoted is not None else plain)
        at = parameter.end()
    return f"{found[1]}/{found[2]}".lower(), parameters


def transfer_encoding(header: bytes) -> str:
    """The Content-Transfer-Encoding of a header section, lower case; "7bit" by default (RFC 2045 §6.1)."""
    known = find(header, b"content-transfer-encoding")
    found = _ENCODING.match(known.value.decode("latin-1")) if known else None
    return found[1].lower() if found else "7bit"


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines, as many as came; a line longer than _BLOCK comes in pieces, never cut before its LF."""
    rest = b""
    for chunk in chunks:
        octets = rest + chunk
        cut = octets.rfind(b"\n") + 1
        if not cut and len(octets) > _BLOCK:
            cut = len(octets) - octets.endswith(b"\r")
        if cut:
            yield octets[:cut]
        rest = octets[cut:]
    if rest:
        yield rest


@define(slots=True)
class _Level:
    """One multipart that is open: what its delimiters look like, and the default type of its parts."""

    boundary: bytes
    default: str


@define(slots=True)
class _Reader:
    """The machine: `header` grows while a header section is read, None otherwise; `leaf` says what the rest is."""

    levels: list[_Level] = field(factory=list)
    header: bytearray | None = field(factory=bytearray)
    top: bool = True
    leaf: bool = False
    depth: int = 0
    parts: int = 0
    held: bytes = b""  # a CRLF that belongs to the body, or to the delimiter that may follow
    at_start: bool = True  # of a line

    def feed(self, block: bytes) -> Iterator[Event]:
        at = 0
        while at < len(block):
            if self.header is not None:
                at, events = self._feed_header(block, at)
                yield from events
                continue
            found = self._delimiter(block, at)
            end = len(block) if found is None else found[0]
            if end > at:
                yield from self._body(block[at:end])
            at = end
            if found is not None:
                _, stop, level, closing = found
                yield from self._cross(block[end:stop], level, closing=closing)
                at = stop
        self.at_start = block.endswith(b"\n")

    def close(self) -> Iterator[Event]:
        if self.header is not None:
            yield from self._head()
        if self.held:
            yield Piece(self.held) if self.leaf else Between(self.held, False)

    def _feed_header(self, block: bytes, at: int) -> tuple[int, list[Event]]:
        """Take lines up to the empty one, or to a delimiter of what is open (RFC 2046 §5.1.1: a part may end there)."""
        header = self.header
        assert header is not None
        found = self._delimiter(block, at) if self.levels else None
        limit = len(block) if found is None else found[0]
        if not header and at < limit and block.startswith(b"\r\n", at):
            end = at + 2
        else:
            tail = bytes(header[-3:])
            joined = (tail + block[at:limit]).find(b"\r\n\r\n")
            end = joined + 4 - len(tail) + at if joined >= 0 else -1
        ended = end >= 0
        header += block[at : end if ended else limit]
        if len(header) > HEADER_MAX:
            raise MimeError("a header section has no end")
        if ended:
            return end, list(self._head())
        if found is None:
            return limit, []
        start, stop, level, closing = found
        return stop, [*self._head(), *self._cross(block[start:stop], level, closing=closing)]

    def _head(self) -> Iterator[Event]:
        """The header section is complete: what is it the header of?"""
        octets = bytes(self.header or b"")
        self.header, self.held = None, b""
        self.parts += 1
        if self.parts > PARTS_MAX:
            raise MimeError("too many parts")
        default = "text/plain" if self.top or not self.levels else self.levels[-1].default
        known = media_type(octets)
        typed = find(octets, b"content-type") is not None
        media, parameters = known or (default, {})
        encoding = transfer_encoding(octets)
        kind = Kind.LEAF
        if encoding in ("7bit", "8bit", "binary"):  # RFC 2045 §6.4: composite types have no other
            if media.startswith("multipart/"):
                kind = Kind.MULTIPART
            elif media == "message/rfc822":
                kind = Kind.MESSAGE
        yield Head(octets, kind, media, encoding, typed, self.top)
        self.leaf = kind is Kind.LEAF
        if kind is Kind.MULTIPART:
            boundary = parameters.get("boundary", "").rstrip(" \t")
            if not boundary:
                raise MimeError("a multipart without boundary")
            self._deeper()
            default = "message/rfc822" if media == "multipart/digest" else "text/plain"  # RFC 2046 §5.1.5
            self.levels.append(_Level(boundary.encode("latin-1"), default))
        elif kind is Kind.MESSAGE:
            self._deeper()
            self.header, self.top = bytearray(), True

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise MimeError("too many parts within each other")

    def _body(self, octets: bytes) -> Iterator[Event]:
        octets = self.held + octets
        self.held = b""
        if self.levels and octets.endswith(b"\r\n"):
            octets, self.held = octets[:-2], b"\r\n"
        if octets:
            yield Piece(octets) if self.leaf else Between(octets, False)

    def _cross(self, line: bytes, level: int, *, closing: bool) -> Iterator[Event]:
        """A delimiter of levels[level]: all that is within it ends."""
        yield Between(self.held + line, True)
        self.held, self.header = b"", None
        del self.levels[level + (0 if closing else 1) :]
        self.depth = len(self.levels)
        self.leaf = False
        if not closing:
            self.header, self.top = bytearray(), False

    def _delimiter(self, block: bytes, at: int) -> tuple[int, int, int, bool] | None:
        """The first delimiter line from `at` on: where it starts and stops, its level, whether it closes."""
        if not self.levels:
            return None
        here = block.startswith(b"--", at) and (block[at - 1 : at] == b"\n" if at else self.at_start)
        start = at if here else block.find(b"\n--", at) + 1 or -1
        while start >= 0:
            stop = block.find(b"\n", start) + 1 or len(block)
            line = block[start + 2 : stop].rstrip(b" \t\r\n")  # RFC 2046 §5.1.1: transport padding
            for level in range(len(self.levels) - 1, -1, -1):
                boundary = self.levels[level].boundary
                if line == boundary:
                    return start, stop, level, False
                if line == boundary + b"--":
                    return start, stop, level, True
            start = block.find(b"\n--", stop - 1) + 1 or -1
        return None
