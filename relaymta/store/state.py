"""State that all workers share and a restart keeps, beside the mail: one SQLite database a purpose.

Quotas, failed log-ins and reports are counted here: what is rare beside messages, and wanted by the host as a whole.
Work runs on one thread of its own, so that a slow disk or another worker's lock never holds up the reactor. Losing
the file loses counts and never mail, so that nothing is synced for its sake.

| trouble                                | what follows                                                               |
|----------------------------------------|----------------------------------------------------------------------------|
| another holds the lock                 | work is tried for LOCKED_WITHIN since it was asked for, then it fails      |
| no room, read-only, an error of disk   | work fails; the database is opened anew for the next                       |
| the file is gone, or is another        | the file that is there, or a new one, from the next work on                |
| the file is damaged, or no database    | it is set aside as NAME.damaged and made anew; work is done there          |

The first failure after a success is told, and each file that is set aside.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event
from typing import TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from relaymta.store.disk import explain

T = TypeVar("T")
LOCKED_WITHIN = 5.0  # seconds that another worker's transaction is waited for; ours
AGAIN = 0.0005, 0.02  # seconds between two tries at a lock, at first and at most; ours, a transaction's time
CLOSES_WITHIN = 1.0  # seconds that closing may wait for a lock, for all that was asked for together; ours
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BESIDE = ("-wal", "-shm")  # the files that SQLite keeps beside a database; before it, for they count for it alone
_NOWHERE = (0, 0)
_COPIES = 9  # damaged ones kept, the last takes the place of the one before


class State:
    """The database at `path`, made with `schema` (SQL with IF NOT EXISTS) when its first work is done.

    `call_from_thread` is the reactor's. `trouble` hears why it cannot be used, in one sentence.
    """

    def __init__(
        self,
        path: str,
        schema: str,
        call_from_thread: Callable[..., object],
        trouble: Callable[[str], None] | None = None,
    ) -> None:
        self._path = path
        self._schema = schema
        self._call_from_thread = call_from_thread
        self._trouble = trouble
        self._connection: sqlite3.Connection | None = None
        self._inode = _NOWHERE
        self._left: list[sqlite3.Connection] = []  # to files that were taken away under us
        self._failing = False
        self._closed = False
        self._closing = Event()
        self._close_by = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"state {os.path.basename(path)}")

    def run(self, work: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """Do `work` in one transaction on the thread; fires with what it returns, fails with what it raises.

        What it raises undoes it; sqlite3.Error is what the database says, or that it cannot be had. Where the database
        turns out to be damaged, `work` is called once more with another one.
        """
        if self._closed:
            return fail(sqlite3.OperationalError("the database is closed"))
        done: Deferred[T] = Deferred()

        def tell(future: Future[T]) -> None:
            error = future.exception()
            if error is None:
                self._call_from_thread(done.callback, future.result())
            else:
                self._call_from_thread(done.errback, Failure(error))

        self._thread.submit(self._work, work, time.monotonic() + LOCKED_WITHIN).add_done_callback(tell)
        return done

    def close(self) -> None:
        """Do what was asked for, and let the database go; it does not wait long for a lock."""
        if self._closed:
            return
        self._closed = True
        self._close_by = time.monotonic() + CLOSES_WITHIN
        self._closing.set()
        self._thread.submit(self._let_go)
        self._thread.shutdown()

    # On the thread

    def _work(self, work: Callable[[sqlite3.Connection], T], until: float) -> T:
        try:
            try:
                result = self._transact(work, until)
            except sqlite3.DatabaseError as error:
                if _code(error) not in _DAMAGED:
                    raise
                self._set_aside(until, str(error))
                result = self._transact(work, until)
        except sqlite3.Error as error:
            self._failed(error)
            raise
        self._failing = False
        return result

    def _transact(self, work: Callable[[sqlite3.Connection], T], until: float) -> T:
        connection = self._connected(until)
        self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"), until)
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # what it says, it has said already
                connection.rollback()
            raise
        return result

    def _patiently(self, call: Callable[[], object], until: float) -> None:
        # SQLite's own waiting cannot be ended, and would begin anew for each of those that wait.
        pause, longest = AGAIN
        while True:
            try:
                call()
            except (sqlite3.OperationalError, BlockingIOError) as error:
                last = min(until, self._close_by) if self._closing.is_set() else until
                left = last - time.monotonic()
                if not _is_locked(error) or left <= 0:
                    raise
                time.sleep(min(pause, left))
                pause = min(2 * pause, longest)
            else:
                return

    def _connected(self, until: float) -> sqlite3.Connection:
        connection = self._connection
        if connection is not None and _inode(self._path) == self._inode:
            return connection
        self._let_go()
        with self._alone(until):
            self._connection, self._inode = self._open(until), _inode(self._path)
        return self._connection

    def _open(self, until: float) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            self._patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), until)
            connection.execute("PRAGMA synchronous = NORMAL")
            self._patiently(lambda: connection.executescript(self._schema), until)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _alone(self, until: float) -> Iterator[None]:
        """While a file is opened or set aside, no other worker does either: a lock on its folder (flock(2))."""
        folder = os.path.dirname(self._path)
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._patiently(lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB), until)
                yield
            finally:
                os.close(fd)
        except OSError as error:
            raise sqlite3.OperationalError(explain(error)) from error

    def _failed(self, error: sqlite3.Error) -> None:
        # A lock passes; whatever else it is, another connection may be luckier.
        if not self._failing:
            self._failing = True
            self._tell(f"{self._path} cannot be used: {error}")
        if not _is_locked(error):
            self._let_go()

    def _set_aside(self, until: float, why: str) -> None:
        """Out of the way with a damaged file, unless another worker has done so."""
        damaged = _inode(self._path) if self._connection is None else self._inode
        self._let_go()
        with self._alone(until):
            if _inode(self._path) != damaged:
                return
            kept = _free_name(self._path)
            for beside in (*_BESIDE, ""):
                with suppress(FileNotFoundError):
                    os.rename(self._path + beside, kept + beside)
        self._tell(f"{self._path} is damaged ({why}): kept as {kept}, and begun anew")

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if _inode(self._path) != self._inode:
            self._left.append(connection)  # the end of it would remove what lies beside the new file, by its name
            return
        with suppress(sqlite3.Error):  # nothing of it is used any more
            connection.close()

    def _tell(self, reason: str) -> None:
        if self._trouble is not None:
            self._call_from_thread(self._trouble, reason)


def _code(error: sqlite3.Error) -> int:
    # The primary result code (sqlite3.h); what the module itself says has none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_locked(error: Exception) -> bool:
    return isinstance(error, BlockingIOError) or (isinstance(error, sqlite3.Error) and _code(error) in _LOCKED)


def _inode(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return _NOWHERE
    return found.st_dev, found.st_ino


def _free_name(path: str) -> str:
    names = [f"{path}.damaged", *(f"{path}.damaged.{number}" for number in range(2, _COPIES + 1))]
    return next((name for name in names if not os.path.exists(name)), names[-1])
