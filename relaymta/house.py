"""One process that holds a whole relay: its log, its relay, its control socket, begun and ended in order.

The daemon itself is one (`workers = 0`), and so is each worker. Only wiring.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from relaymta import events
from relaymta.admin.commands import DaemonCommands
from relaymta.admin.control import ControlSocket
from relaymta.admin.maillog import Format, open_log
from relaymta.assembly import Relay
from relaymta.board import Board
from relaymta.settings import VERSION, Settings
from relaymta.store.interfaces import SpoolError
from relaymta.workers import raise_limits

Sockets = Mapping[str, socket.socket]


class House:
    """A relay with its log and its control socket at `control`; `reload` and `stop` are what the operator may ask."""

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        *,
        control: str,
        shard: int = 0,
        board: Board | None = None,
        reload: Callable[[], Deferred[None] | None],
        stop: Callable[[str], None],
    ) -> None:
        self.log, self.ears = open_log(reactor, settings.log.file, Format(settings.log.format.value))
        self.relay = Relay(
            reactor, settings, self.ears, shard=shard, board=board, pid=os.getpid()
        )
        steering = DaemonCommands(
            version=VERSION, pid=os.getpid(), seconds=reactor.seconds, reload=reload, stop=stop
        )
        commands = {**steering.table(), **self.relay.commands()}
        self._control = ControlSocket(reactor, control, commands, self.ears.tell, settings.admin.group)

    def open(self, sockets: Sockets) -> Deferred[None]:
        """Begin: the spool first, then the operator's socket, then the clients. Fails with SpoolError."""
        raise_limits()

        def serve(_: object) -> None:
            try:
                self._control.open()
            except (OSError, KeyError) as error:
                raise SpoolError(f"no control socket: {error}") from error
            self.relay.listen(sockets)
            _freeze()
            self.relay.scheduler.loaded.addCallback(_freeze)

        return self.relay.open().addCallback(serve)

    def reload(self, settings: Settings, sockets: Sockets) -> None:
        """Put another configuration in force."""
        self.relay.listen({name: one for name, one in sockets.items() if self.relay.serves(name, one)})
        self.relay.reload(settings)
        self.relay.listen(sockets)

    def reopen_logs(self) -> None:
        """Begin a new log file."""
        self.log.reopen()

    def stop(self, reason: str) -> Deferred[None]:
        """Drain, and put everything on disk; the log and the socket end last."""

        def close(result: Any) -> Any:
            self._control.close()
            self.log.close()
            return result

        self.ears.tell(events.DaemonStopping(reason))
        return self.relay.stop().addBoth(close)


def _freeze(_: object = None) -> None:
    """What is here now stays: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
