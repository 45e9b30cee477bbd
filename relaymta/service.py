"""The daemon as twistd runs it: options, ports and privileges, signals, reload, graceful stop; only wiring.

Ports are bound while we are still privileged; everything else begins as the configured user. SIGHUP reads the
configuration anew, SIGTERM drains and stops, a second SIGTERM stops at once. Nothing here knows mail.
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService, Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python import usage
from twisted.python.failure import Failure

from relaymta import events
from relaymta.config import ConfigError
from relaymta.config.loader import Loaded
from relaymta.config.privileges import become
from relaymta.net.listen import ListenError, bind, bind_endpoint, close
from relaymta.parent import Parent
from relaymta.settings import VERSION, Settings, doubts, load_settings, refusals
from relaymta.smtp.settings import ListenerSettings
from relaymta.store.disk import RealDisk
from relaymta.store.interfaces import SpoolError
from relaymta.store.shards import Claim, claim
from relaymta.workers import KILL_SECONDS, WorkerFailed, raise_limits

if TYPE_CHECKING:
    from relaymta.house import House

CONFIGURATION = "/etc/relaymta/relaymta.toml"
STOP_SECONDS = KILL_SECONDS + 15.0  # above what the workers may take


class Options(usage.Options):
    """The command line behind `twistd relaymta`."""

    synopsis = "[-c FILE]"
    longdesc = "Runs the relay. See relaymta(1) for the commands, and relaymta.toml(5) for the configuration."
    optParameters = (
        ("config", "c", os.environ.get("RELAYMTA_CONFIG", CONFIGURATION), "The configuration file."),
    )


def makeService(options: Options) -> IService:
    """The daemon for these options; a configuration that cannot be used ends the process with all that is wrong."""
    try:
        loaded = load_settings(options["config"])
    except ConfigError as error:
        raise SystemExit(str(error)) from None
    settings = loaded.settings
    refused = [f"relaymta: {loaded.problem(key, text)}" for key, text in refusals(settings)]
    if refused:
        raise SystemExit("\n".join(refused))
    for key, text in doubts(settings):
        sys.stderr.write(f"relaymta: {loaded.problem(key, text)}\n")
    return Daemon(reactor, loaded)


class Daemon(Service):
    """The daemon's life: a House in this process, or the Parent of several."""

    def __init__(self, reactor: Any, loaded: Loaded[Settings]) -> None:
        self._reactor = reactor
        self._file = loaded.file
        self._settings = loaded.settings
        self._text = loaded.text.encode()
        self._sockets: dict[str, socket.socket] = {}
        self._inside: House | Parent | None = None
        self._claim: Claim | None = None
        self._stopping = ""

    # Beginning

    def privilegedStartService(self) -> None:
        """Bind the ports, while we may."""
        try:
            self._sockets = {one.name: _bind(one) for one in self._settings.listeners}
        except ListenError as error:
            raise SystemExit(f"relaymta: {error}") from None

    def startService(self) -> None:
        """Become the configured user, and begin."""
        super().startService()  # type: ignore[no-untyped-call]
        settings = self._settings
        raise_limits()
        try:
            _make_folders(settings)
            _become(settings.user)
            os.makedirs(settings.spool, mode=0o711, exist_ok=True)
            self._claim = claim(RealDisk(), settings.spool)  # one daemon, whatever its workers; ends with us
            self._inside = self._make_inside(settings)
            opening = self._inside.open(self._sockets)
        except (OSError, SpoolError) as error:
            raise SystemExit(f"relaymta: {_told(error)}") from None
        self._reactor.callWhenRunning(self._listen_for_signals)
        opening.addCallbacks(self._started, self._give_up)

    def _make_inside(self, settings: Settings) -> House | Parent:
        if settings.worker_count == 0:
            # A parent handles no mail, and a start must not wait until it has read how that is done.
            from relaymta.house import House
            from relaymta.net.turn import lighten

            lighten(self._reactor)
            return House(
                self._reactor, settings, control=settings.admin.socket, reload=self.reload, stop=self.stop
            )
        return Parent(self._reactor, settings, self._text, reload=self.reload, stop=self.stop)

    def _started(self, _: object) -> None:
        where = " ".join(f"{one.name}={_place(one)}" for one in self._settings.listeners)
        self._tell(events.DaemonStarted(VERSION, os.getpid(), where))

    def _tell(self, event: events.Event) -> None:
        if self._inside is not None:
            self._inside.ears.tell(event)

    def _give_up(self, failure: Failure) -> None:
        """What cannot start says why and ends with status 1."""
        known = failure.check(SpoolError, OSError, WorkerFailed) is not None
        sys.stderr.write(f"relaymta: {_told(failure.value) if known else failure.getTraceback()}\n")
        self._inside = None
        self._reactor.addSystemEventTrigger("after", "shutdown", _exit_with_1)
        self._reactor.callWhenRunning(self._reactor.stop)

    # Signals, reload, end

    def _listen_for_signals(self) -> None:
        def on(number: signal.Signals, call: Callable[[], object]) -> None:
            signal.signal(number, lambda *_: self._reactor.callFromThread(call))

        on(signal.SIGHUP, self._reload_by_signal)
        on(signal.SIGUSR1, self._reopen_logs)
        on(signal.SIGTERM, self._terminate)
        on(signal.SIGINT, self._terminate)

    def _terminate(self) -> None:
        if self._stopping:
            os._exit(1)  # asked twice: everything that was acknowledged is on disk
        self.stop("signal")

    def _reopen_logs(self) -> None:
        if self._inside is not None:
            self._inside.reopen_logs()

    def _reload_by_signal(self) -> None:
        reloading = maybeDeferred(self.reload)
        reloading.addErrback(
            lambda failure: self._tell(events.ReloadFailed(self._file, failure.getErrorMessage()))
        )

    def reload(self) -> Deferred[None]:
        """Read the configuration anew and put it in force. Raises, or fails with, what is wrong; then nothing changes.

        The number of workers may change, but not from or to none.
        """
        loaded = load_settings(self._file)
        settings, text = loaded.settings, loaded.text.encode()
        refused = [str(loaded.problem(key, said)) for key, said in refusals(settings)]
        if refused:
            raise OSError("\n".join(refused))
        inside = self._inside
        if inside is None or bool(settings.worker_count) is not bool(self._settings.worker_count):
            raise OSError("workers cannot change from or to 0 without a restart")
        sockets = self._rebind(settings)
        before, self._sockets = self._sockets, sockets

        def done(_: object) -> None:
            self._settings = settings
            _close(before, sockets)
            self._tell(events.DaemonReloaded(VERSION, self._file))

        def failed(failure: Failure) -> Failure:
            self._sockets = before
            _close(sockets, before)
            return failure

        begun: Deferred[None]
        if isinstance(inside, Parent):
            begun = inside.reload(settings, text, sockets)
        else:
            begun = maybeDeferred(inside.reload, settings, sockets)
        return begun.addCallbacks(done, failed)

    def _rebind(self, settings: Settings) -> dict[str, socket.socket]:
        """The sockets for `settings`: those whose place is the same as before, and new ones. Raises ListenError."""
        before = {one.name: _place(one) for one in self._settings.listeners}
        return {
            one.name: self._sockets[one.name] if before.get(one.name) == _place(one) else _bind(one)
            for one in settings.listeners
        }

    def stop(self, reason: str) -> None:
        """Drain and end the process."""
        if not self._stopping:
            self._stopping = reason
            self._reactor.stop()

    def stopService(self) -> Deferred[None] | None:
        """twistd waits for this: drained, delivered or on disk, closed."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopping = self._stopping or "twistd"
        if self._inside is None:
            return None
        self._reactor.callLater(STOP_SECONDS, os._exit, 1)  # all that was acknowledged is on disk
        return self._inside.stop(self._stopping).addCallback(lambda _: _close(self._sockets, {}))


def _close(these: Mapping[str, socket.socket], but: Mapping[str, socket.socket]) -> None:
    for name, sock in these.items():
        if but.get(name) is not sock:
            close(sock)


def _bind(listener: ListenerSettings) -> socket.socket:
    if listener.address is None:
        return bind_endpoint(reactor, listener.endpoint)
    return bind(listener.address, listener.group)


def _place(listener: ListenerSettings) -> str:
    return str(listener.address or listener.endpoint)


def _make_folders(settings: Settings) -> None:
    """As root: make what is missing of the daemon's directories and give it to the user whom it becomes."""
    if os.getuid() != 0 or not settings.user:
        return
    entry = pwd.getpwnam(settings.user)
    umask = os.umask(0o022)  # those above them are everybody's to pass through, whatever twistd's umask is
    try:
        for _, folder in settings.folders:
            if not os.path.exists(folder):
                os.makedirs(folder)
                os.chown(folder, entry.pw_uid, entry.pw_gid)
                os.chmod(folder, 0o711 if folder == settings.spool else 0o755)
    finally:
        os.umask(umask)


def _told(error: BaseException | None) -> str:
    """An error as people say it: the file, and what is the matter with it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def _become(user: str) -> None:
    """Give up root for `user`, who exists, and whose groups come along. Raises OSError."""
    if os.getuid() == 0 and user:
        become(user)


def _exit_with_1() -> None:
    sys.stderr.flush()
    os._exit(1)
