"""The daemon as twistd runs it: options, ports and privileges, signals, reload, graceful stop; only wiring.

Ports are bound while we are still privileged; everything else begins as the configured user. SIGHUP reads the
configuration anew, SIGTERM drains and stops, a second SIGTERM stops at once. Nothing here knows mail.
"""

from __future__ import annotations

import os
import pwd
import resource
import signal
import socket
import sys
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python import usage
from twisted.python.failure import Failure

from relaymta import events
from relaymta.admin.control import ControlSocket
from relaymta.admin.maillog import Format, MailLog
from relaymta.assembly import VERSION, Relay
from relaymta.config import ConfigError
from relaymta.net.listen import ListenError, bind
from relaymta.settings import Settings, load_settings
from relaymta.smtp.settings import ListenerSettings
from relaymta.store.interfaces import SpoolError
from relaymta.store.shards import file_system, is_ephemeral

CONFIGURATION = "/etc/relaymta/relaymta.toml"


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
        settings = load_settings(options["config"]).settings
    except ConfigError as error:
        raise SystemExit(str(error)) from None
    return Daemon(reactor, options["config"], settings)


class Daemon(Service):
    """One relay in one process."""

    def __init__(self, reactor: Any, file: str, settings: Settings) -> None:
        self._reactor = reactor
        self._file = file
        self._settings = settings
        self._sockets: dict[str, socket.socket] = {}
        self._ears = events.Ears()
        self._log: MailLog | None = None
        self._control: ControlSocket | None = None
        self._relay: Relay | None = None
        self._stopping = ""

    # Beginning

    def privilegedStartService(self) -> None:
        """Bind the ports, while we may."""
        try:
            for listener in self._settings.listeners:
                self._sockets[listener.name] = _bind(listener)
        except ListenError as error:
            raise SystemExit(f"relaymta: {error}") from None

    def startService(self) -> None:
        """Become the configured user, open the spool, then serve."""
        super().startService()
        settings = self._settings
        _raise_limits()
        try:
            _become(settings.user)
            _check_spool(settings)
            os.makedirs(settings.spool, mode=0o711, exist_ok=True)
        except OSError as error:
            raise SystemExit(f"relaymta: {error}") from None
        log = self._log = MailLog(
            settings.log.file,
            self._reactor.seconds,
            self._reactor.callLater,
            Format(settings.log.format.value),
        )
        self._ears.add(log)
        self._relay = Relay(
            self._reactor, settings, self._ears, reload=self.reload, stop=self.stop, pid=os.getpid()
        )
        self._control = ControlSocket(
            self._reactor, settings.admin.socket, self._relay.commands(), self._ears.tell, settings.admin.group
        )
        self._reactor.callWhenRunning(self._listen_for_signals)
        self._relay.open().addCallbacks(self._serve, self._give_up)

    def _serve(self, _: object) -> None:
        assert self._relay is not None and self._control is not None
        try:
            self._control.open()
        except (OSError, KeyError) as error:
            self._give_up(Failure(SpoolError(f"no control socket: {error}")))
            return
        self._relay.listen(self._sockets)
        where = " ".join(f"{one.name}={one.address or one.endpoint}" for one in self._settings.listeners)
        self._ears.tell(events.DaemonStarted(VERSION, os.getpid(), where))

    def _give_up(self, failure: Failure) -> None:
        """What cannot start says why and ends with status 1."""
        text = failure.getErrorMessage() if failure.check(SpoolError, OSError) else failure.getTraceback()
        sys.stderr.write(f"relaymta: {text}\n")
        self._relay = None
        self._reactor.addSystemEventTrigger("after", "shutdown", _exit_with_1)
        self._reactor.callWhenRunning(self._reactor.stop)

    # Signals, reload, end

    def _listen_for_signals(self) -> None:
        def soon(call: Any) -> Any:
            return lambda *_: self._reactor.callFromThread(call)

        signal.signal(signal.SIGHUP, soon(self._reload_by_signal))
        signal.signal(signal.SIGUSR1, soon(self._reopen_log))
        signal.signal(signal.SIGTERM, soon(self._terminate))
        signal.signal(signal.SIGINT, soon(self._terminate))

    def _terminate(self) -> None:
        if self._stopping:
            os._exit(1)  # asked twice: everything that was acknowledged is on disk
        self.stop("signal")

    def _reopen_log(self) -> None:
        if self._log is not None:
            self._log.reopen()

    def _reload_by_signal(self) -> None:
        try:
            self.reload()
        except (ConfigError, ListenError) as error:
            self._ears.tell(events.ReloadFailed(self._file, str(error)))

    def reload(self) -> None:
        """Read the configuration anew and put it in force, or raise ConfigError and change nothing."""
        settings = load_settings(self._file).settings
        if self._relay is None:
            return
        before = {one.name: one for one in self._settings.listeners}
        sockets = {
            one.name: self._sockets[one.name]
            for one in settings.listeners
            if one.name in before and _place(before[one.name]) == _place(one)
        }
        for listener in settings.listeners:
            if listener.name not in sockets:
                sockets[listener.name] = _bind(listener)
        for name, old in self._sockets.items():
            if sockets.get(name) is not old:
                old.close()
        self._relay.listen({name: sock for name, sock in sockets.items() if self._sockets.get(name) is sock})
        self._sockets, self._settings = sockets, settings
        self._relay.reload(settings)
        self._relay.listen(sockets)

    def stop(self, reason: str) -> None:
        """Drain and end the process."""
        if not self._stopping:
            self._stopping = reason
            self._reactor.stop()

    def stopService(self) -> Deferred[None] | None:
        """twistd waits for this: drained, delivered or on disk, closed."""
        super().stopService()
        self._stopping = self._stopping or "twistd"
        if self._relay is None:
            return None
        return self._relay.stop(self._stopping).addBoth(self._stopped)

    def _stopped(self, result: object) -> object:
        for sock in self._sockets.values():
            sock.close()
        if self._log is not None:
            self._log.close()
        if self._control is not None:
            self._control.close()
        return result if isinstance(result, Failure) else None


def _bind(listener: ListenerSettings) -> socket.socket:
    assert listener.address is not None
    return bind(listener.address)


def _place(listener: ListenerSettings) -> str:
    return str(listener.address or listener.endpoint)


def _raise_limits() -> None:
    """A descriptor for each connection on both sides, and each DNS query."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _become(user: str) -> None:
    """Give up root for `user`, whose groups come along. Raises OSError with a sentence for the operator."""
    if os.getuid() != 0 or not user:
        return
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise OSError(
            f'there is no user "{user}" to run as; make it (useradd --system {user}) or set `user` to another'
        ) from None
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def _check_spool(settings: Settings) -> None:
    """A container made anew must not lose the queue. Raises OSError."""
    if is_ephemeral(settings.spool) and not settings.ephemeral_spool:
        kind = file_system(settings.spool)
        raise OSError(
            f"the spool {settings.spool} is on {kind}, which a restart empties: put it on a disk or a volume, "
            "or set `ephemeral_spool = true` if mail may be lost"
        )


def _exit_with_1() -> None:
    sys.stderr.flush()
    os._exit(1)
