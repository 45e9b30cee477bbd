"""A secret that stands in a file of its own: a password, a client secret, a token.

It is read again when the file changes, so that a changed secret needs no reload. What it says is never part of an
error: those name the file and what is the matter with it.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tempfile
from collections.abc import Collection

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


def is_public(path: str) -> bool:
    """Whether everybody on this machine may read the file; not where it cannot be looked at."""
    try:
        return bool(stat.S_IMODE(os.stat(path).st_mode) & 0o004)
    except OSError:
        return False


def may_read(path: str, user: str) -> bool:
    """Whether another user of this machine may read the file, by its mode and that of the folders above it."""
    return _may(path, user, 0o4)


def may_write(folder: str, user: str) -> bool:
    """Whether another user of this machine may make files in the folder."""
    return _may(folder, user, 0o3)


def group_of(user: str) -> str:
    """The name of a user's own group, for advice; the user's where nobody knows it."""
    try:
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        return user


def _may(path: str, user: str, bits: int) -> bool:
    try:
        known = pwd.getpwnam(user)
    except KeyError:
        return True  # nobody to judge by
    groups = os.getgrouplist(user, known.pw_gid)
    path = os.path.abspath(path)
    above = path
    while above != os.path.dirname(above):
        above = os.path.dirname(above)
        if not _allowed(above, known.pw_uid, groups, 0o1):
            return False
    return _allowed(path, known.pw_uid, groups, bits)


def _allowed(path: str, uid: int, groups: Collection[int], bits: int) -> bool:
    try:
        facts = os.stat(path)
    except OSError:
        return False
    shift = 6 if facts.st_uid == uid else 3 if facts.st_gid in groups else 0
    return uid == 0 or facts.st_mode >> shift & bits == bits


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
