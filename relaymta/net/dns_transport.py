"""One DNS exchange: octets to a server and the matching octets back, over a UDP socket of its own or over TCP.

RFC 5452 §9 (a new unprivileged random port for each question; what does not match is ignored), RFC 7766 (TCP).
What matches is dns_wire's to say; when to try again, and where, is left to dns.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IAddress, IConnector, IDelayedCall, IReadDescriptor, ITransport
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.protocols.basic import Int16StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

_DATAGRAM_MAX: Final = 4096  # octets read; we ask for at most dns_wire.UDP_MAX
_FORGED_MAX: Final = 50  # ours: so many strange datagrams at a fresh random port are an attack; TCP ends it


class Reactor(Protocol):
    """What we need of a reactor."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any) -> IDelayedCall: ...

    def addReader(self, reader: IReadDescriptor) -> None: ...

    def removeReader(self, reader: IReadDescriptor) -> None: ...

    def connectTCP(self, host: str, port: int, factory: ClientFactory, timeout: float) -> IConnector: ...


@frozen(slots=True)
class Lost:
    """No reply came. `refused`: the server's host said that nobody listens; `forged`: many strange replies came."""

    text: str
    refused: bool = False
    forged: bool = False


Reply = bytes | Lost


def ask_udp(
    reactor: Reactor, host: str, port: int, octets: bytes, matches: Callable[[bytes], bool], timeout: float
) -> Deferred[Reply]:
    """Send one datagram and wait `timeout` seconds for one that `matches`. Raises OSError (no socket left)."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect((host, port))  # the kernel drops what comes from anybody else
        sock.send(octets)
    except OSError as error:
        sock.close()
        return succeed(Lost(error.strerror or str(error), refused=True))
    return _UdpExchange(reactor, sock, matches, timeout).replied


def ask_tcp(
    reactor: Reactor, host: str, port: int, octets: bytes, matches: Callable[[bytes], bool], timeout: float
) -> Deferred[Reply]:
    """The same over a connection of its own; `timeout` counts connecting too."""
    return _TcpExchange(reactor, host, port, octets, matches, timeout).replied


@implementer(IReadDescriptor)
class _UdpExchange:
    """A connected UDP socket with a random port from the kernel's range for unprivileged programs.

    A reader, not a reactor.listenUDP port: that one writes two lines to the log for each question, and is not
    told of ECONNREFUSED while it waits for a reply.
    """

    def __init__(self, reactor: Reactor, sock: socket.socket, matches: Callable[[bytes], bool], timeout: float) -> None:
        self._reactor = reactor
        self._socket = sock
        self._number = sock.fileno()
        self._matches = matches
        self._strange = 0
        reactor.addReader(self)
        self.replied: Deferred[Reply] = Deferred(lambda _: self._end(None))
        self._deadline: IDelayedCall | None = reactor.callLater(timeout, self._expire)

    def fileno(self) -> int:
        # the number of old: the reactor looks at it once more after doRead, when the socket may be closed
        return self._number

    def logPrefix(self) -> str:
        return "dns"

    def doRead(self) -> None:
        try:
            octets = self._socket.recv(_DATAGRAM_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(Lost(error.strerror or str(error), refused=True))
            return
        if self._matches(octets):
            self._end(octets)
            return
        self._strange += 1
        if self._strange > _FORGED_MAX:
            self._end(Lost("forged replies", forged=True))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # an error without data is told this way by some reactors; reading it says which
        if self._deadline is not None:
            self.doRead()
        if self._deadline is not None:
            self._end(Lost(reason.getErrorMessage(), refused=True))

    def _expire(self) -> None:
        self._deadline = None
        self._end(Lost("timed out"))

    def _end(self, reply: Reply | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._reactor.removeReader(self)
        self._socket.close()
        if reply is not None:
            self.replied.callback(reply)


class _TcpExchange(ClientFactory):
    """One connection for one question: rare, since EDNS spares most answers the truncation."""

    noisy = False

    def __init__(
        self,
        reactor: Reactor,
        host: str,
        port: int,
        octets: bytes,
        matches: Callable[[bytes], bool],
        timeout: float,
    ) -> None:
        self.octets = octets
        self._matches = matches
        self._ended = False
        self.replied: Deferred[Reply] = Deferred(lambda _: self._end(None))
        self._deadline = reactor.callLater(timeout, self._end, Lost("timed out over TCP"))
        self._connector = reactor.connectTCP(host, port, self, timeout=timeout + 1)

    def buildProtocol(self, addr: IAddress | None) -> TwistedProtocol | None:
        return _Stream(self)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._end(Lost(reason.getErrorMessage(), refused=reason.check(ConnectError) is not None))

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        self._end(Lost("the server closed the connection"))

    def received(self, octets: bytes) -> None:
        """One message came."""
        if self._matches(octets):
            self._end(octets)

    def _end(self, reply: Reply | None) -> None:
        if self._ended:
            return
        self._ended = True
        if self._deadline.active():
            self._deadline.cancel()
        self._connector.disconnect()
        if reply is not None:
            self.replied.callback(reply)


class _Stream(Int16StringReceiver):
    """RFC 1035 §4.2.2: each message behind its length in two octets."""

    transport: ITransport

    def __init__(self, exchange: _TcpExchange) -> None:
        self._exchange = exchange

    def connectionMade(self) -> None:
        octets = self._exchange.octets
        self.transport.write(len(octets).to_bytes(2, "big") + octets)

    def stringReceived(self, string: bytes) -> None:
        self._exchange.received(string)
