"""The header section of a message, over bytes: fields found, counted and edited without re-serialising anything.

RFC 5322 §2.2 (fields and folding), §4.5 (white space before the colon), RFC 5321 §6.4 (no other change on the way).
Every octet that no edit names is copied as it came, so that no signature breaks. What a field means is left to others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from attrs import Attribute, field, frozen

MESSAGE_ID_MAX = 250  # characters in the log; ours, RFC 5322 §2.1.1 would allow 998
LINE_MAX = 1000  # RFC 5321 §4.5.3.1.6, octets, CRLF included

_FIELD = re.compile(
    rb"(?:([!-9;-~]++)[ \t]*+:)?+[^\n]*+(?:\n(?:[ \t][^\n]*+(?:\n|\Z))*+|\Z)"
)  # one field with its folded lines, or a line that is no field
_WHOLE = re.compile(rb"[!-9;-~]++:[^\r\n\0]*+(?:\r\n[ \t][^\r\n\0]*+)*+\r\n")
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_PLAIN_ID = re.compile(rb"\r\n[Mm]essage-[Ii][Dd]: ?([!-~]{1,%d})\r\n" % MESSAGE_ID_MAX)  # as nearly all write it
_UNSAFE = re.compile(r"[^!-~]+")


@frozen(slots=True)
class Field:
    """One field: `name` in lower case (b"" for a line that is no field), `raw` as it came, line ends included."""

    name: bytes
    raw: bytes

    @property
    def value(self) -> bytes:
        """What stands after the colon, unfolded (RFC 5322 §2.2.3) and stripped of white space at both ends."""
        if not self.name:
            return self.raw.strip()
        return _FOLD.sub(b"", self.raw.partition(b":")[2]).strip()


def section_end(header: bytes) -> int:
    """Where the fields of `header` end and its empty line begins; its length where there is no empty line."""
    if header.startswith(b"\r\n"):
        return 0
    end = header.find(b"\r\n\r\n")
    return len(header) if end < 0 else end + 2


def fields(header: bytes) -> Iterator[Field]:
    """The fields of `header` in order. Their `raw`s joined are the section up to section_end, octet by octet."""
    for found in _FIELD.finditer(header, 0, section_end(header)):
        raw = found[0]
        if raw:
            yield Field((found[1] or b"").lower(), raw)


def count(header: bytes, name: bytes) -> int:
    """How many fields called `name` (lower case) stand in the header section `header`."""
    lowered = b"\n" + header[: section_end(header)].lower()
    exact = lowered.count(b"\n" + name + b":")
    if lowered.count(b"\n" + name) == exact:
        return exact
    return exact + len(_spaced(name).findall(lowered))


def find(header: bytes, name: bytes) -> Field | None:
    """The first field called `name` (lower case) of the header section `header`, or None."""
    end = section_end(header)
    lowered = b"\n" + header[:end].lower()
    line = b"\n" + name
    start = lowered.find(line)
    while start >= 0:
        if lowered[start + len(line) : start + LINE_MAX].lstrip(b" \t").startswith(b":"):  # RFC 5322 §4.5
            found = _FIELD.match(header, start, end)
            return Field(name, found[0]) if found else None
        start = lowered.find(line, start + 1)
    return None


def message_id(header: bytes) -> str:
    """The Message-ID for the log, with its angle brackets: str of printable ASCII without spaces, "" for none.

    Anything else in it becomes "?", so that a log line stays one line.
    """
    plain = _PLAIN_ID.search(header)
    if plain is not None:
        return plain[1].decode("ascii")
    found = find(header, b"message-id")
    if found is None:
        return ""
    return _UNSAFE.sub("?", found.value[:MESSAGE_ID_MAX].decode("ascii", "replace"))


def has_nonascii(header: bytes) -> bool:
    """Whether raw 8-bit octets stand in the header section: it needs SMTPUTF8, or is broken (RFC 6532 §3.2)."""
    return not header.isascii()


@lru_cache(maxsize=64)
def _spaced(name: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"\n" + re.escape(name) + rb"[ \t]++:")  # RFC 5322 §4.5: the obsolete form


# Edits


def _one_field(_: object, attribute: Attribute[bytes], value: bytes) -> None:
    if not _WHOLE.fullmatch(value):
        raise ValueError(f"{attribute.name} is not one header field with its CRLF")


@frozen(slots=True)
class Prepend:
    """Put `octets`, a whole field with its CRLF, above all others. Raises ValueError if it is anything else."""

    octets: bytes = field(validator=_one_field)


@frozen(slots=True)
class Add:
    """Put `octets`, a whole field with its CRLF, below all others. Raises ValueError if it is anything else."""

    octets: bytes = field(validator=_one_field)


@frozen(slots=True)
class Remove:
    """Leave out the `nth` field called `name` (lower case), counted from 1 at the top; 0 means all of them."""

    name: bytes
    nth: int = 0


@frozen(slots=True)
class Replace:
    """Put `octets`, a whole field, in the place of the `nth` field called `name`; added below if there is none."""

    name: bytes
    nth: int
    octets: bytes = field(validator=_one_field)


Edit = Prepend | Add | Remove | Replace


def edit(header: bytes, edits: Sequence[Edit]) -> bytes:
    """`header` (a section, its empty line included where it has one) with `edits` made while copying.

    Counts speak of the section as it came, not of one edit's result; of two edits of one field the last one wins.
    Prepended fields stand with the last one on top.
    """
    above = b"".join(e.octets for e in reversed(edits) if isinstance(e, Prepend))
    below = [e.octets for e in edits if isinstance(e, Add)]
    changes = {(e.name, e.nth): e for e in edits if isinstance(e, Remove | Replace)}
    end = section_end(header)
    if changes:
        kept = _changed(header, changes)
        below += [e.octets for e in changes.values() if isinstance(e, Replace)]
    else:
        kept = header[:end]
    if below and kept and not kept.endswith(b"\n"):
        kept += b"\r\n"
    return above + kept + b"".join(below) + header[end:]


def _changed(header: bytes, changes: dict[tuple[bytes, int], Remove | Replace]) -> bytes:
    """The fields with `changes` made; each that took place is taken out of `changes`, removals of all excepted."""
    seen: dict[bytes, int] = {}
    kept = []
    for known in fields(header):
        seen[known.name] = nth = seen.get(known.name, 0) + 1
        change = changes.pop((known.name, nth), None) or changes.get((known.name, 0))
        if change is None:
            kept.append(known.raw)
        elif isinstance(change, Replace):
            kept.append(change.octets)
    return b"".join(kept)
