"""Letters whose every octet is known from their number, and what was sent told from what arrived."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# The field that the relay writes ends with its date; whatever the content begins with, this is where it begins.
_TRACE = re.compile(rb"Received: (?:[^\r\n]|\r\n[ \t])*?\+0000\r\n")
_NUMBER = re.compile(rb"\r\nSubject: letter (\d+) of (\d+) octets\r\n")

# Lines that a careless relay would change: dots, the end of data inside a line, trailing blanks, longest lines, 8 bit.
_LINES = (
    b"",
    b".",
    b"..",
    b"...",
    b".hidden",
    b"..twice",
    b"a dot at the end.",
    b" .",
    b"\t. ",
    b"From the beginning",
    b"QUIT",
    b"MAIL FROM:<inside@example.net>",
    b"trailing blanks   ",
    b"x" * 998,
    b"." * 72,
    "naïve façade, Привет".encode(),
)
_PATTERN = b"".join(line + b"\r\n" for line in _LINES) + b"".join(
    b"%s%04d the quick brown fox jumps over the lazy dog\r\n" % (b"." * (number % 7 == 0), number)
    for number in range(400)
)
_STARTS = [0, *(match.end() for match in re.finditer(rb"\r\n", _PATTERN))][:-1]


def body(number: int, size: int) -> bytes:
    """`size` octets of CRLF lines (at least 2), another piece of text for each number."""
    start = _STARTS[number % len(_STARTS)]
    text = _PATTERN[start:] + _PATTERN * (size // len(_PATTERN) + 1)
    return text[: size - 2].replace(b"\r\n", b"\0").replace(b"\r", b"r").replace(b"\0", b"\r\n") + b"\r\n"


def letter(number: int, size: int = 2000) -> bytes:
    """Letter `number`: a header and `size` octets of body."""
    return (
        b"From: <sender@example.net>\r\nTo: <recipient@example.org>\r\nMessage-ID: <%d@letters.example.net>\r\n"
        b"Subject: letter %d of %d octets\r\n\r\n" % (number, number, size)
    ) + body(number, size)


def without_trace(content: bytes) -> bytes:
    """What arrived without the one Received field that the relay put in front. AssertionError when there is none."""
    trace = _TRACE.match(content)
    assert trace is not None, f"no Received field in front: {content[:300]!r}"
    return content[trace.end() :]


def number_of(content: bytes) -> int:
    """Which letter arrived. AssertionError unless it is exactly as it was sent."""
    sent = without_trace(content)
    match = _NUMBER.search(sent[:1000])
    assert match is not None, f"not a letter: {sent[:300]!r}"
    number = int(match[1])
    assert sent == letter(number, int(match[2])), f"letter {number} was changed on its way"
    return number


def count(contents: Iterable[bytes]) -> Counter[int]:
    """How often each letter arrived; AssertionError when one was changed."""
    return Counter(map(number_of, contents))
