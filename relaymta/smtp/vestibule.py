"""Where the connection of a named proxy waits until it has said whose it is, before the greeting and before TLS.

The PROXY protocol (smtp.proxy reads it). From a named proxy a header is required: without one that is right and whole
in time, the connection ends without a word (proxy-protocol.txt §2: never to be guessed). A client that the proxy names
is believed, whatever address it is; the proxy's own address, where it names nobody, is greeted and earns nothing. From
anybody else no header is read: it is the talk of one who speaks before the greeting.

Twisted has a wrapper for this, twisted.protocols.haproxy, which could not be used: it takes the word of everybody who
connects, waits for ever, drops a header whose first octets come alone (16 of version 2 have to come at once), and hands
on version 1's addresses unread. Above all the protocol that it wraps is told of the connection before the header has
come: our greeting, the count at the door and implicit TLS would be the proxy's. Here the session is made after the
header, on the bare transport, and costs what any other does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from relaymta.smtp.proxy import ProxyHeader, ProxyHeaderError, parse

if TYPE_CHECKING:
    from relaymta.smtp.listener import RelayFactory

HEADER_WITHIN = 10.0  # seconds; proxy-protocol.txt §2 wants three at least, for a segment that is lost once


class Vestibule(Protocol):
    """One connection before its header; it counts among all, and as no client's."""

    transport: Any

    def __init__(self, factory: RelayFactory) -> None:
        self._house = factory
        self._heard = b""
        self._ended = False
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for the header, unless there are too many connections already."""
        house = self._house
        self._peer = house.peer_of(self.transport)  # a transport that is lost does not say it any more
        refusal = house.door.enter(self, None)
        if refusal is not None:
            house.on_turned_away(self._peer, refusal)
            if not house.implicit_tls:
                self.transport.write(refusal.render())
            self._end()
            return
        self._timer = house.clock.callLater(HEADER_WITHIN, self._refuse, "no PROXY header in time")

    def dataReceived(self, data: bytes) -> None:
        """Octets of the header, and perhaps what stands behind it."""
        if self._ended:
            return
        self._heard += data
        try:
            found = parse(self._heard)
        except ProxyHeaderError as error:
            self._refuse(str(error))
            return
        if found is not None:
            header, length = found
            self._pass_on(header, self._heard[length:])

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """It went before it had said anything whole; with nothing at all it was a look at our health."""
        self._leave()
        if self._heard and not self._ended:
            self._tell("the PROXY header is cut short")

    def drain(self) -> None:
        """We are going down."""
        self._end()

    def abort(self) -> None:
        """We are going down now."""
        self._ended = True
        self.transport.abortConnection()

    def _pass_on(self, header: ProxyHeader, rest: bytes) -> None:
        """A session of the client that the header names, on the transport as it is."""
        self._leave()
        transport = self.transport
        session = transport.protocol = self._house.session(header)
        session.makeConnection(transport)  # type: ignore[no-untyped-call]
        if rest:
            transport.protocol.dataReceived(rest)  # which is TLS by now, where it is implicit

    def _refuse(self, reason: str) -> None:
        self._tell(reason)
        self._end()

    def _tell(self, reason: str) -> None:
        self._house.on_bad_header(self._peer, reason)

    def _end(self) -> None:
        self._ended = True
        self.transport.loseConnection()

    def _leave(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._house.door.leave(self)
