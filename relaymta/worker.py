"""A worker process: one House that was started by the parent, on sockets and counts that it shares with others.

Started as `python -m relaymta.worker ORDERS`, where ORDERS is JSON (see Orders). It says "ready" when it serves,
drains and ends at SIGTERM and when the parent is gone, and waits for its clients
to leave first at SIGUSR2.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from relaymta.board import Board
from relaymta.house import House
from relaymta.net.turn import lighten
from relaymta.settings import load_settings
from relaymta.store.interfaces import SpoolError
from relaymta.workers import LIFE, READY, RETIRE_SECONDS, STOP_SECONDS, Orders

LOOK_AGAIN = 0.2  # seconds; ours


@implementer(IReadDescriptor)
class _Parent:
    """The pipe whose end says that the parent is gone."""

    def __init__(self, gone: Any) -> None:
        self._gone = gone

    def fileno(self) -> int:
        """The descriptor to watch."""
        return LIFE

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return "parent"

    def doRead(self) -> None:
        """The parent never writes: this is the end of the pipe."""
        self._gone("the parent is gone")

    def connectionLost(self, reason: Failure) -> None:
        """The same, as epoll says it: a pipe that was hung up has nothing to be read."""
        self._gone("the parent is gone")


class Worker:
    """One worker, from its orders to its end."""

    def __init__(self, reactor: Any, orders: Orders) -> None:
        self._reactor = reactor
        self._orders = orders
        self._stopping = False
        settings = load_settings(f"/proc/self/fd/{orders.configuration}").settings
        self._sockets = {name: socket.socket(fileno=fd) for name, fd in orders.sockets.items()}
        self._life = _Parent(self.stop)
        self._house = House(
            reactor,
            settings,
            control=orders.control,
            shard=orders.shard,
            board=Board.attach(orders.board, orders.columns, orders.column),
            reload=lambda: None,
            stop=self.stop,
        )

    def start(self) -> None:
        """Open everything, and say so."""
        self._reactor.addReader(self._life)
        soon = self._reactor.callFromThread
        signal.signal(signal.SIGTERM, lambda *_: soon(self.stop, "the parent asks"))
        signal.signal(signal.SIGUSR2, lambda *_: soon(self.retire, self._reactor.seconds() + RETIRE_SECONDS))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of us; the parent passes it on in order
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda *_: soon(self._house.log.reopen))
        self._house.open(self._sockets).addCallbacks(self._serves, self._give_up)

    def _serves(self, _: object) -> None:
        os.write(READY, b"ready\n")
        for shard in self._orders.orphans:
            self._house.relay.adopt(shard).addErrback(self._not_adopted, shard)

    def _not_adopted(self, failure: Failure, shard: int) -> None:
        sys.stderr.write(f"relaymta: shard {shard} is not adopted: {failure.getErrorMessage()}\n")

    def _give_up(self, failure: Failure) -> None:
        text = failure.getErrorMessage() if failure.check(SpoolError, OSError) else failure.getTraceback()
        sys.stderr.write(f"relaymta: {text}\n")
        sys.stderr.flush()
        os._exit(1)

    def retire(self, until: float) -> None:
        """A new generation serves: take nobody in, and end when the last client has gone, or at `until`."""
        relay = self._house.relay
        relay.leave()
        if relay.guests and self._reactor.seconds() < until:
            self._reactor.callLater(LOOK_AGAIN, self.retire, until)
        else:
            self.stop("a new generation serves")

    def stop(self, reason: str) -> None:
        """Drain and end."""
        if self._stopping:
            return
        self._stopping = True
        self._reactor.removeReader(self._life)
        # Whatever still hangs then: all that was acknowledged is on disk.
        self._reactor.callLater(STOP_SECONDS, os._exit, 1)
        stopped: Deferred[None] = self._house.stop(reason)
        stopped.addErrback(lambda failure: sys.stderr.write(f"relaymta: {failure.getTraceback()}\n"))
        stopped.addCallback(lambda _: self._reactor.stop())


def main() -> None:
    """The process."""
    from twisted.internet import reactor

    quiet = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
    observer = FilteringLogObserver(textFileLogObserver(sys.stderr), [quiet])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    lighten(reactor)
    worker = Worker(reactor, Orders.read(sys.argv[1]))
    reactor.callWhenRunning(worker.start)
    reactor.run()


if __name__ == "__main__":
    main()
