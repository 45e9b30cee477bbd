"""The waiting messages of a shard, as the reactor's thread sees them: an index over the folders, and errands for the
clerk.

While an errand on a file is under way the file is Tended: its name may change on the clerk's side, and lines may not
be written yet, so that reading it in between still gives the whole story.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from threading import Lock

from attrs import define, field
from twisted.internet.defer import Deferred

from relaymta.store import names, queuefile
from relaymta.store.clerk import Clerk
from relaymta.store.content import FileContent
from relaymta.store.disk import Disk, explain
from relaymta.store.index import Index
from relaymta.store.interfaces import Schedule, SpoolCorrupt, SpoolError, Stored, Ticket
from relaymta.store.shelf import Shelf

UNREADABLE = frozenset({errno.EIO, errno.EISDIR})  # errors that mean the file, and not the moment
_AT_ONCE = 16 * 1024  # octets read to get first line and head in one call


@define(slots=True, eq=False)
class Tended:
    """A file with errands under way. `name` and `unwritten` are touched under `lock` alone.

    `known`: whether the owner knows of the message, so that a listing passes it over. `gone`: it was finished.
    """

    queue_id: str
    name: str
    known: bool
    errands: int = 0
    gone: bool = False
    unwritten: deque[bytes] = field(factory=deque)
    lock: Lock = field(factory=Lock)


class Files:
    """Queue files of one shard. `corrupt(path, reason)` and `failed(reason)` are told what nobody waits for."""

    def __init__(
        self,
        disk: Disk,
        shelf: Shelf,
        clerk: Clerk,
        corrupt: Callable[[str, str], None],
        failed: Callable[[str], None],
    ) -> None:
        self._disk = disk
        self._shelf = shelf
        self._clerk = clerk
        self._corrupt = corrupt
        self._failed = failed
        self._index = Index()
        self._tended: dict[str, Tended] = {}

    def __len__(self) -> int:
        return len(self._index)

    def tell_lost(self, path: str, why: str) -> None:
        """Tell of what cannot be read and stays where it is for now."""
        self._corrupt(path, why)

    def arrived(self, queue_id: str, name: str) -> None:
        """A file has got its place, by order of this owner."""
        self._index.set(queue_id, name)

    def waiting(self, elsewhere: Callable[[str], bool]) -> Iterator[Ticket]:
        """Every file that is not known yet; see Spool.waiting().

        `elsewhere` says of a queue id whether the message is still told of by others: its file may be there a moment
        before the clerk has said so.
        """
        for folder in self._shelf.inside():
            try:
                for name in self._disk.listdir(folder):
                    ticket = self._listed(folder, name, elsewhere)
                    if ticket is not None:
                        yield ticket
            except OSError as error:  # the other folders can still be read
                self._failed(f"could not list {folder}: {explain(error)}")

    def _listed(self, folder: str, name: str, elsewhere: Callable[[str], bool]) -> Ticket | None:
        ticket = names.decode(name)
        if ticket is None:
            self.set_aside(f"{folder}/{name}", "its name is not that of a queue file")
            return None
        queue_id = ticket.queue_id
        if elsewhere(queue_id):
            return None
        tended = self._tended.get(queue_id)
        if tended is not None:
            known, tended.known = tended.known or tended.gone, True
            return None if known else ticket
        known_as = self._index.get(queue_id)
        if known_as is not None:
            self._twin(folder, name, known_as)
            return None
        if folder != self._shelf.folder(queue_id):  # a hand has put it there
            self._disk.rename(f"{folder}/{name}", self._shelf.path(name))
        self._index.set(queue_id, name)
        return ticket

    def _twin(self, folder: str, name: str, known_as: str) -> None:
        # A message that is known under another name: this one is no more (a listing may be late), or it is a second.
        if name == known_as:
            return
        path = f"{folder}/{name}"
        try:
            self._disk.close(self._disk.open(path, os.O_RDONLY))
        except FileNotFoundError:
            return
        self.set_aside(path, f"the message has another file, {known_as}")

    def note(self, queue_id: str, line: bytes, waits: Deferred[None] | None) -> None:
        """Append a line; synced, and `waits` told, if somebody waits for it. Raises KeyError."""
        tended = self._tend(queue_id)
        tended.unwritten.append(line)
        call = partial(self._append, tended, waits is not None)
        self._errand(tended, call, partial(self._noted, tended, waits))

    def rename(self, queue_id: str, schedule: Schedule) -> Deferred[None]:
        """Give a file another schedule. Raises KeyError; the Deferred fails with SpoolError."""
        tended = self._tend(queue_id)
        tended.known = True
        fired: Deferred[None] = Deferred()
        call = partial(self._rename, tended, names.encode(queue_id, schedule))
        self._errand(tended, call, partial(self._renamed, tended, fired))
        return fired

    def remove(self, queue_id: str) -> None:
        """Remove a file. Raises KeyError."""
        tended = self._tend(queue_id)
        tended.gone = True
        self._index.drop(queue_id)
        self._errand(tended, partial(self._remove, tended), partial(self._removed, tended))

    def load(self, queue_id: str) -> Stored:
        """Read a file; see Spool.load()."""
        tended = self._tend(queue_id)
        with tended.lock:
            name = tended.name
            path = self._shelf.path(name)
            try:
                stored = self._read(queue_id, name, path)
            except FileNotFoundError:
                self._index.drop(queue_id)
                raise KeyError(queue_id) from None
            except ValueError as error:
                why = str(error)
            except OSError as error:
                if error.errno not in UNREADABLE:
                    raise SpoolError(f"{path}: {explain(error)}") from error
                why = explain(error)
            else:
                return stored
        self._index.drop(queue_id)
        self.set_aside(path, why)
        raise SpoolCorrupt(f"{path}: {why}")

    def open(self, queue_id: str) -> int:
        """A file descriptor to read a file's content from. Raises OSError."""
        try:
            tended = self._tend(queue_id)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "the message is gone", queue_id) from None
        with tended.lock:
            return self._disk.open(self._shelf.path(tended.name), os.O_RDONLY)

    @property
    def busy(self) -> bool:
        """Whether errands are under way."""
        return any(tended.errands for tended in self._tended.values())

    def flush(self) -> None:
        """Try once more to write what could not be written."""
        for tended in list(self._tended.values()):
            if tended.unwritten and not tended.errands:
                call = partial(self._append, tended, True)
                self._errand(tended, call, partial(self._noted, tended, None))

    # Errands

    def _tend(self, queue_id: str) -> Tended:
        tended = self._tended.get(queue_id)
        if tended is not None:
            if tended.gone:
                raise KeyError(queue_id)
            return tended
        name = self._index.get(queue_id)
        if name is not None:
            return Tended(queue_id, name, known=True)
        name = self._shelf.find(queue_id)
        if name is None:
            raise KeyError(queue_id)
        return Tended(queue_id, name, known=False)

    def _errand(self, tended: Tended, call: Callable[[], None], done: Callable[[OSError | None], None]) -> None:
        self._tended[tended.queue_id] = tended
        tended.errands += 1
        self._clerk.call(call, done)

    def _over(self, tended: Tended) -> None:
        tended.errands -= 1
        if tended.errands:
            return
        if tended.gone:
            del self._tended[tended.queue_id]
            return
        if tended.known:
            self._index.set(tended.queue_id, tended.name)
        if not tended.unwritten:  # else they stay in memory and go with the next line
            del self._tended[tended.queue_id]

    def _append(self, tended: Tended, sync: bool) -> None:
        # On the clerk's hand. One line a write, so that a line is either in the file or in memory.
        with tended.lock:
            fd = self._disk.open(self._shelf.path(tended.name), os.O_WRONLY | os.O_APPEND)
        try:
            with tended.lock:
                while tended.unwritten:
                    self._shelf.append(fd, tended.unwritten[0])
                    tended.unwritten.popleft()
            if sync:
                self._disk.fdatasync(fd)
        finally:
            self._disk.close(fd)

    def _noted(self, tended: Tended, waits: Deferred[None] | None, error: OSError | None) -> None:
        self._over(tended)
        if error is None:
            if waits is not None:
                waits.callback(None)
            return
        why = f"could not note the progress of {tended.queue_id}: {explain(error)}"
        if waits is not None:
            waits.errback(SpoolError(why))
        elif not tended.gone:
            self._failed(why)

    def _rename(self, tended: Tended, name: str) -> None:
        with tended.lock:
            if name != tended.name:
                self._disk.rename(self._shelf.path(tended.name), self._shelf.path(name))
                tended.name = name

    def _renamed(self, tended: Tended, fired: Deferred[None], error: OSError | None) -> None:
        self._over(tended)
        if error is None:
            fired.callback(None)
        else:
            fired.errback(SpoolError(f"could not reschedule {tended.queue_id}: {explain(error)}"))

    def _remove(self, tended: Tended) -> None:
        try:
            self._disk.unlink(self._shelf.path(tended.name))
        except FileNotFoundError:
            return

    def _removed(self, tended: Tended, error: OSError | None) -> None:
        self._over(tended)
        if error is not None:
            self._failed(f"could not remove {tended.queue_id}: {explain(error)}")

    # Reading

    def _read(self, queue_id: str, name: str, path: str) -> Stored:
        ticket = names.decode(name)
        assert ticket is not None
        fd = self._disk.open(path, os.O_RDONLY)
        try:
            layout, head, lines = read_file(self._disk, fd)
        finally:
            self._disk.close(fd)
        tended = self._tended.get(queue_id)
        if tended is not None:
            lines += tuple(tended.unwritten)
        content = FileContent(
            self._disk, partial(self.open, queue_id), layout.content_at, layout.content, layout.eightbit
        )
        return Stored(queue_id, head, content, lines, ticket.schedule)

    def set_aside(self, path: str, why: str) -> None:
        """Move what cannot be read to corrupt/, and tell."""
        try:
            path = self._shelf.set_aside(path)
        except OSError as error:
            why += f" (and it cannot be moved to corrupt/: {explain(error)})"
        self._corrupt(path, why)


def read_file(disk: Disk, fd: int) -> tuple[queuefile.Layout, bytes, tuple[bytes, ...]]:
    """First line, head and lines of an open queue file. Raises OSError, or ValueError for what is not whole."""
    size = disk.size(fd)
    start = disk.pread(fd, _AT_ONCE, 0)
    layout = queuefile.read_first(start, size)
    if layout.content_at > len(start):
        start = disk.pread(fd, layout.content_at, 0)
    head = start[queuefile.FIRST : layout.content_at]
    queuefile.check_head(layout, head)
    rest = size - layout.lines_at
    return layout, head, queuefile.read_lines(disk.pread(fd, rest, layout.lines_at)) if rest else ()
