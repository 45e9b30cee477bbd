"""The letter that the benchmark sends: every octet known beforehand, numbered, and recognised at the sink.

A letter is `front`, sixteen digits (round and number), and `back`. The relay may put header fields in front; what
follows the digits must arrive as it was sent. Some lines begin with dots, so both dialogues must stuff them.
"""

from __future__ import annotations

from attrs import define, field

FIELD = b"X-Bench-Number: "
DIGITS = 16
LINE = 72  # octets in a line of text, without CRLF


def text(size: int) -> bytes:
    """Exactly `size` octets of CRLF-terminated lines; every ninth begins with a dot."""
    lines = []
    left = size
    number = 0
    while left >= 2:
        length = LINE if left > LINE + 4 else left - 2
        stem = b"%07d the quick brown fox jumps over the lazy dog; pack my box with liquor jugs." % number
        if number % 9 == 8:
            stem = b"." + stem
        lines.append(stem[:length].ljust(length, b"-") + b"\r\n")
        left -= length + 2
        number += 1
    return b"".join(lines)


@define
class Letter:
    """One kind of letter: `size` octets of text under a small header."""

    size: int
    front: bytes = field(init=False)
    back: bytes = field(init=False)  # dots stuffed, without the end of data

    def __attrs_post_init__(self) -> None:
        """Compose it once; all letters of a round differ in their digits alone."""
        self.front = (
            b"From: Generator <generator@bench.test>\r\n"
            b"To: Sink <sink@bench.test>\r\n"
            b"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n"
            b"Subject: a letter of the benchmark\r\n" + FIELD
        )
        header = b"@bench.test\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
        body = text(max(self.size - len(self.front) - DIGITS - len(header), 64))
        self.back = (header + body).replace(b"\r\n.", b"\r\n..")  # RFC 5321 §4.5.2

    def wire(self, run: int, number: int) -> bytes:
        """The content as it travels: stuffed, and with the end of data."""
        return b"%b%06d%010d%b.\r\n" % (self.front, run, number, self.back)

    def read(self, content: bytes | bytearray) -> tuple[int, int]:
        """(run, number) of arrived, still stuffed content (end of data removed); ValueError if an octet differs."""
        start = content.find(FIELD, 0, 16384)
        digits = start + len(FIELD)
        if start < 0 or not content.endswith(self.back) or len(content) - digits - DIGITS != len(self.back):
            raise ValueError("the letter was changed on its way")
        if content[digits - len(self.front) : digits] != self.front:
            raise ValueError("the letter's header was changed on its way")
        return int(content[digits : digits + 6]), int(content[digits + 6 : digits + DIGITS])
