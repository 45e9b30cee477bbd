"""The folders of a shard, and how a file gets into them and out: written aside, synced, renamed, the folder synced.

    format      version of all this and the number of folders
    lock        held by the owner (store.shards)
    journal/    store.segment
    tmp/        files being written aside; what a crash leaves is swept when older than a day
    new/00..    queue files (store.queuefile), one a message, named by store.names
    corrupt/    what could not be read

Everything here is one blocking call after another; it runs on the clerk's hand, or at opening.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from contextlib import suppress
from typing import Protocol

from attrs import define, field, frozen

from relaymta.store import names, queuefile
from relaymta.store.disk import Disk, sync_everything, sync_folder, write_all
from relaymta.store.interfaces import SpoolError
from relaymta.store.lying import Lying

VERSION = 1
FEW = 8  # files or folders; below, an fsync each is as fast as one syncfs and spares other writers (measured, ext4)
STALE = 86400.0  # seconds until a file in tmp/ is swept


class Placement(Protocol):
    """A message that is to get a name in new/."""

    queue_id: str
    name: str
    aside: str
    fd: int

    def prepare(self, disk: Disk) -> None:
        """Write what is still to be written, into `fd`."""


@define(slots=True, eq=False)
class Parking:
    """A message from memory, or from where it is `lying` in the journal: all of it is still to be written."""

    queue_id: str
    name: str
    head: bytes
    content: bytes
    lines: Sequence[bytes]
    lying: Lying | None = None
    aside: str = ""
    fd: int = -1

    def prepare(self, disk: Disk) -> None:
        head, content = (self.head, self.content) if self.lying is None else self.lying.read(disk)
        first = queuefile.first_line(head, len(content), not content.isascii())
        lines = b"".join(map(queuefile.encode_line, self.lines))
        write_all(disk, self.fd, b"".join((first, head, content, lines)))


@frozen(slots=True)
class Folders:
    """Paths of a shard."""

    path: str
    journal: str = field(init=False)
    tmp: str = field(init=False)
    new: str = field(init=False)
    corrupt: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        for name in ("journal", "tmp", "new", "corrupt"):
            object.__setattr__(self, name, f"{self.path}/{name}")


class Shelf:
    """The folders of one shard, which is locked. `life` tells this owner's files in tmp/ from those of others."""

    def __init__(self, disk: Disk, path: str, life: str) -> None:
        self.folders = Folders(path)
        self._disk = disk
        self._life = life
        self._count = 0
        self._written = 0

    def prepare(self, count: int) -> None:
        """Make what is missing of the folders; a new shard gets `count` of them in new/. Raises SpoolError, OSError."""
        folders = self.folders
        known = self._read_format()
        self._count = known or count
        made = [
            self._make(path)
            for path in (folders.journal, folders.tmp, folders.new, folders.corrupt, *self.inside())
        ]
        if known is None or any(made):
            sync_folder(self._disk, folders.new)
            sync_folder(self._disk, folders.path)
        if known is None:
            self._write_format()
            sync_folder(self._disk, folders.path)
            sync_folder(self._disk, os.path.dirname(folders.path))

    def path(self, name: str) -> str:
        """Where the queue file of that name lies."""
        return f"{self.folder(name.partition(',')[0])}/{name}"

    def folder(self, queue_id: str) -> str:
        """The folder in new/ of a message."""
        return f"{self.folders.new}/{names.folder(queue_id, self._count)}"

    def inside(self) -> list[str]:
        """The folders of new/."""
        return [f"{self.folders.new}/{number:02x}" for number in range(self._count)]

    def find(self, queue_id: str) -> str | None:
        """The name of a message's file, by reading its folder."""
        return next(iter(self.find_all(self.folder(queue_id), {queue_id}).get(queue_id, ())), None)

    def find_all(self, folder: str, queue_ids: Container[str]) -> dict[str, list[str]]:
        """The names of the files in a folder that belong to some messages."""
        found: dict[str, list[str]] = {}
        for name in self._disk.listdir(folder):
            queue_id = name.partition(",")[0]
            if queue_id in queue_ids and names.decode(name) is not None:
                found.setdefault(queue_id, []).append(name)
        return found

    def aside(self, queue_id: str) -> tuple[str, int]:
        """A new file in tmp/: path and file descriptor."""
        self._written += 1
        path = f"{self.folders.tmp}/{queue_id}.{self._life}.{self._written}"
        return path, self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def place(self, batch: Sequence[Placement]) -> list[OSError | None]:
        """Put a batch on stable storage under its names; for each None, or why it is not there (nor aside)."""
        failures: list[OSError | None] = [None] * len(batch)
        for at, placement in enumerate(batch):
            try:
                if placement.fd < 0:
                    placement.aside, placement.fd = self.aside(placement.queue_id)
                placement.prepare(self._disk)
            except OSError as error:
                failures[at] = error
        self._sync_files(batch, failures)
        for at, placement in enumerate(batch):
            if failures[at] is None:
                try:
                    self._disk.rename(placement.aside, self.path(placement.name))
                except OSError as error:
                    failures[at] = error
        self._sync_folders(batch, failures)
        for at, placement in enumerate(batch):
            if failures[at] is not None and placement.aside:
                self.discard(placement.aside)
        return failures

    def discard(self, path: str) -> None:
        """Remove a file that nobody was promised; what cannot be removed is swept later."""
        with suppress(OSError):
            self._disk.unlink(path)

    def append(self, fd: int, line: bytes) -> None:
        """Append a line to a queue file that is open for that. Raises OSError."""
        write_all(self._disk, fd, queuefile.encode_line(line))

    def set_aside(self, path: str) -> str:
        """Move what cannot be read to corrupt/; its new path. Raises OSError."""
        name = path.rpartition("/")[2]
        taken = set(self._disk.listdir(self.folders.corrupt))
        free = name
        for number in range(1, len(taken) + 2):
            if free not in taken:
                break
            free = f"{name}.{number}"
        target = f"{self.folders.corrupt}/{free}"
        self._disk.rename(path, target)
        return target

    def sweep(self, now: float) -> None:
        """Remove what a crash left in tmp/ more than a day before `now` (POSIX seconds)."""
        for name in list(self._disk.listdir(self.folders.tmp)):
            path = f"{self.folders.tmp}/{name}"
            if self._disk.modified(path) < now - STALE:
                self.discard(path)

    def _sync_files(self, batch: Sequence[Placement], failures: list[OSError | None]) -> None:
        together = self._disk.has_syncfs and failures.count(None) >= FEW
        for at, placement in enumerate(batch):
            if placement.fd < 0:
                continue
            try:
                if failures[at] is None and not together:
                    self._disk.fsync(placement.fd)
            except OSError as error:
                failures[at] = error
            if not together:
                self._close(placement)
        if together:
            self._sync_all(batch, failures)

    def _sync_all(self, batch: Sequence[Placement], failures: list[OSError | None]) -> None:
        # The files stay open until then: a file descriptor that was open hears of a failed write.
        try:
            self._disk.syncfs(next(placement.fd for placement in batch if placement.fd >= 0))
        except OSError as error:
            failures[:] = [known or error for known in failures]
        for placement in batch:
            if placement.fd >= 0:
                self._close(placement)

    def _sync_folders(self, batch: Sequence[Placement], failures: list[OSError | None]) -> None:
        placed: dict[str, list[int]] = {}
        for at, placement in enumerate(batch):
            if failures[at] is None:
                placed.setdefault(self.folder(placement.queue_id), []).append(at)
        if len(placed) >= FEW and self._disk.has_syncfs:
            everywhere = [at for inside in placed.values() for at in inside]
            placed = {next(iter(placed)): everywhere}
            sync = sync_everything
        else:
            sync = sync_folder
        for folder, inside in placed.items():
            try:
                sync(self._disk, folder)
            except OSError as error:
                for at in inside:
                    failures[at] = error
                    self.discard(self.path(batch[at].name))
                with suppress(OSError):  # that they are gone is worth a try: a refused message must not come back
                    sync(self._disk, folder)

    def _close(self, placement: Placement) -> None:
        with suppress(OSError):  # a close cannot undo a sync
            self._disk.close(placement.fd)
        placement.fd = -1

    def _make(self, path: str) -> bool:
        try:
            self._disk.mkdir(path)
        except FileExistsError:
            return False
        return True

    def _read_format(self) -> int | None:
        # The number of folders, or None for a shard that is not made yet.
        path = f"{self.folders.path}/format"
        try:
            fd = self._disk.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            words = self._disk.pread(fd, 256, 0).split()
        finally:
            self._disk.close(fd)
        if len(words) != 4 or words[:3:2] != [b"relaymta-spool", b"folders"] or not words[3].isdigit():
            raise SpoolError(f"{path} does not say which version of the spool this is")
        if words[1] != b"%d" % VERSION:
            raise SpoolError(f"{path}: version {words[1].decode('ascii', 'replace')} is not one this program reads")
        return int(words[3])

    def _write_format(self) -> None:
        aside, fd = self.aside("format")
        try:
            write_all(self._disk, fd, b"relaymta-spool %d\nfolders %d\n" % (VERSION, self._count))
            self._disk.fsync(fd)
        finally:
            self._disk.close(fd)
        self._disk.rename(aside, f"{self.folders.path}/format")
