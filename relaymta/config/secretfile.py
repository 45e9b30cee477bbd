"""A secret that stands in a file of its own: a password, a client secret, a token.

It is read again when the file changes, so that a changed secret needs no reload. What it says is never part of an
error: those name the file and what is the matter with it. Who may read it is left to config.privileges.
"""

from __future__ import annotations

import os
import tempfile

SIZE_MAX = 16 * 1024  # octets; ours: refresh tokens of some providers have several thousand


class SecretError(Exception):
    """The secret cannot be had; the text names the file and says why."""


class SecretFile:
    """The secret in the file `path`: its first line, without the line end."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._secret = ""

    def __repr__(self) -> str:
        return f"SecretFile({self.path!r})"

    def read(self) -> str:
        """The secret as the file has it now. Raises SecretError."""
        try:
            facts = os.stat(self.path)
            stamp = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
            if stamp != self._stamp:
                with open(self.path, "rb") as stream:
                    self._secret = _only(stream.read(SIZE_MAX + 1))
                self._stamp = stamp
        except OSError as error:
            raise SecretError(f"{self.path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise SecretError(f"{self.path} {error}") from None
        return self._secret

    def write(self, secret: str) -> None:
        """Put another secret in its place, for nobody else to read. Raises SecretError."""
        try:
            handle, new = tempfile.mkstemp(prefix=".secret-", dir=os.path.dirname(self.path) or ".")
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(secret.encode() + b"\n")
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(new, self.path)
            except OSError:
                os.unlink(new)
                raise
        except OSError as error:
            raise SecretError(f"{self.path} cannot be written: {error.strerror}") from None


def _only(octets: bytes) -> str:
    if len(octets) > SIZE_MAX:
        raise ValueError(f"is longer than {SIZE_MAX} octets")
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    line, _, rest = text.partition("\n")
    line = line.removesuffix("\r")
    if rest.strip():
        raise ValueError("has more than one line")
    if not line:
        raise ValueError("is empty")
    if "\0" in line:
        raise ValueError("has a NUL in it")
    return line
