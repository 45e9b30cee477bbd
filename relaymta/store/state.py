"""State that all workers share and a restart keeps, beside the mail: one SQLite database a purpose.

Quotas, failed log-ins and reports are counted here: what is rare beside messages, and wanted by the host as a whole.
Work runs on one thread of its own, so that a slow disk or another worker's lock never holds up the reactor. Losing
the file loses counts and never mail, so that nothing is synced for its sake.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")
LOCKED_WITHIN = 5.0  # seconds that another worker's transaction is waited for; ours


class State:
    """The database at `path`, made with `schema` (SQL with IF NOT EXISTS) when its first work is done.

    `call_from_thread` is the reactor's.
    """

    def __init__(self, path: str, schema: str, call_from_thread: Callable[..., object]) -> None:
        self._path = path
        self._schema = schema
        self._call_from_thread = call_from_thread
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"state {os.path.basename(path)}")

    def run(self, work: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """Do `work` in one transaction on the thread; fires with what it returns, fails with what it raises.

        What it raises undoes it; sqlite3.Error is what the database says.
        """
        done: Deferred[T] = Deferred()

        def tell(future: Future[T]) -> None:
            error = future.exception()
            if error is None:
                self._call_from_thread(done.callback, future.result())
            else:
                self._call_from_thread(done.errback, Failure(error))

        self._thread.submit(self._work, work).add_done_callback(tell)
        return done

    def close(self) -> None:
        """Do what was asked for, and let the database go; to be called once."""
        self._thread.submit(self._close)
        self._thread.shutdown()

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
        return result

    def _open(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=LOCKED_WITHIN, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(self._schema)
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
