"""The disk: the system calls that the spool makes, and nothing else, so that a test can cut the power at each.

POSIX fsync(2), rename(2); Linux syncfs(2), which reports failed writes since 5.8. A call does what the kernel does:
short writes and errors are the caller's to judge.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from typing import Protocol

IOV_MAX = 1024  # buffers a pwritev, Linux UIO_MAXIOV


class Disk(Protocol):
    """System calls on files and folders; all raise OSError."""

    @property
    def has_syncfs(self) -> bool:
        """Whether syncfs() exists and tells when it fails."""

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """open(2)."""

    def close(self, fd: int) -> None:
        """close(2)."""

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """pread(2)."""

    def write(self, fd: int, octets: bytes) -> int:
        """write(2), where the file's position is (its end, with O_APPEND)."""

    def pwritev(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        """pwritev(2), at most IOV_MAX buffers."""

    def size(self, fd: int) -> int:
        """fstat(2), st_size."""

    def modified(self, path: str) -> float:
        """stat(2), st_mtime in POSIX seconds."""

    def fsync(self, fd: int) -> None:
        """fsync(2), of a file or a folder."""

    def fdatasync(self, fd: int) -> None:
        """fdatasync(2)."""

    def syncfs(self, fd: int) -> None:
        """syncfs(2): everything on the file system of `fd`."""

    def rename(self, old: str, new: str) -> None:
        """rename(2)."""

    def unlink(self, path: str) -> None:
        """unlink(2)."""

    def mkdir(self, path: str) -> None:
        """mkdir(2), mode 0700."""

    def listdir(self, path: str) -> Iterator[str]:
        """getdents(2), lazily."""

    def flock(self, fd: int) -> bool:
        """flock(2), exclusive, without waiting; False when another holds it."""

    def free(self, path: str) -> int:
        """statvfs(2): octets that an unprivileged process may still write."""


class RealDisk:
    """The kernel's own."""

    close = staticmethod(os.close)
    pread = staticmethod(os.pread)
    write = staticmethod(os.write)
    pwritev = staticmethod(os.pwritev)
    fsync = staticmethod(os.fsync)
    fdatasync = staticmethod(os.fdatasync)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._syncfs = getattr(libc, "syncfs", None)
        self.has_syncfs = self._syncfs is not None and reports_syncfs(os.uname().sysname, os.uname().release)

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        return os.open(path, flags, mode)  # whose own default is 0777: who may open a lock can keep us from taking it

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def modified(self, path: str) -> float:
        return os.stat(path).st_mtime

    def syncfs(self, fd: int) -> None:
        if self._syncfs is None:
            raise OSError(errno.ENOSYS, "no syncfs here")
        if self._syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def mkdir(self, path: str) -> None:
        os.mkdir(path, 0o700)

    def listdir(self, path: str) -> Iterator[str]:
        with os.scandir(path) as entries:
            for entry in entries:
                yield entry.name

    def flock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def free(self, path: str) -> int:
        answer = os.statvfs(path)
        return answer.f_bavail * answer.f_frsize


def reports_syncfs(system: str, release: str) -> bool:
    """Whether syncfs tells of failed writes on this kernel: on Linux since 5.8, before it always said "done"."""
    if system != "Linux":
        return False
    numbers = release.split("-")[0].split(".")[:2]
    return all(part.isdigit() for part in numbers) and tuple(map(int, numbers)) >= (5, 8)


def write_all(disk: Disk, fd: int, octets: bytes) -> None:
    """Write every octet, however many calls it takes. Raises OSError."""
    rest = octets
    while rest:
        written = disk.write(fd, rest)
        if written <= 0:
            raise OSError(errno.EIO, "nothing was written")
        rest = rest[written:]


def sync_folder(disk: Disk, path: str) -> None:
    """Put the names in a folder on stable storage. Raises OSError."""
    fd = disk.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)


def sync_everything(disk: Disk, path: str) -> None:
    """Put the file system that a folder lies on, names and data, on stable storage. Raises OSError."""
    fd = disk.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk.syncfs(fd)
    finally:
        disk.close(fd)


def explain(error: OSError) -> str:
    """An OSError in words for an operator."""
    text = error.strerror or str(error)
    return f"{text}: {error.filename}" if error.filename else text
