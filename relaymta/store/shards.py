"""The shards of a spool and who owns them: one folder each, one lock held for a life.

A worker claims its own shard; ownerless ones, left by a worker that is no more, are adopted by whoever comes first.
flock(2) is given up by the kernel when its owner dies, so that a claim ends with its owner.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from attrs import define

from relaymta.store.disk import Disk, explain, sync_folder
from relaymta.store.interfaces import SpoolError, SpoolLocked

_EPHEMERAL = frozenset({"tmpfs", "ramfs", "overlay", "aufs", "devtmpfs"})


@define(slots=True, eq=False)
class Claim:
    """A shard that we own until release()."""

    path: str
    _disk: Disk
    _fd: int

    def release(self) -> None:
        """Give the shard up; whoever calls it writes nothing there any more."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # the lock goes with the last file descriptor, whatever close says
                self._disk.close(fd)


def shard_path(spool: str, number: int) -> str:
    """The folder of a shard."""
    return f"{spool}/shard-{number}"


def shards(disk: Disk, spool: str) -> list[str]:
    """The folders of all shards in a spool, by number. Raises OSError; a spool that is not there has none."""
    try:
        found = [name for name in disk.listdir(spool) if name.startswith("shard-") and name[6:].isdecimal()]
    except FileNotFoundError:
        return []
    return [f"{spool}/{name}" for name in sorted(found, key=lambda name: int(name[6:]))]


def claim(disk: Disk, path: str) -> Claim:
    """Own the shard at `path`, made if need be. Raises SpoolLocked when another owns it, else SpoolError."""
    try:
        _make(disk, path)
        fd = disk.open(f"{path}/lock", os.O_RDWR | os.O_CREAT)
        try:
            if disk.flock(fd):
                disk.pwritev(fd, [b"%-20d\n" % os.getpid()], 0)
                return Claim(path, disk, fd)
            owner = disk.pread(fd, 20, 0).strip().decode("ascii", "replace")
        except OSError:
            disk.close(fd)
            raise
        disk.close(fd)
    except OSError as error:
        raise SpoolError(f"cannot lock {path}: {explain(error)}") from error
    raise SpoolLocked(f"{path} belongs to process {owner or 'unknown'}, which is running")


def adopt(disk: Disk, spool: str) -> Iterator[Claim]:
    """Claim every shard that nobody owns, one after the other."""
    for path in shards(disk, spool):
        with suppress(SpoolLocked):  # it has an owner: that is what we ask
            yield claim(disk, path)


def is_ephemeral(path: str, mounts: str = "/proc/self/mountinfo") -> bool:
    """Whether what is written at `path` is gone after a restart of the machine or of its container.

    Says no where it cannot know. `mounts` is in the form of proc(5), /proc/pid/mountinfo.
    """
    return file_system(path, mounts) in _EPHEMERAL


def file_system(path: str, mounts: str = "/proc/self/mountinfo") -> str:
    """The type of the file system that `path` lies on, or would, such as "ext4"; "" where it cannot be known."""
    try:
        with open(mounts, "rb") as lines:
            table = [line.split(b" ") for line in lines]
    except OSError:
        return ""
    real = os.path.realpath(path)
    best, kind = -1, ""
    for fields in table:
        point = os.fsdecode(fields[4].decode("unicode_escape").encode("latin-1"))  # proc(5): space is \\040
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best and b"-" in fields:
            best, kind = len(point), fields[fields.index(b"-") + 1].decode("ascii", "replace")
    return kind


def _make(disk: Disk, path: str) -> None:
    parent = os.path.dirname(path)
    for folder in (parent, path):
        try:
            disk.mkdir(folder)
        except FileExistsError:
            continue
        sync_folder(disk, os.path.dirname(folder))
