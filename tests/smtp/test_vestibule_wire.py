"""PROXY headers before TLS, on real sockets of this machine."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relaymta.net.eager import EagerServer
from relaymta.smtp.handler import Handler, Peer
from relaymta.smtp.settings import Profile, TlsMode
from tests.smtp.certificates import server_context
from tests.smtp.guests import codes, house
from tests.smtp.proxyheaders import version1, version2
from tests.smtp.test_server_wire import PATIENCE, Client

LOOPBACK = (ip_network("127.0.0.0/8"),)
ENDS = ("192.0.2.1", 1025, "198.51.100.1")
reactor: Any = installed_reactor


class InOneSegment:
    """TLS by hand, so that the ClientHello can stand behind the header in one segment."""

    def __init__(self, client: Client) -> None:
        self._socket = client.socket
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._tls = context.wrap_bio(self._in, self._out)

    def do(self, step: Callable[[], Any], before: bytes = b"") -> Any:
        """One step of TLS, with `before` in front of the first octets that it sends."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                result = None
            waiting = before + self._out.read()
            before = b""
            if waiting:
                self._socket.sendall(waiting)
            if result is not None:
                return result
            octets = self._socket.recv(65536)
            if not octets:
                return b""
            self._in.write(octets)

    def handshake(self, before: bytes) -> None:
        """The whole of it."""
        self.do(lambda: self._tls.do_handshake() or True, before)

    def say(self, octets: bytes) -> bytes:
        """Send, and read what comes first."""
        if octets:
            self._tls.write(octets)
        answer: bytes = self.do(lambda: self._tls.read(65536))
        return answer


class BeforeTls(TestCase):
    """A factory that listens for proxies on loopback, a client in a thread."""

    timeout = PATIENCE

    def visit(self, tls: TlsMode, script: Callable[[Client], Any], **options: Any) -> Deferred[Any]:
        guests = house(proxy=LOOPBACK, tls=tls, context=server_context(), **options)
        self.guests, self.peers = guests, list[Peer]()
        before = guests.factory.handler

        def handler(peer: Peer) -> Handler:
            self.peers.append(peer)
            return before(peer)

        guests.factory.handler = handler
        guests.factory.clock = reactor
        port = reactor.listenTCP(0, guests.factory, interface="127.0.0.1")
        port.transport = EagerServer

        async def close() -> None:
            await maybeDeferred(port.stopListening)
            await guests.factory.drain(0.1)

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))

        def visit() -> Any:
            client = Client(port.getHost().port)
            try:
                return script(client)
            finally:
                client.socket.close()

        return deferToThread(visit)

    async def test_the_header_stands_before_implicit_tls(self) -> None:
        """In clear, in both versions; the session in TLS is the client's."""
        for header in (version1(*ENDS), version2(*ENDS)):

            def script(client: Client, header: bytes = header) -> bytes:
                client.socket.sendall(header)
                client.start_tls()
                return client.reply() + client.say(b"NOOP\r\n")

            assert codes(await self.visit(TlsMode.IMPLICIT, script)) == ["220", "250 2.0.0"]
            [peer] = self.peers
            assert peer.client == "192.0.2.1" and peer.tls.startswith("TLSv1.")

    async def test_the_client_hello_may_share_a_segment_with_the_header(self) -> None:
        """What stands behind the header belongs to TLS and not to us."""

        def script(client: Client) -> bytes:
            tls = InOneSegment(client)
            tls.handshake(version2(*ENDS))
            return tls.say(b"") + tls.say(b"NOOP\r\n")

        assert codes(await self.visit(TlsMode.IMPLICIT, script)) == ["220", "250 2.0.0"]

    async def test_who_leaves_within_the_header_is_told_and_forgotten(self) -> None:
        """A transport that is lost does not say its addresses any more: the place at the door stayed taken for ever."""
        told: list[tuple[str, str]] = []

        def script(client: Client) -> None:
            self.guests.factory.on_bad_header = lambda peer, reason: told.append((peer.client, reason))
            client.socket.sendall(version1(*ENDS)[:9])

        await self.visit(TlsMode.IMPLICIT, script)
        while not told or len(self.guests.factory.door):
            await deferLater(reactor, 0.01, lambda: None)
        assert told == [("127.0.0.1", "the PROXY header is cut short")]

    async def test_a_header_within_tls_is_none(self) -> None:
        """A handshake is no header: the connection ends without a word, and nobody was met."""

        def script(client: Client) -> str:
            try:
                client.start_tls()
            except (ssl.SSLError, ConnectionError) as error:
                return type(error).__name__
            return "TLS"

        assert await self.visit(TlsMode.IMPLICIT, script) != "TLS"
        assert self.peers == []

    async def test_starttls_behind_a_header(self) -> None:
        """The handshake begins on the transport that the header came on."""

        def script(client: Client) -> bytes:
            client.socket.sendall(version1(*ENDS))
            said = client.reply() + client.say(b"EHLO c.test\r\n") + client.say(b"STARTTLS\r\n")
            client.start_tls()
            return said + client.say(b"EHLO c.test\r\n") + client.say(b"QUIT\r\n")

        said = codes(await self.visit(TlsMode.STARTTLS, script))
        assert said == ["220", "250", "220 2.0.0", "250", "221 2.0.0"]
        assert self.peers[0].client == "192.0.2.1" and self.peers[0].tls.startswith("TLSv1.")

    async def test_starttls_over_lmtp(self) -> None:
        """As over SMTP (RFC 2033 §4.1): LHLO is forgotten by the handshake, and said again after it."""

        def script(client: Client) -> bytes:
            client.socket.sendall(version1(*ENDS))
            said = client.reply() + client.say(b"LHLO c.test\r\n") + client.say(b"STARTTLS\r\n")
            client.start_tls()
            said += client.say(b"MAIL FROM:<>\r\n") + client.say(b"LHLO c.test\r\n")
            client.socket.sendall(b"MAIL FROM:<>\r\n" + b"RCPT TO:<c@d.test>\r\n" * 2 + b"BDAT 3 LAST\r\nx\r\nQUIT\r\n")
            return said + client.rest()

        said = codes(await self.visit(TlsMode.STARTTLS, script, profile=Profile.LMTP))
        assert said[:5] == ["220", "250", "220 2.0.0", "503 5.5.1", "250"]
        assert said[5:] == ["250 2.1.0", "250 2.1.5", "250 2.1.5", "250 2.0.0", "250 2.0.0", "221 2.0.0"]

    async def test_starttls_after_xclient(self) -> None:
        """The client stays who it is, and its login is forgotten like all that was said in clear (RFC 3207 §4.2)."""

        def script(client: Client) -> bytes:
            client.socket.sendall(version1("127.0.0.5", 1025, "127.0.0.1"))
            said = client.reply() + client.say(b"EHLO p.test\r\n") + client.say(b"XCLIENT ADDR=192.0.2.1 LOGIN=u\r\n")
            said += client.say(b"EHLO c.test\r\n") + client.say(b"STARTTLS\r\n")
            client.start_tls()
            return said + client.say(b"EHLO c.test\r\n") + client.say(b"QUIT\r\n")

        said = codes(await self.visit(TlsMode.STARTTLS, script, xclient=LOOPBACK))
        assert said == ["220", "250", "220", "250", "220 2.0.0", "250", "221 2.0.0"]
        peer = self.peers[-1]
        assert (peer.client, peer.proxy, peer.account, peer.known) == ("192.0.2.1", "127.0.0.5", "", True)
        assert peer.tls.startswith("TLSv1.") and peer.certificate == ""
