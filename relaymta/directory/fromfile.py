"""The file of accounts as a running daemon knows it: read anew when it changes, kept when the new one is broken.

Looked at once a second, so that a change needs no reload and a slip is told at once, not at the next log-in. Reading
and parsing are done on a thread: a large file holds nothing up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from relaymta.directory.credentials import DirectoryUnavailableError
from relaymta.directory.entry import Entry
from relaymta.directory.sources import Keeper
from relaymta.directory.threads import Pool
from relaymta.directory.usersfile import Stamp, Users, UsersFileError, read_users, stamp_of

LOOK_SECONDS = 1.0  # ours: a stat(2) costs microseconds


class FromFile(Keeper):
    """A keeper over the file at `path`, which is read once before this returns.

    `on_change(names)` is called when its accounts have become others: those that are gone or are not what they were;
    `on_read(path, accounts)` tells of that,
    `on_broken(path, reason)` of a file that cannot be used, once for each time it changes.
    """

    def __init__(
        self,
        path: str,
        reactor: Any,
        *,
        on_change: Callable[[Collection[str]], None],
        on_read: Callable[[str, int], None],
        on_broken: Callable[[str, str], None],
    ) -> None:
        self._path = path
        self._reactor = reactor
        self._on_change = on_change
        self._on_read = on_read
        self._on_broken = on_broken
        self._pool = Pool("users file", 1, 0, reactor.callFromThread)
        self._users: Users | None = None
        self._stamp = stamp_of(path)
        try:
            self._users, self._stamp = read_users(path)
        except UsersFileError as error:
            self._broken(str(error))
        self._learn()
        self._later = reactor.callLater(LOOK_SECONDS, self._look)

    def find(self, name: str) -> Deferred[Entry | None]:
        """What is kept of a prepared name."""
        return self._unread() or succeed(self._users and self._users.entries.get(name))

    def by_certificate(self, certificate: str) -> Deferred[tuple[Entry, ...]]:
        """Every account that names this certificate."""
        return self._unread() or succeed(self._users.by_certificate.get(certificate, ()) if self._users else ())

    def rest(self) -> None:
        """Look no more whether the file has changed."""
        if self._later.active():
            self._later.cancel()

    def close(self) -> None:
        """Look no more."""
        self.rest()
        self._pool.close()

    def _unread(self) -> Deferred[Any] | None:
        if self._users is not None:
            return None
        return fail(DirectoryUnavailableError(f"{self._path} could not be read yet"))

    def _look(self) -> None:
        self._later = self._reactor.callLater(LOOK_SECONDS, self._look)
        stamp = stamp_of(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        self._pool.run(_read_again, self._path, self._users).addCallbacks(self._read, self._failed)

    def _read(self, found: tuple[Users, Stamp, Collection[str]]) -> None:
        self._users, self._stamp, changed = found
        self._learn()
        self._on_read(self._path, len(self._users.entries))
        self._on_change(changed)

    def _failed(self, failure: Failure) -> None:
        if failure.check(DirectoryUnavailableError) is not None:
            self._stamp = None  # the thread is still at it: looked at again
        else:
            failure.trap(UsersFileError)
            self._broken(failure.getErrorMessage())

    def _broken(self, reason: str) -> None:
        self._on_broken(self._path, reason + ("; the accounts before it stay" if self._users else ""))

    def _learn(self) -> None:
        users = self._users or Users()
        self.dummy, self.iterations = users.dummy, users.iterations
        self.has_scram, self.has_certificates = users.has_scram, bool(users.by_certificate)


def _read_again(path: str, before: Users | None) -> tuple[Users, Stamp, Collection[str]]:
    """On the thread: what is there now, and which accounts of before are not what they were."""
    users, stamp = read_users(path)
    old = before.entries.items() if before is not None else ()
    return users, stamp, [name for name, entry in old if users.entries.get(name) != entry]
