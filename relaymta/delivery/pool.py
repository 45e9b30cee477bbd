"""Connections that stand: lent to one message at a time, kept for the next one, closed when idle, old or used up.

RFC 5321 §3.3 (several messages on one connection), §4.1.1.10 (QUIT). A connection has one owner at a time, from
`lend` to `give_back`; it comes back when all replies to its message are there, and what it may owe the peer before
the next MAIL (RSET) is the dialogue's to say. Who connects, and what an answer means, is left to attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relaymta.delivery.classify import Peer
from relaymta.smtp.client import RelaySender


@frozen(slots=True)
class Key:
    """What two messages must agree in to share a connection.

    `address` is an IP address, or the path of a UNIX socket with port 0; `tls` is security's mark.
    """

    address: str
    port: int
    lmtp: bool
    tls: str
    source: str
    account: str


@define(eq=False)
class Connection:
    """One session and who may use it. `idle` is false while it has an owner, and for ever once it is gone.

    `epoch` is that of the policies by which it was opened, or found again by its key.
    """

    key: Key
    sender: RelaySender
    peer: Peer
    born: float
    epoch: int
    idle: bool = False
    idle_since: float = 0.0
    lanes: set[str] = field(factory=set)


class Pool:
    """The connections of one process. Times are seconds of `clock`."""

    def __init__(
        self, clock: IReactorTime, *, max_per_connection: int, idle_timeout: float, reuse_time: float
    ) -> None:
        self._clock = clock
        self._max = max_per_connection
        self._idle_timeout = idle_timeout
        self._reuse_time = reuse_time
        self._connections: set[Connection] = set()
        # routing.route: all terms of a route stand in the name of its lane, so that equal lanes may share connections.
        # Both hold connections that were idle when they were put there; `idle` says whether they still are.
        self._by_lane: dict[str, dict[Connection, None]] = {}
        self._by_key: dict[Key, dict[Connection, None]] = {}
        self._sweeper: IDelayedCall | None = None
        self._closing = False
        self.epoch = 0  # of the policies by which connections were decided upon
        self.on_empty: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def idle(self) -> int:
        """How many have no owner."""
        return sum(connection.idle for connection in self._connections)

    def lend(self, lane: str) -> Connection | None:
        """An idle connection that a message of this lane has used, the last one used first."""
        idle = self._by_lane.get(lane)
        while idle:
            connection, _ = idle.popitem()
            if connection.idle and connection.sender.usable:
                connection.idle = False
                return connection
        return None

    def renew(self) -> None:
        """Policies are others than before: who has a lane's connection next must decide anew, and finds it by key."""
        self.epoch += 1
        self._by_lane.clear()

    def lend_at(self, key: Key, epoch: int) -> Connection | None:
        """An idle connection to this address that agrees in all else; `epoch` is that of the caller's decision."""
        for connection in self._by_key.get(key, ()):
            if connection.idle and connection.sender.usable:
                connection.idle = False
                connection.epoch = epoch
                return connection
        return None

    def adopt(self, key: Key, sender: RelaySender, peer: Peer, epoch: int) -> Connection:
        """Take in a new session, decided upon in that epoch; the caller owns it."""
        connection = Connection(key, sender, peer, self._clock.seconds(), epoch)
        self._connections.add(connection)
        sender.on_gone = lambda: self._gone(connection)
        return connection

    def give_back(self, connection: Connection, lane: str) -> None:
        """The owner is done with it: all replies are there."""
        sender = connection.sender
        if not sender.usable or sender.messages >= self._max or self._closing:
            sender.quit()
            return
        now = self._clock.seconds()
        if now - connection.born > self._reuse_time:
            sender.quit()
            return
        connection.idle = True
        connection.idle_since = now
        if connection.epoch == self.epoch:
            by_lane = self._by_lane.get(lane)
            if by_lane is None:
                by_lane = self._by_lane[lane] = {}
            by_lane[connection] = None
        if lane not in connection.lanes:
            connection.lanes.add(lane)
            self._by_key.setdefault(connection.key, {})[connection] = None
        if self._sweeper is None:
            self._sweeper = self._clock.callLater(self._idle_timeout / 3, self._sweep)

    def close(self) -> None:
        """Take leave of the idle ones now, and of each other one when it comes back."""
        self._closing = True
        for connection in list(self._connections):
            if connection.idle:
                self._leave(connection)

    def abort(self) -> None:
        """Cut all of them."""
        for connection in list(self._connections):
            connection.sender.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _leave(self, connection: Connection) -> None:
        connection.idle = False
        connection.sender.quit()

    def _sweep(self) -> None:
        self._sweeper = None
        oldest = self._clock.seconds() - self._idle_timeout
        left = 0
        for connection in list(self._connections):
            if not connection.idle:
                continue
            if connection.idle_since <= oldest:
                self._leave(connection)
            else:
                left += 1
        if left:
            self._sweeper = self._clock.callLater(self._idle_timeout / 3, self._sweep)

    def _gone(self, connection: Connection) -> None:
        connection.idle = False
        self._connections.discard(connection)
        for lane in connection.lanes:
            _remove(self._by_lane, lane, connection)
        _remove(self._by_key, connection.key, connection)
        if not self._connections:
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None
            if self.on_empty is not None:
                self.on_empty()


K = TypeVar("K", bound=Hashable)


def _remove(index: dict[K, dict[Connection, None]], key: K, connection: Connection) -> None:
    """Take `connection` out of `index`, and its key with the last one."""
    connections = index.get(key)
    if connections is not None:
        connections.pop(connection, None)
        if not connections:
            del index[key]
