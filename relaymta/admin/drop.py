"""The watcher of the drop directory: what sendmail(1) left becomes mail of ours.

A file is read, handed to `accept`, and removed only when that says the message is durable; a crash in between
takes it twice, never loses it. What is no message goes to `bad/` and is told. The form of a file is admin.dropfile's.
"""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure

from relaymta.admin.dropfile import BAD, DIRECTORY_MODE, POKE, SUFFIX, TEMPORARY, DropError, read
from relaymta.events import BugCaught, Event, SpoolCorrupt
from relaymta.mail.envelope import Envelope
from relaymta.store.interfaces import SpoolError

SCAN_SECONDS = 1.0  # the safety net under the poke
RETRY_SECONDS = 30.0  # after a temporary refusal (spool full, disk failed)
RUNNING_MAX = 16  # messages handed over and not yet durable; ours, enough to share a sync
LISTING_SHARE = 0.1  # of the time; ours: everybody may fill the directory, and poke, and the mail of others goes on
REST_MAX = 30.0  # seconds without a listing; ours
LISTED_MAX = 1000  # names taken from one listing; the next one goes on
NOT_OURS = frozenset({errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.EWOULDBLOCK})  # see _take
SWEEP_AGE = 86_400.0  # seconds after which a temporary file was left by a dead sendmail

Accept = Callable[[Envelope, bytes], "Deferred[None]"]


class DropRefusedError(Exception):
    """Raised (or errbacked) by `accept`: this message will never be taken; the text says why."""


class _Poke(DatagramProtocol):
    """Hears "look now" from sendmail; what the datagram holds does not matter."""

    noisy = False

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self._look()


class DropWatcher:
    """Watches one directory. `seconds` gives POSIX time; `size_max` is the largest content taken, in octets."""

    def __init__(
        self,
        reactor: Any,  # IReactorTime and IReactorUNIXDatagram
        directory: str,
        accept: Accept,
        tell: Callable[[Event], None],
        seconds: Callable[[], float],
        size_max: int,
    ) -> None:
        self._reactor = reactor
        self._directory = directory
        self._accept = accept
        self._tell = tell
        self._seconds = seconds
        self._size_max = size_max
        self._waiting: list[str] = []
        self._running: set[str] = set()
        self._later: dict[str, float] = {}  # name to the POSIX time before which it is left alone
        self._rest_until = 0.0  # POSIX time before which it is not listed again
        self._listed_at = -1  # the directory's mtime when it was last listed to its end
        self._timer: IDelayedCall | None = None
        self._port: IListeningPort | None = None
        self._stopping: Deferred[None] | None = None
        self._pumping = False

    def start(self) -> None:
        """Make the directory if it is missing, listen for pokes, and look. Raises OSError."""
        prepare(self._directory)
        self._listen()
        self._sweep()
        self._look()

    def _listen(self) -> None:
        """For pokes; we look by ourselves too, so that whoever puts something else there stops nothing."""
        poke = os.path.join(self._directory, POKE)
        try:
            with suppress(FileNotFoundError):
                os.unlink(poke)  # left by a former daemon: the spool's lock says that there is no other
            self._port = self._reactor.listenUNIXDatagram(poke, _Poke(self._look_soon), mode=0o622)
        except (OSError, CannotListenError) as error:
            self._tell(SpoolCorrupt(file=poke, reason=f"is in the way, so that sendmail is not heard: {error}"))

    def stop(self) -> Deferred[None]:
        """Take nothing more; fires when what was handed over is durable, or stays a file."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        if self._port is not None:
            self._port.stopListening()
            self._port = None
        self._stopping = Deferred()
        self._finish_stopping()
        return self._stopping

    def _finish_stopping(self) -> None:
        if self._stopping is not None and not self._running and not self._stopping.called:
            self._stopping.callback(None)

    def _look_soon(self) -> None:
        """A poke: look in this turn of the loop's next one, however many pokes come."""
        if self._timer is not None and self._stopping is None:
            self._timer.reset(min(SCAN_SECONDS, self._rest()))

    def _look(self) -> None:
        now = self._seconds()
        self._timer = self._reactor.callLater(SCAN_SECONDS, self._look)
        if not self._waiting and not self._rest():
            self._list()
            spent = self._seconds() - now
            self._rest_until = now + min(spent / LISTING_SHARE, REST_MAX)
        self._pump()

    def _rest(self) -> float:
        """For how many seconds it is not listed again; a clock that was set back changes nothing."""
        left = self._rest_until - self._seconds()
        return left if 0.0 < left <= REST_MAX else 0.0

    def _list(self) -> None:
        now = self._seconds()
        due = [name for name, at in self._later.items() if at <= now]
        for name in due:
            del self._later[name]
        try:
            changed_at = os.stat(self._directory).st_mtime_ns
            if changed_at == self._listed_at and not due:
                return
            names, whole = self._names()
        except OSError as error:
            self._tell(SpoolCorrupt(file=self._directory, reason=f"cannot be listed: {error.strerror}"))
            return
        self._waiting = sorted(names, reverse=True)  # names begin with their time: the oldest is taken first
        # what is written within the clock's grain of the listing may not change the mtime again: look twice
        self._listed_at = changed_at if whole and now - changed_at / 1e9 > SCAN_SECONDS else -1

    def _names(self) -> tuple[list[str], bool]:
        names: list[str] = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(SUFFIX) and name not in self._running and name not in self._later:
                    names.append(name)
                    if len(names) == LISTED_MAX:
                        return names, False
        return names, True

    def _pump(self) -> None:
        if self._pumping:  # a message was taken at once: the loop below goes on
            return
        self._pumping = True
        try:
            while self._waiting and len(self._running) < RUNNING_MAX and self._stopping is None:
                self._take(self._waiting.pop())
        finally:
            self._pumping = False

    def _take(self, name: str) -> None:
        path = os.path.join(self._directory, name)
        try:
            submission, octets, uid = read(path, self._size_max)
        except FileNotFoundError:
            return
        except DropError as error:
            self._spoil(name, str(error))
            return
        except OSError as error:
            if error.errno in NOT_OURS:  # a link, no right to read, a socket, a lease: not what sendmail writes
                self._spoil(name, f"cannot be read: {error.strerror}")
            else:  # no descriptor left, a failing disk: that is ours, and passes
                self._later[name] = self._seconds() + RETRY_SECONDS
                self._tell(SpoolCorrupt(file=path, reason=f"cannot be read now: {error.strerror}"))
            return
        self._running.add(name)
        envelope = submission.envelope(self._seconds(), _user(uid))
        try:
            accepted = self._accept(envelope, octets)
        except Exception:  # noqa: BLE001 - as if it had been told later; _failed says what it was
            accepted = _failed_with(Failure())
        accepted.addCallbacks(self._taken, self._failed, callbackArgs=(name,), errbackArgs=(name,))
        accepted.addBoth(self._over, name)

    def _taken(self, _: object, name: str) -> None:
        """Durable in the queue: the file has done its duty."""
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self._directory, name))

    def _failed(self, failure: Failure, name: str) -> None:
        error = failure.value
        if isinstance(error, DropRefusedError):
            self._spoil(name, str(error))
            return
        self._later[name] = self._seconds() + RETRY_SECONDS
        if not isinstance(error, SpoolError):  # the spool tells its own failures
            self._tell(BugCaught(where="admin.drop", trace=failure.getTraceback()))

    def _over(self, result: object, name: str) -> None:
        if isinstance(result, Failure):  # the unlink failed: the next look would take it again at once
            self._later[name] = self._seconds() + RETRY_SECONDS
            self._tell(SpoolCorrupt(file=os.path.join(self._directory, name), reason=result.getErrorMessage()))
        self._running.discard(name)
        self._finish_stopping()
        if self._stopping is None:
            self._pump()

    def _spoil(self, name: str, reason: str) -> None:
        """Put aside what is no message; nothing is dropped."""
        target = os.path.join(self._directory, BAD, name)
        try:
            os.rename(os.path.join(self._directory, name), target)
        except OSError as error:
            self._later[name] = self._seconds() + SWEEP_AGE
            target, reason = os.path.join(self._directory, name), f"{reason} (not moved: {error.strerror})"
        self._tell(SpoolCorrupt(file=target, reason=reason))

    def _sweep(self) -> None:
        """Remove what a sendmail that died has left half written; its caller was never told that it is sent."""
        before = self._seconds() - SWEEP_AGE
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.startswith(TEMPORARY):
                    with suppress(OSError):
                        if entry.stat(follow_symlinks=False).st_mtime < before:
                            os.unlink(entry.path)


def prepare(directory: str) -> None:
    """Make the directory and its `bad/`. Raises OSError.

    One that others than its owner may write into keeps its mode: the operator may have given it to a group. One that
    only its owner may write into (as mkdir makes it) becomes everybody's to leave mail in.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    os.makedirs(os.path.join(directory, BAD), mode=0o700, exist_ok=True)  # before anybody else may make it
    if not os.stat(directory).st_mode & 0o022:
        os.chmod(directory, DIRECTORY_MODE)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _failed_with(failure: Failure) -> Deferred[None]:
    failed: Deferred[None] = Deferred()
    failed.errback(failure)
    return failed
