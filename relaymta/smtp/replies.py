"""Replies as a peer sends them: octets in, whole replies out, strict and bounded.

RFC 5321 §4.2 (form and digits), §4.2.1 (several lines), §4.5.3.1.5 (length of a line). What a reply means is left
to smtp.dialogue and delivery.classify.
"""

from __future__ import annotations

from relaymta.mail.reply import Reply

LINE_MAX = 2048  # octets; RFC 5321 §4.5.3.1.5 says 512, and peers with long URLs in a refusal go above it
LINES_MAX = 128  # lines of one reply; ours: the longest EHLO answers seen have about 25
SIZE_MAX = 16 * 1024  # octets of one reply; ours

Raw = tuple[int, list[bytes]]  # the code, and the text of each line without code, mark and line end

# RFC 5321 §4.2.1: the first digit says how it went, the second is 0 to 5. 1yz does not exist in SMTP.
_CODES = {b"%d%d%d" % (a, b, c): a * 100 + b * 10 + c for a in range(2, 6) for b in range(6) for c in range(10)}
_CONTROL = dict.fromkeys((*range(32), *range(127, 160)), "?")


class ReplyError(ValueError):
    """What the peer sent is not an SMTP reply; the text is one short sentence."""


class ReplyReader:
    """Cuts the peer's stream into replies, wherever the stream is cut.

    A bare LF ends a line as well: nothing that we send depends on where a line of a reply ends.
    """

    __slots__ = ("_code", "_lines", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[bytes] = []
        self._code = 0
        self._size = 0

    @property
    def between(self) -> bool:
        """Whether nothing of a further reply has come: not a line, not an octet."""
        return not self._rest and not self._lines

    def feed(self, octets: bytes) -> list[Raw]:
        """The replies that end in `octets`. Raises ReplyError; the stream is then of no more use."""
        if self._rest:
            octets = self._rest + octets
        lines = octets.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LINE_MAX:
            raise ReplyError("a line of the reply is too long")
        replies: list[Raw] = []
        for line in lines:
            code = _CODES.get(line[:3])
            mark = line[3:4]
            if code is None or len(line) > LINE_MAX:
                raise ReplyError("a line of the reply is too long" if code else "not an SMTP reply")
            text = line[4:-1] if line.endswith(b"\r") else line[4:]
            if mark == b"-":
                self._continued(code, text)
            elif mark in b" \r":  # RFC 5321 §4.2: the code alone is a reply too; b"" is in b" \r"
                if self._lines:
                    self._continued(code, text)
                    replies.append((code, self._lines))
                    self._lines, self._size = [], 0
                else:
                    replies.append((code, [text]))
            else:
                raise ReplyError("not an SMTP reply")
        return replies

    def _continued(self, code: int, text: bytes) -> None:
        if self._lines and code != self._code:
            raise ReplyError("the lines of one reply have different codes")  # RFC 5321 §4.2.1
        self._code = code
        self._lines.append(text)
        self._size += len(text)
        if len(self._lines) > LINES_MAX or self._size > SIZE_MAX:
            raise ReplyError("the reply is too long")


def reply_of(raw: Raw) -> Reply:
    """The reply as a value: text decoded (RFC 6531 §3.7.4.1 allows UTF-8), what is not printable made visible."""
    code, lines = raw
    return Reply.of(code, [_clean(line) for line in lines])


def _clean(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.translate(_CONTROL)
