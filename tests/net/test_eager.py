"""Transports that send at once, on real sockets of this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IConnector
from twisted.internet.protocol import ClientFactory, Protocol, ServerFactory
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.basic import FileSender
from twisted.trial.unittest import TestCase

from relaymta.net.eager import EagerClient, EagerServer, connect_tcp
from tests.smtp.certificates import server_context

reactor: Any = installed_reactor
BODY = bytes(range(256)) * 8192  # 2 MiB: more than any socket's buffer takes at once


def read_all(peer: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    peer.settimeout(20)
    octets = bytearray()
    while piece := peer.recv(65536):
        octets += piece
    return bytes(octets)


def client_factory(protocol: Any) -> ClientFactory[Any]:
    """A factory for one kind of client."""
    factory: ClientFactory[Any] = ClientFactory()
    factory.protocol = protocol
    factory.noisy = False
    return factory


class Eager(TestCase):
    """A server or client of ours, a blocking peer in a thread."""

    timeout = 20

    def serve(self, made: Callable[[Any], None]) -> int:
        """Listen; `made` is called with the transport of each connection."""
        self.ended: Deferred[None] = Deferred()

        class Made(Protocol):
            def connectionMade(_) -> None:
                made(_.transport)

            def connectionLost(_, reason: object = None) -> None:
                self.ended.callback(None)

        factory = ServerFactory()
        factory.protocol = Made
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        port.transport = EagerServer
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def fetch(self, port: int) -> bytes:
        def fetch() -> bytes:
            with socket.create_connection(("127.0.0.1", port), 20) as peer:
                return read_all(peer)

        octets: bytes = await deferToThread(fetch)
        await self.ended
        return octets

    async def test_a_small_write_leaves_nothing_to_do(self) -> None:
        """A write that the kernel takes is not registered for the next turn."""
        buffered: list[int] = []

        def made(transport: Any) -> None:
            self.assertIsInstance(transport, EagerServer)
            transport.write(b"hello ")
            transport.write(b"")
            transport.writeSequence([b"wor", b"ld"])
            buffered.append(transport._tempDataLen)
            self.assertNotIn(transport, reactor.getWriters())
            transport.loseConnection()

        self.assertEqual(await self.fetch(self.serve(made)), b"hello world")
        self.assertEqual(buffered, [0])

    async def test_a_large_write_arrives_whole_and_in_order(self) -> None:
        """What the kernel does not take at once is buffered, and what is written behind it stays behind it."""

        def made(transport: Any) -> None:
            for start in range(0, len(BODY), 300_000):
                transport.write(BODY[start : start + 300_000])
            transport.write(b"end")
            transport.loseConnection()

        self.assertEqual(await self.fetch(self.serve(made)), BODY + b"end")

    async def test_a_pulling_producer_is_served(self) -> None:
        """FileSender writes through the stock path."""
        from io import BytesIO

        def made(transport: Any) -> None:
            sent = FileSender().beginFileTransfer(BytesIO(BODY), transport)
            sent.addCallback(lambda _: transport.loseConnection())

        self.assertEqual(await self.fetch(self.serve(made)), BODY)

    async def test_a_pushing_producer_is_paused(self) -> None:
        """A streaming producer is told when its consumer is full, and when it is not any more."""
        told: list[str] = []

        class Producer:
            def pauseProducing(self) -> None:
                told.append("pause")

            def resumeProducing(self) -> None:
                told.append("resume")
                transports[0].unregisterProducer()
                transports[0].loseConnection()

            def stopProducing(self) -> None:
                told.append("stop")

        transports: list[Any] = []

        def made(transport: Any) -> None:
            transports.append(transport)
            # However large the kernel's buffers may grow, this one does not take all at once.
            transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            transport.registerProducer(Producer(), True)
            transport.write(BODY * 4)

        self.assertEqual(await self.fetch(self.serve(made)), BODY * 4)
        self.assertEqual(told, ["pause", "resume"])

    async def test_text_is_refused(self) -> None:
        """Only bytes go onto the wire, as with any transport."""

        def made(transport: Any) -> None:
            with self.assertRaises(TypeError):
                transport.write("text")
            transport.loseConnection()

        self.assertEqual(await self.fetch(self.serve(made)), b"")

    async def test_a_peer_that_is_gone_is_told_by_the_loop(self) -> None:
        """A write into a broken connection does not call connectionLost from within write."""
        within: list[bool] = []

        def made(transport: Any) -> None:
            transport.socket.shutdown(socket.SHUT_WR)
            transport.write(b"lost")
            within.append(self.ended.called)

        self.assertEqual(await self.fetch(self.serve(made)), b"")
        self.assertEqual(within, [False])

    async def test_who_hangs_up_is_gone_at_once(self) -> None:
        """Where all is sent the connection is closed and told before hang_up returns; the peer has read everything."""
        within: list[bool] = []

        def made(transport: Any) -> None:
            transport.write(b"221 bye")
            transport.hang_up()
            within.append(self.ended.called)
            self.assertNotIn(transport, reactor.getReaders())

        self.assertEqual(await self.fetch(self.serve(made)), b"221 bye")
        self.assertEqual(within, [True])

    async def test_who_hangs_up_with_more_to_send_sends_it_first(self) -> None:
        """What the kernel did not take yet goes out before the connection is closed."""
        within: list[bool] = []

        def made(transport: Any) -> None:
            # However large the kernel's buffers may grow, this one does not take all at once.
            transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            transport.write(BODY * 4)
            transport.hang_up()
            within.append(self.ended.called)

        self.assertEqual(await self.fetch(self.serve(made)), BODY * 4)
        self.assertEqual(within, [False])

    async def test_connect_tcp(self) -> None:
        """The client's connection is an EagerClient, from the address asked for."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        made: Deferred[Any] = Deferred()
        lost: Deferred[None] = Deferred()

        class Made(Protocol):
            def connectionMade(self) -> None:
                made.callback(self.transport)

            def connectionLost(self, reason: object = None) -> None:
                lost.callback(None)

        connector = connect_tcp(
            reactor, "127.0.0.1", listening.getsockname()[1], client_factory(Made), 5.0, ("127.0.0.2", 0)
        )
        self.assertTrue(IConnector.providedBy(connector))
        transport = await made
        self.assertIsInstance(transport, EagerClient)
        transport.write(b"hello")
        peer, address = listening.accept()
        self.assertEqual((peer.recv(5), address[0]), (b"hello", "127.0.0.2"))
        peer.close()
        await lost

    async def test_connect_tcp_refused(self) -> None:
        """Failure is told to the factory."""
        taken = socket.create_server(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        failed: Deferred[Any] = Deferred()

        class Factory(ClientFactory):
            noisy = False

            def clientConnectionFailed(self, connector: object, reason: Any) -> None:
                failed.callback(reason.type)

        connect_tcp(reactor, "127.0.0.1", port, Factory(), 5.0)
        self.assertIs(await failed, ConnectionRefusedError)

    async def test_tls_over_eager_transports(self) -> None:
        """After startTLS on both sides 2 MiB come through whole."""
        from twisted.internet.ssl import CertificateOptions

        received = bytearray()
        lost: Deferred[None] = Deferred()

        def made(transport: Any) -> None:
            transport.startTLS(server_context())
            transport.write(BODY)
            transport.loseConnection()

        class Reader(Protocol):
            def connectionMade(self) -> None:
                self.transport.startTLS(CertificateOptions())  # type: ignore[union-attr]

            def dataReceived(self, data: bytes) -> None:
                received.extend(data)

            def connectionLost(self, reason: object = None) -> None:
                lost.callback(None)

        connect_tcp(reactor, "127.0.0.1", self.serve(made), client_factory(Reader), 5.0)
        await lost
        await self.ended
        self.assertEqual(bytes(received), BODY)
        await deferLater(reactor, 0)
