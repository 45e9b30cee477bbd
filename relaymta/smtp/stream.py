"""What a client has sent and we have not read: command lines, and runs of octets that are content.

RFC 5321 §2.3.8 (CRLF alone ends a line) and §4.5.3.1.4 (length). A bad line is known as bad as soon as it is clear that
it will be, and the rest of it is never gathered. What is said of it is left to smtp.session.
"""

from __future__ import annotations

from relaymta.mail.reply import Reply
from relaymta.smtp import answers

LINE_MAX = 2048  # octets of a command, CRLF not counted; RFC 5321 §4.5.3.1.4: 512 and what the extensions add
AUTH_LINE_MAX = 12288  # of AUTH and of a response, CRLF not counted; RFC 4954 §4


class Stream:
    """A buffer with a place in it. `fault` says what is wrong with the line that was read last, or None.

    `response`: the next line is no command, but a response within AUTH.
    """

    __slots__ = ("_at", "_buffer", "_skipping", "fault", "response")

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0  # where the unread octets begin
        self._skipping = False  # to the end of a line that was bad before its end came
        self.fault: Reply | None = None
        self.response = False

    @property
    def waiting(self) -> int:
        """Octets received and not read."""
        return len(self._buffer) - self._at

    def receive(self, octets: bytes) -> None:
        """Take octets from the client."""
        if self._at < len(self._buffer):
            octets = self._buffer[self._at :] + octets
        self._buffer, self._at = octets, 0

    def read(self, most: int) -> bytes:
        """Up to `most` octets."""
        octets = self._buffer[self._at : self._at + most]
        self._at += len(octets)
        return octets

    def read_all(self) -> bytes:
        """Everything."""
        octets = self._buffer[self._at :] if self._at else self._buffer
        self._buffer, self._at = b"", 0
        return octets

    def read_line(self) -> bytes | None:
        """A line without its CRLF, or None when more octets are needed. A bad line is cut at its fault."""
        while True:
            start = self._at
            if start == len(self._buffer):
                return None
            end = self._buffer.find(b"\r\n", start)
            if end < 0:
                return self._read_unfinished()
            self._at = end + 2
            if not self._skipping:
                line = self._buffer[start:end]
                if b"\n" in line or b"\r" in line or b"\0" in line:
                    return self._bad(line)
                if end - start > LINE_MAX and end - start > self._most(line):
                    return self._bad(line)
                self.fault = None
                return line
            self._skipping = False

    def _read_unfinished(self) -> bytes | None:
        rest = self.read_all()
        if self._skipping:
            self._buffer = b"\r" if rest.endswith(b"\r") else b""  # its LF may follow
            return None
        if len(rest) <= self._most(rest) + rest.endswith(b"\r") and b"\n" not in rest:
            self._buffer = rest
            return None
        self._skipping = True
        if rest.endswith(b"\r"):
            self._buffer = b"\r"
        return self._bad(rest)

    def _most(self, line: bytes) -> int:
        """How long this line may be, of which the first octets are there."""
        return AUTH_LINE_MAX if self.response or line[:5].upper() == b"AUTH " else LINE_MAX

    def _bad(self, line: bytes) -> bytes:
        """Say what is wrong with a line, the same whether its end has come or not."""
        most = self._most(line)
        lf = line.find(b"\n")
        if 0 <= lf <= most:
            self.fault = answers.BARE_LF
            return line[:lf]
        if len(line) > most:
            self.fault = answers.TOO_LONG if most == LINE_MAX else answers.AUTH_TOO_LONG
            return line[:most]
        self.fault = answers.NUL if b"\0" in line else answers.BARE_CR
        return line
