"""SMTP replies: three digits, an enhanced code, a text; rendered for the wire or read from it.

RFC 5321 §4.2 (replies), §4.5.3.1.5 (512 octets a line), RFC 2034 and RFC 3463 (enhanced codes).
"""

from __future__ import annotations

import re

from attrs import frozen

LINE_MAX = 512  # RFC 5321 §4.5.3.1.5, octets, CRLF included
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)")


@frozen(slots=True)
class Reply:
    """One reply. `text` is str, its lines parted by "\\n"; `enhanced` is like "2.1.5", or "" (greeting, EHLO, 354).

    `close` says that the connection ends with this reply (RFC 5321 §3.8: 421 and the answer to QUIT).
    """

    code: int
    enhanced: str
    text: str
    close: bool = False

    @property
    def positive(self) -> bool:
        """2xx or 3xx."""
        return self.code < 400

    @property
    def transient(self) -> bool:
        """4xx."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """5xx."""
        return self.code >= 500

    @property
    def status(self) -> str:
        """The enhanced code, or the plainest one of its class: "5.0.0" (RFC 3463 §3.1)."""
        return self.enhanced or f"{self.code // 100}.0.0"

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"

    def render(self) -> bytes:
        """The reply for the wire, every line ended with CRLF, the enhanced code on each (RFC 2034 §4)."""
        mark = f"{self.enhanced} " if self.enhanced else ""
        if "\n" not in self.text:
            return _line(f"{self.code} {mark}{self.text}")
        lines = self.text.split("\n")
        head = b"".join(_line(f"{self.code}-{mark}{line}") for line in lines[:-1])
        return head + _line(f"{self.code} {mark}{lines[-1]}")

    @classmethod
    def of(cls, code: int, lines: list[str]) -> Reply:
        """A reply as a peer sent it: the enhanced code is taken out of `lines` where its class fits `code`."""
        first = _ENHANCED.match(lines[0]) if lines else None
        if first is None or ord(lines[0][0]) - 48 != code // 100:
            return cls(code, "", "\n".join(lines))
        mark = first[1]
        if len(lines) == 1:
            return cls(code, mark, lines[0][first.end() :].lstrip(" "))
        cut = [line[len(mark) :].lstrip(" ") if f"{line} ".startswith(f"{mark} ") else line for line in lines]
        return cls(code, mark, "\n".join(cut))


def _line(text: str) -> bytes:
    octets = text.encode("utf-8", "backslashreplace").replace(b"\r", b" ")
    end = LINE_MAX - 2
    if len(octets) > end:
        while octets[end] & 0xC0 == 0x80:  # not within a character: RFC 6531 §3.7.4.1 says UTF-8
            end -= 1
        octets = octets[:end]
    return octets + b"\r\n"
