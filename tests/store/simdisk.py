"""A simulated disk: a page cache over stable storage, so that the power can be cut and calls can fail.

It stands behind store.disk.Disk. What was not synced may survive a crash or not: file data by blocks in any order and
in any of the versions written since the last sync, names by single operations or as a prefix of them. A rename within
a file system is atomic (POSIX) and, when lost, lost as a whole. A failed sync leaves its blocks clean and not stable,
as Linux does: a later sync that succeeds says nothing about them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from random import Random
from typing import Any

WRITING = frozenset({"create", "write", "pwritev", "fsync", "fdatasync", "syncfs", "rename", "unlink", "mkdir"})


class Fate(Enum):
    """What a cut of power does to what was not synced."""

    NOTHING = auto()  # none of it survives
    EVERYTHING = auto()  # all of it does
    SOME = auto()  # any of it may
    ORDERED = auto()  # names survive in the order of their making (a journaling file system), data as it likes


class File:
    """One file: what programs see, what is stable, and the versions of each block that may reach the disk."""

    def __init__(self, modified: float) -> None:
        self.data = bytearray()
        self.stable = bytearray()
        self.dirty: dict[int, list[bytes]] = {}
        self.doomed: dict[int, list[bytes]] = {}  # of failed syncs
        self.modified = modified
        self.locked = 0  # the file descriptor that holds the lock


class Folder:
    """One folder: names that programs see, names that are stable, and operations that may reach the disk."""

    def __init__(self) -> None:
        self.entries: dict[str, File | Folder] = {}
        self.stable: dict[str, File | Folder] = {}
        self.pending: list[Change] = []


class Change:
    """One change of names in a folder: `gone` disappears, `name` appears as `inode`; `twin` is its other half."""

    def __init__(self, number: int, gone: str | None, name: str | None, inode: Any) -> None:
        self.number = number
        self.gone = gone
        self.name = name
        self.inode = inode
        self.twin: tuple[Folder, Change] | None = None

    def apply(self, names: dict[str, File | Folder]) -> None:
        """Make the change."""
        if self.gone is not None:
            names.pop(self.gone, None)
        if self.name is not None:
            names[self.name] = self.inode


class SimDisk:
    """System calls on a simulated disk.

    `before(call)` is called before every call that may change what is stable. `failing(call, number)` may return an
    error number, or "short" for a write that stops half way; calls are numbered from 1. `calls` keeps their names.
    """

    def __init__(self, block: int = 512) -> None:
        self.block = block
        self.has_syncfs = True
        self.now = 0.0
        self.room = 1 << 30
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda call: None
        self.failing: Callable[[str, int], int | str | None] = lambda call, number: None
        self.root = Folder()
        self._open: dict[int, tuple[File | Folder, bool, list[int]]] = {}
        self._next = 3
        self._changes = 0

    # The calls

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        folder, name = self._place(path)
        inode = folder.entries.get(name) if name else folder
        creating = inode is None and bool(flags & os.O_CREAT)
        self._call("create" if creating else "open")
        if inode is None:
            if not creating:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            inode = File(self.now)
            self._change(folder, None, name, inode)
        elif flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "file exists", path)
        if isinstance(inode, File) and flags & os.O_TRUNC and inode.data:
            raise AssertionError("the spool truncates nothing")
        if isinstance(inode, Folder) and not flags & os.O_DIRECTORY:
            raise IsADirectoryError(errno.EISDIR, "is a folder", path)
        self._next += 1
        self._open[self._next] = (inode, bool(flags & os.O_APPEND), [0])
        return self._next

    def close(self, fd: int) -> None:
        failed = self._call("close", late=True)  # Linux: the descriptor is gone, whatever is said
        inode, _, _ = self._open.pop(fd)
        if isinstance(inode, File) and inode.locked == fd:
            inode.locked = 0
        self._raise(failed)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self._call("pread")
        return bytes(self._file(fd).data[offset : offset + size])

    def write(self, fd: int, octets: bytes) -> int:
        file, append, position = self._open[fd]
        assert isinstance(file, File)
        at = len(file.data) if append else position[0]
        written = self._write("write", file, octets, at)
        position[0] = at + written
        return written

    def pwritev(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        assert len(buffers) <= 1024
        return self._write("pwritev", self._file(fd), b"".join(buffers), offset)

    def size(self, fd: int) -> int:
        return len(self._file(fd).data)

    def modified(self, path: str) -> float:
        folder, name = self._place(path)
        inode = folder.entries[name]
        assert isinstance(inode, File)
        return inode.modified

    def fsync(self, fd: int) -> None:
        self._sync("fsync", fd)

    def fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd)

    def syncfs(self, fd: int) -> None:
        failed = self._call("syncfs", late=True)
        for inode in [*self._tree(self.root), *(entry[0] for entry in self._open.values())]:
            self._flush(inode, failed is not None)
        self._raise(failed)

    def rename(self, old: str, new: str) -> None:
        self._call("rename")
        source, name = self._place(old)
        target, to = self._place(new)
        if name not in source.entries:
            raise FileNotFoundError(errno.ENOENT, "no such file", old)
        inode = source.entries[name]
        if source is target:
            self._change(source, name, to, inode)
            return
        link = self._change(target, None, to, inode)
        unlink = self._change(source, name, None, None)
        unlink.twin = (target, link)

    def unlink(self, path: str) -> None:
        self._call("unlink")
        folder, name = self._place(path)
        if name not in folder.entries:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        self._change(folder, name, None, None)

    def mkdir(self, path: str) -> None:
        folder, name = self._place(path)
        if not name or name in folder.entries:
            raise FileExistsError(errno.EEXIST, "file exists", path)
        self._call("mkdir")
        self._change(folder, None, name, Folder())

    def listdir(self, path: str) -> Iterator[str]:
        self._call("listdir")
        folder, name = self._place(path)
        if name and name not in folder.entries:
            raise FileNotFoundError(errno.ENOENT, "no such folder", path)
        inside = folder.entries[name] if name else folder
        assert isinstance(inside, Folder)
        return iter(list(inside.entries))

    def flock(self, fd: int) -> bool:
        file = self._file(fd)
        if file.locked:
            return False
        file.locked = fd
        return True

    def free(self, path: str) -> int:
        self._call("statvfs")
        return self.room

    # What tests do to it

    def crash(self, fate: Fate, seed: int = 0) -> SimDisk:
        """The disk as it is found after the power was cut now."""
        random = Random(f"{fate} {seed}")
        survivor = SimDisk(self.block)
        survivor.now, survivor.room = self.now, self.room
        kept = self._kept(fate, random)
        copies: dict[int, Any] = {}
        survivor.root = self._survive(self.root, fate, random, kept, copies)
        return survivor

    def kill(self) -> None:
        """The process is gone, with its file descriptors and its locks; the page cache is still there."""
        for inode, _, _ in self._open.values():
            if isinstance(inode, File):
                inode.locked = 0
        self._open.clear()
        self.before, self.failing = lambda call: None, lambda call, number: None

    def octets(self, path: str) -> bytearray:
        """A file's octets, for a test to look at and to damage; damage is stable at once."""
        folder, name = self._place(path)
        file = folder.entries[name]
        assert isinstance(file, File)
        file.stable = file.data
        return file.data

    def names(self, path: str) -> list[str]:
        """The names in a folder."""
        folder, name = self._place(path)
        inside = folder.entries[name] if name else folder
        assert isinstance(inside, Folder)
        return sorted(inside.entries)

    # Inside

    def _call(self, call: str, late: bool = False) -> int | str | None:
        if call in WRITING:
            self.before(call)
        self.calls.append(call)
        failed = self.failing(call, len(self.calls))
        if failed is not None and not late:
            self._raise(failed)
        return failed

    @staticmethod
    def _raise(failed: int | str | None) -> None:
        if isinstance(failed, int):
            raise OSError(failed, os.strerror(failed))

    def _place(self, path: str) -> tuple[Folder, str]:
        folder = self.root
        *parents, name = path.strip("/").split("/")
        for part in parents:
            inside = folder.entries.get(part)
            if not isinstance(inside, Folder):
                raise FileNotFoundError(errno.ENOENT, "no such folder", path)
            folder = inside
        if isinstance(folder.entries.get(name), Folder) and name in folder.entries:
            return folder, name
        return folder, name

    def _file(self, fd: int) -> File:
        inode = self._open[fd][0]
        assert isinstance(inode, File)
        return inode

    def _write(self, call: str, file: File, octets: bytes, at: int) -> int:
        failed = self._call(call, late=True)
        if failed is not None:
            octets = octets[: len(octets) // 2]
        if len(file.data) < at:
            file.data.extend(bytes(at - len(file.data)))
        file.data[at : at + len(octets)] = octets
        size = self.block
        for block in range(at // size, -(-(at + len(octets)) // size)):
            file.dirty.setdefault(block, []).append(bytes(file.data[block * size : (block + 1) * size]))
        self._raise(failed)
        return len(octets)

    def _sync(self, call: str, fd: int) -> None:
        failed = self._call(call, late=True)
        self._flush(self._open[fd][0], failed is not None)
        self._raise(failed)

    def _flush(self, inode: File | Folder, failed: bool) -> None:
        if isinstance(inode, File):
            for block, versions in inode.dirty.items():
                if failed:
                    inode.doomed.setdefault(block, []).extend(versions)
                else:
                    _put(inode.stable, block * self.block, versions[-1])
                    inode.doomed.pop(block, None)
            inode.dirty.clear()
        elif not failed:
            for change in inode.pending:
                change.apply(inode.stable)
                if change.twin is not None:  # the other half of an atomic rename
                    folder, link = change.twin
                    if link in folder.pending:
                        folder.pending.remove(link)
                        link.apply(folder.stable)
            inode.pending.clear()

    def _change(self, folder: Folder, gone: str | None, name: str | None, inode: Any) -> Change:
        self._changes += 1
        change = Change(self._changes, gone, name, inode)
        change.apply(folder.entries)
        folder.pending.append(change)
        return change

    def _tree(self, folder: Folder) -> Iterator[File | Folder]:
        yield folder
        for inode in folder.entries.values():
            if isinstance(inode, Folder):
                yield from self._tree(inode)
            else:
                yield inode

    def _kept(self, fate: Fate, random: Random) -> Callable[[Change], bool]:
        if fate is Fate.NOTHING:
            return lambda change: False
        if fate is Fate.EVERYTHING:
            return lambda change: True
        if fate is Fate.ORDERED:
            numbers = [
                change.number
                for inode in self._tree(self.root)
                if isinstance(inode, Folder)
                for change in inode.pending
            ]
            last = random.choice([0, *numbers])
            return lambda change: change.number <= last
        return lambda change: Random(f"{random.getstate()[1][0]} {change.number}").random() < 0.5

    def _survive(
        self,
        folder: Folder,
        fate: Fate,
        random: Random,
        kept: Callable[[Change], bool],
        copies: dict[int, Any],
    ) -> Folder:
        names = dict(folder.stable)
        for change in folder.pending:
            if change.twin is not None:
                home, link = change.twin
                if link in home.pending and not kept(link):
                    continue  # never only the half that takes away
            if change.name is not None and change.gone is not None and change.gone not in names:
                continue  # a rename of what was never there
            if kept(change):
                change.apply(names)
        copy = Folder()
        for name, inode in names.items():
            if isinstance(inode, Folder):
                copy.entries[name] = self._survive(inode, fate, random, kept, copies)
            else:
                if id(inode) not in copies:
                    copies[id(inode)] = self._file_left(inode, fate, random)
                copy.entries[name] = copies[id(inode)]
        copy.stable = dict(copy.entries)
        return copy

    def _file_left(self, file: File, fate: Fate, random: Random) -> File:
        left = File(file.modified)
        data = bytearray(file.data if fate is Fate.EVERYTHING else file.stable)
        if fate not in (Fate.NOTHING, Fate.EVERYTHING):
            for blocks in (file.dirty, file.doomed):
                for block, versions in blocks.items():
                    if random.random() < 0.6:
                        _put(data, block * self.block, random.choice(versions))
            if random.random() < 0.3:  # the length may get there before the data
                data.extend(bytes(max(0, len(file.data) - len(data))))
        left.data, left.stable = data, bytearray(data)
        return left


def _put(data: bytearray, at: int, octets: bytes) -> None:
    if len(data) < at:
        data.extend(bytes(at - len(data)))
    data[at : at + len(octets)] = octets
