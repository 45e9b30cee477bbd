"""A value that is made of files, and made again when they change.

The files are looked at by name (change and modification time, inode, size), so that a file that is replaced, a link
that is moved and a mode that is mended are all seen. Who looks, and how often, is the caller's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from relaymta.net.pair import CertificateError

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int, int] | None, ...]


class Watched(Generic[T]):
    """`value` is what `read` made of `files`, at first and whenever they have changed; it raises CertificateError.

    What cannot be used leaves the value before in force. Two files are not replaced in one instant: they are only
    complained of when a second look finds them the same.
    """

    def __init__(self, files: Iterable[str], read: Callable[[], T]) -> None:
        self.files = tuple(files)
        self._read = read
        self._stamp = _stamp(self.files)  # before they are read: what changes meanwhile is seen at the next look
        self._doubted: Stamp | None = None
        self.value = read()

    def look(self) -> bool:
        """Whether there is a new value. Raises CertificateError once for each bad state of the files that lasts."""
        now = _stamp(self.files)
        if now == self._stamp:
            return False
        try:
            value = self._read()
        except CertificateError:
            if now != self._doubted:
                self._doubted = now
                return False
            self._stamp = now
            raise
        self._stamp, self._doubted, self.value = now, None, value
        return True


def _stamp(files: tuple[str, ...]) -> Stamp:
    return tuple(map(_state, files))


def _state(file: str) -> tuple[int, int, int, int] | None:
    try:
        facts = os.stat(file)
    except OSError:
        return None
    return (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_size)
