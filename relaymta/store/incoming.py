"""A large message on its way in: it streams into a file in tmp/, and memory holds no more than GATHER of it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress

from attrs import define, field
from twisted.internet.defer import Deferred, fail

from relaymta.store import queuefile
from relaymta.store.clerk import Clerk
from relaymta.store.content import FileContent
from relaymta.store.disk import Disk, explain, sync_folder, write_all
from relaymta.store.interfaces import Content, SpoolError
from relaymta.store.shelf import Shelf

GATHER = 64 * 1024  # octets gathered for one write; ours: what a socket gives at once, or more
PIECES_MAX = 1024  # and in so many objects: a client may send an octet or two at a time; ours


@define(slots=True, eq=False)
class Inflow:
    """store.interfaces.Incoming, and the Placement that its commit asks for.

    `opening` opens the file once it is in place; `ended(inflow, placed)` hears of its end, whichever way; a `failure`
    given at the start is why no mail is taken.
    """

    queue_id: str
    name: str
    _head: bytes
    _disk: Disk
    _shelf: Shelf
    _clerk: Clerk
    _opening: Callable[[], int]
    _ended: Callable[[Inflow, bool], None]
    _failure: str = ""
    aside: str = ""
    fd: int = -1
    size: int = 0
    _eightbit: bool = False
    _pieces: list[bytes] = field(factory=list)
    _gathered: int = 0
    _fired: Deferred[Content] | None = None
    _over: bool = False

    def __attrs_post_init__(self) -> None:
        self._pieces += (queuefile.BLANK, self._head)
        if self._failure:
            return
        try:
            self.aside, self.fd = self._shelf.aside(self.queue_id)
        except OSError as error:
            self._failure = explain(error)

    def write(self, octets: bytes) -> None:
        """Add a piece of content; after a failure, or its end, only counted."""
        self.size += len(octets)
        if self._failure or self._over:
            return
        self._eightbit = self._eightbit or not octets.isascii()
        self._pieces.append(octets)
        self._gathered += len(octets)
        if self._gathered >= GATHER or len(self._pieces) >= PIECES_MAX:
            try:
                self._flush(self._disk)
            except OSError as error:
                self._failure = explain(error)

    def commit(self) -> Deferred[Content]:
        """See Incoming.commit()."""
        if self._over:
            return fail(SpoolError("the message was given up"))
        if self._failure:
            self.abort()
            return fail(SpoolError(self._failure))
        self._over = True
        self._fired = Deferred()
        self._clerk.place(self, self._placed)
        return self._fired

    @property
    def committing(self) -> bool:
        """Whether somebody waits for a commit."""
        return self._fired is not None

    def abort(self) -> None:
        """See Incoming.abort()."""
        if self._fired is not None:
            self._failure = "the message was given up"
        elif not self._over:
            self._over = True
            self._pieces.clear()
            if self.aside:
                self._clerk.call(self._remove, lambda error: None)
            self._ended(self, False)

    # store.shelf.Placement, on the clerk's hand

    def prepare(self, disk: Disk) -> None:
        """Write what is gathered, then the first line over the blank one."""
        self._flush(disk)
        first = queuefile.first_line(self._head, self.size, self._eightbit)
        if disk.pwritev(self.fd, [first], 0) != len(first):
            raise OSError(errno.EIO, "short write")

    def _flush(self, disk: Disk) -> None:
        octets = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._gathered = 0
        write_all(disk, self.fd, octets)

    def _remove(self) -> None:
        with suppress(OSError):  # nobody was promised what is in it
            self._disk.close(self.fd)
        self._shelf.discard(self.aside)

    def _placed(self, error: OSError | None) -> None:
        if error is None and self._failure:
            self._clerk.call(self._undo, self._refused)
        elif error is not None:
            self._refused(error)
        else:
            fired, self._fired = self._fired, None
            self._ended(self, True)
            at = queuefile.FIRST + len(self._head)
            if fired is not None:
                fired.callback(FileContent(self._disk, self._opening, at, self.size, self._eightbit))

    def _undo(self) -> None:
        # Given up after it was put in place: gone for good before anybody is told so.
        self._disk.unlink(self._shelf.path(self.name))
        sync_folder(self._disk, self._shelf.folder(self.queue_id))

    def _refused(self, error: OSError | None) -> None:
        fired, self._fired = self._fired, None
        self._ended(self, False)
        if fired is not None:
            fired.errback(SpoolError(self._failure or (explain(error) if error is not None else "")))
