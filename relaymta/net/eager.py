"""TCP transports that send at once: a write goes to the kernel now instead of on the next turn of the loop.

Twisted's own transports register for writability on every write, which costs two epoll_ctl calls and one turn of the
loop a reply; this was the largest single cost of a small message. Where anything is in the way (bytes still
buffered, TLS, a pulling producer, a full kernel buffer) the stock path is taken, whose behaviour is unchanged.

A server: `port.transport = EagerServer` on what listenTCP or adoptStreamPort gave. A client: `connect_tcp`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet import tcp
from twisted.internet.main import CONNECTION_DONE
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from twisted.internet.interfaces import IConnector
    from twisted.internet.protocol import ClientFactory

    _Connection = tcp.Connection
else:
    _Connection = object

_DONE = Failure(CONNECTION_DONE)


class _SendsAtOnce(_Connection):
    """What both sides share; stands before a tcp.Connection in the order of bases."""

    def write(self, data: bytes) -> None:
        """Send `data` now as far as the kernel takes it; the rest, or all of it, waits in the stock buffer."""
        if (
            self.TLS
            or self._tempDataLen
            or len(self.dataBuffer) != self.offset
            or not self.connected
            or self._writeDisconnecting
            or (self.producer is not None and not self.streamingProducer)
            or not isinstance(data, bytes)
        ):
            super().write(data)  # type: ignore[no-untyped-call]
            return
        if not data:
            return
        try:
            sent = self.socket.send(data)
        except OSError:
            sent = 0  # a full buffer waits; a broken connection is found and told by the next turn's doWrite
        if sent != len(data):
            super().write(data[sent:])  # type: ignore[no-untyped-call]

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send all of `iovec` as one write."""
        self.write(b"".join(iovec))


class EagerServer(_SendsAtOnce, tcp.Server):
    """The server's side of an accepted connection."""

    _shouldShutdown = False  # no other process holds the descriptor: to close it is enough

    def hang_up(self) -> None:
        """Close now where all is sent, else when it is, as loseConnection does.

        The protocol hears connectionLost before this returns, and so should have nothing left to do.
        """
        if self.TLS or not self.connected or self._tempDataLen or len(self.dataBuffer) != self.offset or self.producer:
            self.loseConnection()  # type: ignore[no-untyped-call]
        else:
            self.connectionLost(_DONE)


class EagerClient(_SendsAtOnce, tcp.Client):
    """The client's side of a connection made by `connect_tcp`."""


class EagerConnector(tcp.Connector):
    """A connector whose connections are EagerClients."""

    def _makeTransport(self) -> EagerClient:
        return EagerClient(  # type: ignore[no-untyped-call]
            self.host, self.port, self.bindAddress, self, self.reactor
        )


def connect_tcp(
    reactor: Any,
    host: str,
    port: int,
    factory: ClientFactory[Any],
    timeout: float = 30.0,
    bind_address: tuple[str, int] | None = None,
) -> IConnector:
    """Connect as IReactorTCP.connectTCP does, over an EagerClient.

    `host` should be an IP address, so that no resolver thread is used; `timeout` is in seconds; `bind_address` is
    (address, port), port 0 for any. Failure and loss are told to `factory`.
    """
    connector = EagerConnector(host, port, factory, timeout, bind_address, reactor)
    connector.connect()
    return connector
