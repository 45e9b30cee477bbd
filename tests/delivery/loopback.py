"""One site on real sockets on loopback: scripted servers behind b.test, and deliveries to it."""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from relaymta.config import Duration
from relaymta.delivery.attempt import Batch, Deliveries
from relaymta.delivery.settings import Settings
from relaymta.events import Event, TlsChecked
from relaymta.mail.content import MemoryContent
from relaymta.mail.outcome import Outcome
from relaymta.routing.mx import Host
from relaymta.routing.route import Route
from tests.delivery.certificates import authority
from tests.delivery.network import Finder, route_to
from tests.smtp.scripted import BODY, Server, envelope

reactor: Any = the_reactor
HOST = "mx.b.test"


class Session(Protocol):
    """A scripted server on a socket, which may speak TLS after STARTTLS."""

    transport: Any

    def __init__(self, server: Server, context: Any, reset_at: str) -> None:
        self.server, self.context, self.reset_at = server, context, reset_at

    def connectionMade(self) -> None:
        self.transport.write(self.server.greet())
        if self.server.closed:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self.server.commands[-1:] == ["(handshake)"] and self.context is None:
            self.transport.write(b"this is no TLS\r\n")
            self.transport.loseConnection()
            return
        said = self.server.feed(data)
        if self.reset_at and any(line.startswith(self.reset_at) for line in self.server.commands):
            linger = struct.pack("ii", 1, 0)
            self.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abortConnection()
            return
        self.transport.write(said)
        if self.server.commands[-1:] == ["STARTTLS"] and said.startswith(b"220"):
            self.server.commands.append("(handshake)")
            self.server.offers = [one for one in self.server.offers if one != "STARTTLS"]
            if self.context is not None:
                self.transport.startTLS(self.context)
        elif self.server.closed:
            self.transport.loseConnection()


class Loopback(TestCase):
    """One site on 127.0.0.1."""

    timeout = 20

    def setUp(self) -> None:
        self.servers: list[Server] = []
        self.events: list[Event] = []
        self.finder = Finder({})
        self.deliveries = self.make()

    def make(self, tls_ca: str = "", **more: Any) -> Deliveries:
        """The way out."""
        made = Deliveries(
            reactor,
            self.finder,
            Settings(ehlo_timeout=Duration(5.0), tls_ca=tls_ca),
            hostname="us.test",
            tell=self.events.append,
            **more,
        )
        self.addCleanup(lambda: made.close(1.0))
        return made

    def believe_authority(self, **more: Any) -> None:
        """Deliver with the authority of the tests as the only one."""
        folder = tempfile.mkdtemp(prefix="relaymta-")
        self.addCleanup(shutil.rmtree, folder)
        path = Path(folder, "ca.pem")
        path.write_bytes(authority().certificate.public_bytes(Encoding.PEM))
        self.deliveries = self.make(str(path), **more)

    def checked(self) -> list[TlsChecked]:
        """What was told of TLS."""
        return [event for event in self.events if isinstance(event, TlsChecked)]

    def listen(
        self, make: Callable[[], Server] = Server, context: Any = None, reset_at: str = "", path: str = "",
        *, named: bool = False, beside: bool = False,
    ) -> None:  # fmt: skip
        """Put a server behind b.test, or one more; `named`: DNSSEC vouches for its name."""

        def build(_: Any) -> Session:
            self.servers.append(make())
            return Session(self.servers[-1], context, reset_at)

        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = build  # type: ignore[method-assign,assignment]
        if path:
            port = reactor.listenUNIX(path, factory)
        else:
            port = reactor.listenTCP(0, factory, interface="127.0.0.1")
            found = Host(HOST, port.getHost().port, 0, ("127.0.0.1",), named=named)
            before = self.finder.hosts.get("b.test", ()) if beside else ()
            assert isinstance(before, tuple)
            self.finder.hosts["b.test"] = (*before, found)
        self.addCleanup(port.stopListening)

    def deliver(
        self, *recipients: str, content: bytes = BODY, route: Route | None = None, **wishes: Any
    ) -> Deferred[list[Outcome]]:
        """Attempt a batch."""
        everyone = tuple(range(len(recipients)))
        route = route or route_to()
        return self.deliveries.attempt(
            Batch("Q1", envelope(*recipients, **wishes), MemoryContent(content), everyone, route, route.lane)
        )
