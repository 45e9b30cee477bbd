"""Replies as a peer sends them: octets in, whole replies out, strict and bounded.

RFC 5321 §4.2 (form and digits), §4.2.1 (several lines), §4.5.3.1.5 (length of a line). What a reply means is left
to smtp.dialogue and delivery.classify.
"""

from __future__ import annotations

from relaymta.mail.reply import Reply

LINE_MAX = 2048  # octets; RFC 5321 §4.5.3.1.5 says 512, and peers with long URLs in a refusal go above it
LINES_MAX = 128  # lines of one reply; ours: the longest EHLO answers seen have about 25
SIZE_MAX = 16 * 1024  # octets of one reply; ours
TOLD_MAX = 4 * 1024  # octets of a reply that is kept for people; ours: it is logged and stored for each recipient

Raw = tuple[int, list[bytes]]  # the code, and the text of each line without code, mark and line end

# RFC 5321 §4.2.1: the first digit says how it went, the second is 0 to 5. 1yz does not exist in SMTP.
_CODES = {b"%d%d%d" % (a, b, c): a * 100 + b * 10 + c for a in range(2, 6) for b in range(6) for c in range(10)}
_MARKS = (b" ", b"-", b"\r", b"")  # RFC 5321 §4.2: the code alone is a reply too
_CONTROL = dict.fromkeys((*range(32), *range(127, 160)), "?")


class ReplyReader:
    """Cuts the peer's stream into replies, wherever the stream is cut.

    `fault` is "" until the peer sends what is no SMTP reply, and then says so in one short sentence; the replies
    before it still count. A bare LF ends a line as well: nothing that we send depends on where a reply's line ends.
    """

    __slots__ = ("_code", "_lines", "_rest", "_size", "fault")

    def __init__(self) -> None:
        self.fault = ""
        self._rest = b""
        self._lines: list[bytes] = []
        self._code = 0
        self._size = 0

    @property
    def between(self) -> bool:
        """Whether nothing of a further reply has come: not a line, not an octet."""
        return not self._rest and not self._lines

    def feed(self, octets: bytes) -> list[Raw]:
        """The replies that end in `octets`; none any more after a fault."""
        replies: list[Raw] = []
        if self.fault:
            return replies
        if self._rest:
            octets = self._rest + octets
        lines = octets.split(b"\n")
        self._rest = lines.pop()
        long = len(octets) > LINE_MAX
        for line in lines:
            code = _CODES.get(line[:3])
            mark = line[3:4]
            if code is None or mark not in _MARKS:
                self.fault = "not an SMTP reply"
                return replies
            if long and len(line) > LINE_MAX:
                break
            text = line[4:-1] if line.endswith(b"\r") else line[4:]
            if mark == b"-" or self._lines:
                if self._continued(code, text):
                    return replies
                if mark == b"-":
                    continue
                replies.append((code, self._lines))
                self._lines, self._size = [], 0
            else:
                replies.append((code, [text]))
        else:
            if not long or len(self._rest) <= LINE_MAX:
                return replies
        self.fault = "a line of the reply is too long"
        return replies

    def _continued(self, code: int, text: bytes) -> str:
        if self._lines and code != self._code:
            self.fault = "the lines of one reply have different codes"  # RFC 5321 §4.2.1
        self._code = code
        self._lines.append(text)
        self._size += len(text)
        if len(self._lines) > LINES_MAX or self._size > SIZE_MAX:
            self.fault = "the reply is too long"
        return self.fault


def reply_of(raw: Raw) -> Reply:
    """The reply as a value: text decoded (RFC 6531 §3.7.4.1 allows UTF-8), what is not printable made visible."""
    code, lines = raw
    if len(lines) > 1:
        lines = _told(lines)
    return Reply.of(code, [_clean(line) for line in lines])


def _told(lines: list[bytes]) -> list[bytes]:
    """As many of the lines as people are told."""
    room = TOLD_MAX
    kept: list[bytes] = []
    for line in lines:
        room -= len(line)
        if room < 0:
            return [*kept, b"..."]
        kept.append(line)
    return kept


def _clean(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.translate(_CONTROL)
