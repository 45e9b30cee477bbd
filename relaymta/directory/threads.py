"""Threads for what would hold up the reactor: few, with a queue that ends, and who comes beyond it is told at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from relaymta.directory.credentials import DirectoryUnavailableError

T = TypeVar("T")


class Pool:
    """`threads` that work, and at most `waiting` more things that wait; `what` they do, for the log.

    `call_from_thread` is the reactor's.
    """

    def __init__(self, what: str, threads: int, waiting: int, call_from_thread: Callable[..., object]) -> None:
        self._what = what
        self._most = threads + waiting
        self._under_way = 0
        self._call_from_thread = call_from_thread
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=what)
        self._closed = False

    def run(self, work: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Do `work` on a thread; fires with what it returns, fails with what it raises.

        Fails with DirectoryUnavailableError when too much waits. Cancelled, it is forgotten, and its place is free
        when it has ended.
        """
        if self._closed or self._under_way >= self._most:
            return fail(DirectoryUnavailableError(f"{self._what}: {'closed' if self._closed else 'too many at once'}"))
        self._under_way += 1
        done: Deferred[T] = Deferred()

        def ended(future: Future[T]) -> None:
            self._under_way -= 1
            if done.called:
                return  # cancelled
            error = future.exception()
            if error is None:
                done.callback(future.result())
            else:
                done.errback(Failure(error))

        self._threads.submit(work, *arguments).add_done_callback(
            lambda future: self._call_from_thread(ended, future)
        )
        return done

    def close(self) -> None:
        """Take nothing more; what was asked for is still done, and answered. To be called once."""
        self._closed = True
        self._threads.shutdown(wait=False)
