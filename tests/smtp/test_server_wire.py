"""The server on real sockets of this machine: TLS, closing, backpressure, other people's clients."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase
from zope.interface import implementer

from relaymta.net.eager import EagerServer
from relaymta.smtp.settings import TlsMode
from tests.smtp.certificates import server_context
from tests.smtp.guests import House, codes, house

ENVELOPE = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
reactor: Any = installed_reactor
PATIENCE = 20.0  # seconds before a test is given up


@implementer(IOpenSSLServerConnectionCreator)
class NoTls:
    """A certificate that OpenSSL does not take."""

    def serverConnectionForTLS(self, tlsProtocol: object) -> Any:
        """It says so as late as here."""
        raise ValueError("ee key too small")


class Client:
    """A client that blocks, for a thread of its own."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)

    def reply(self) -> bytes:
        """One reply, all its lines."""
        reply = line = b""
        while line[3:4] != b" ":
            line = b""
            while not line.endswith(b"\r\n"):
                octet = self.socket.recv(1)
                if not octet:
                    return reply + line
                line += octet
            reply += line
        return reply

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        rest = b""
        while octets := self.socket.recv(65536):
            rest += octets
        return rest

    def say(self, octets: bytes) -> bytes:
        """Send, and read one reply."""
        self.socket.sendall(octets)
        return self.reply()

    def start_tls(self) -> None:
        """Handshake without looking at the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)


class OnTheWire(TestCase):
    """A factory that listens, a client in a thread."""

    timeout = PATIENCE

    def listen(self, guests: House) -> int:
        guests.factory.clock = reactor
        port = reactor.listenTCP(0, guests.factory, interface="127.0.0.1")
        port.transport = EagerServer

        async def close() -> None:
            await maybeDeferred(port.stopListening)
            await guests.factory.drain(0.1)

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        return int(port.getHost().port)

    def visit(self, guests: House, script: Callable[[Client], Any]) -> Deferred[Any]:
        port = self.listen(guests)

        def visit() -> Any:
            client = Client(port)
            try:
                return script(client)
            finally:
                client.socket.close()

        return deferToThread(visit)

    async def test_crit_1_commands_behind_starttls_are_not_obeyed(self) -> None:
        """CRIT 1, CVE-2011-0411: what follows STARTTLS in its segment is refused and the connection closed."""

        def script(client: Client) -> bytes:
            client.reply()
            client.say(b"EHLO x\r\n")
            client.socket.sendall(b"STARTTLS\r\nMAIL FROM:<injected@evil.test>\r\n")
            return client.rest()

        guests = house(tls=TlsMode.STARTTLS, context=server_context())
        self.assertEqual(codes(await self.visit(guests, script)), ["554 5.5.1"])
        self.assertNotIn("mail", guests.notebook.names())

    async def test_crit_1_half_a_command_behind_starttls(self) -> None:
        """CRIT 1: half a line in clear must not become the beginning of a line under TLS."""

        def script(client: Client) -> bytes:
            client.reply()
            client.say(b"EHLO x\r\n")
            client.socket.sendall(b"STARTTLS\r\nNOO")
            return client.rest()

        guests = house(tls=TlsMode.STARTTLS, context=server_context())
        self.assertEqual(codes(await self.visit(guests, script)), ["554 5.5.1"])

    async def test_crit_2_starttls_forgets_what_was_said_in_clear(self) -> None:
        """CRIT 2: EHLO and MAIL from before the handshake do not count after it (RFC 3207 §4.2)."""

        def script(client: Client) -> list[bytes]:
            client.reply()
            said = [client.say(b"EHLO x\r\n"), client.say(b"MAIL FROM:<a@b.test>\r\n"), client.say(b"STARTTLS\r\n")]
            client.start_tls()
            said.append(client.say(b"RCPT TO:<c@d.test>\r\n"))
            said.append(client.say(b"EHLO x\r\n"))
            said.append(client.say(b"RCPT TO:<c@d.test>\r\n"))
            said.append(client.say(b"STARTTLS\r\n"))
            said.append(client.say(ENVELOPE) + client.reply() + client.say(b"DATA\r\n") + client.say(b"x\r\n.\r\n"))
            client.socket.sendall(b"QUIT\r\n")
            return [*said, client.rest()]

        guests = house(tls=TlsMode.STARTTLS, context=server_context())
        facts: list[str] = []
        guests.factory.on_tls = lambda peer: facts.append(peer.tls)
        clear, _, ready, early, tls, nothing, twice, message, bye = await self.visit(guests, script)
        self.assertIn(b"STARTTLS", clear)
        self.assertNotIn(b"STARTTLS", tls)
        self.assertEqual(codes(ready + early + nothing + twice), ["220 2.0.0", "503 5.5.1", "503 5.5.1", "503 5.5.1"])
        self.assertEqual(codes(message + bye), ["250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "221 2.0.0"])
        self.assertRegex(facts[0], r"^TLSv1\.[23] \S+ \d+$")

    async def test_requiretls_is_for_sessions_with_tls(self) -> None:
        """RFC 8689 §2: neither offered nor taken in clear, both once TLS is on."""

        def script(client: Client) -> list[bytes]:
            client.reply()
            asked = b"MAIL FROM:<a@b.test> REQUIRETLS\r\n"
            said = [client.say(b"EHLO x\r\n"), client.say(asked), client.say(b"STARTTLS\r\n")]
            client.start_tls()
            return [*said, client.say(b"EHLO x\r\n"), client.say(asked)]

        guests = house(tls=TlsMode.STARTTLS, context=server_context())
        clear, refused, _, tls, taken = await self.visit(guests, script)
        self.assertNotIn(b"REQUIRETLS", clear)
        self.assertIn(b"\r\n250-REQUIRETLS\r\n", tls)
        self.assertEqual(codes(refused + taken), ["555 5.5.4", "250 2.1.0"])

    async def test_implicit_tls_greets_after_the_handshake(self) -> None:
        """On a port for implicit TLS nothing is said in clear (RFC 8314 §3.3)."""

        def script(client: Client) -> bytes:
            client.start_tls()
            return client.reply() + client.say(b"EHLO x\r\n") + client.say(b"QUIT\r\n") + client.rest()

        guests = house(tls=TlsMode.IMPLICIT, context=server_context())
        said = await self.visit(guests, script)
        self.assertEqual(codes(said), ["220", "250", "221 2.0.0"])
        self.assertNotIn(b"STARTTLS", said)

    async def test_clear_text_at_implicit_tls_is_closed(self) -> None:
        """A client that speaks SMTP in clear there gets no answer in SMTP."""

        def script(client: Client) -> bytes:
            client.socket.sendall(b"EHLO x\r\n")
            return client.rest()

        guests = house(tls=TlsMode.IMPLICIT, context=server_context())
        said = await self.visit(guests, script)
        self.assertNotIn(b"220", said)
        self.assertEqual(guests.notebook.log, [])

    async def test_a_handshake_that_never_ends(self) -> None:
        """A client that sends nothing after STARTTLS is aborted in time."""

        def script(client: Client) -> bytes:
            client.reply()
            client.say(b"EHLO x\r\n")
            client.say(b"STARTTLS\r\n")
            try:
                return client.rest()
            except ConnectionResetError:
                return b"reset"

        guests = house(tls=TlsMode.STARTTLS, context=server_context(), timeouts={"handshake": 0.1})
        self.assertIn(await self.visit(guests, script), (b"reset", b""))

    async def test_tls_that_cannot_be_made_ends_the_session(self) -> None:
        """Twisted's layer fails over its own lack of a connection, and the place at the door stayed taken for ever."""

        def script(client: Client) -> None:
            with contextlib.suppress(ConnectionResetError):
                client.reply()
                client.say(b"EHLO x\r\n")
                client.say(b"STARTTLS\r\n")
                client.rest()

        guests = house(tls=TlsMode.STARTTLS, context=NoTls())
        failed: list[str] = []
        guests.factory.on_tls_failed = lambda peer, reason: failed.append(reason)
        await self.visit(guests, script)
        while len(guests.factory.door):
            await deferLater(reactor, 0.01, lambda: None)
        self.assertEqual((guests.notebook.bugs, failed), (["smtp.server tls"], ["aborted"]))

    async def test_tls_that_is_turned_off_is_kept_for_who_was_offered_it(self) -> None:
        """A reload is for sessions to come: STARTTLS behind it was a bug of ours, and the session was cut."""
        guests = house(tls=TlsMode.STARTTLS, context=server_context())

        def script(client: Client) -> bytes:
            client.reply()
            client.say(b"EHLO x\r\n")
            guests.factory.configure(evolve(guests.settings, tls=TlsMode.NONE))
            client.say(b"STARTTLS\r\n")
            client.start_tls()
            return client.say(b"EHLO x\r\n")

        self.assertEqual(codes(await self.visit(guests, script)), ["250"])
        self.assertEqual(guests.notebook.bugs, [])

    async def test_however_a_connection_dies_its_place_is_free(self) -> None:
        """In every phase, closed and reset: what was counted at the door is given back."""
        hello = [b"EHLO x\r\n"]
        phases: list[list[bytes]] = [
            [],
            [b"EHL"],
            hello,
            [*hello, b"STARTTLS\r\n"],
            [*hello, b"STARTTLS\r\n", b"\x16\x03\x01\x02\x00\x01\x00"],
            [*hello, b"STARTTLS\r\n", b"NOOP\r\n"],
            [*hello, ENVELOPE + b"DATA\r\n", b"text"],
            [*hello, ENVELOPE + b"BDAT 9 LAST\r\n", b"text"],
            [*hello, b"QUIT\r\n"],
        ]
        guests = house(tls=TlsMode.STARTTLS, context=server_context())
        port = self.listen(guests)

        def visit(phase: list[bytes], reset: bool) -> None:
            client = Client(port)
            client.reply()
            for octets in phase[:-1]:
                client.say(octets)
            client.socket.sendall(b"".join(phase[-1:]))
            if reset:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.socket.close()

        for phase in phases:
            for reset in (False, True):
                await deferToThread(visit, phase, reset)
                while len(guests.factory.door):
                    await deferLater(reactor, 0.01, lambda: None)
        self.assertEqual(guests.notebook.bugs, [])
        self.assertEqual(guests.notebook.messages, [])

    async def test_clear_text_in_place_of_a_handshake(self) -> None:
        """What is sent in clear behind the 220 is no command and ends the session; the reason is told."""

        def script(client: Client) -> bytes:
            client.reply()
            client.say(b"EHLO x\r\n")
            client.say(b"STARTTLS\r\n")
            client.socket.sendall(b"MAIL FROM:<injected@evil.test>\r\nRCPT TO:<c@d.test>\r\n")
            return client.rest()

        guests = house(tls=TlsMode.STARTTLS, context=server_context())
        told: list[str] = []
        guests.factory.on_tls_failed = lambda peer, reason: told.append(reason)
        said = await self.visit(guests, script)
        self.assertNotIn(b"250", said)
        self.assertNotIn("mail", guests.notebook.names())
        self.assertEqual(told, ["TLS: wrong version number"])
        self.assertEqual(guests.notebook.log[-1], ("closed", told[0]))

    async def test_what_stands_before_starttls_in_its_segment_is_answered_and_forgotten(self) -> None:
        """EHLO, MAIL and STARTTLS in one segment: each has its reply in clear, and nothing of it counts under TLS."""

        def script(client: Client) -> list[str]:
            client.reply()
            client.socket.sendall(b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nSTARTTLS\r\n")
            said = codes(client.reply() + client.reply() + client.reply())
            client.start_tls()
            for line in (b"RCPT TO:<c@d.test>", b"MAIL FROM:<a@b.test>", b"EHLO x", b"STARTTLS", b"QUIT"):
                said += codes(client.say(line + b"\r\n"))
            return said

        guests = house(tls=TlsMode.REQUIRED, context=server_context())
        self.assertEqual(
            await self.visit(guests, script),
            ["250", "530 5.7.0", "220 2.0.0", "503 5.5.1", "503 5.5.1", "250", "503 5.5.1", "221 2.0.0"],
        )
        guests = house(tls=TlsMode.STARTTLS, context=server_context())
        self.assertEqual(
            await self.visit(guests, script),
            ["250", "250 2.1.0", "220 2.0.0", "503 5.5.1", "503 5.5.1", "250", "503 5.5.1", "221 2.0.0"],
        )

    async def test_silence_at_implicit_tls_is_told(self) -> None:
        """A client that never begins its handshake is cut in time, and the operator can see why."""

        def script(client: Client) -> bytes:
            try:
                return client.rest()
            except ConnectionResetError:
                return b""

        guests = house(tls=TlsMode.IMPLICIT, context=server_context(), timeouts={"handshake": 0.1})
        told: list[str] = []
        guests.factory.on_tls_failed = lambda peer, reason: told.append(reason)
        self.assertEqual(await self.visit(guests, script), b"")
        self.assertEqual(told, ["the TLS handshake took too long"])

    async def test_facts_of_the_handshake_reach_the_handler(self) -> None:
        """Server name and client certificate are known before the first decision under TLS."""

        def script(client: Client) -> bytes:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client.socket = context.wrap_socket(client.socket, server_hostname="relay.test")
            return client.reply() + client.say(b"QUIT\r\n")

        guests = house(tls=TlsMode.IMPLICIT, context=server_context())
        peers: list[Any] = []
        guests.factory.on_tls = peers.append
        guests.factory.certificate_of = lambda connection: (connection.get_protocol_version_name(), ("app.test",))
        self.assertEqual(codes(await self.visit(guests, script)), ["220", "221 2.0.0"])
        self.assertEqual(peers[0].server_name, "relay.test")
        self.assertEqual((peers[0].certificate[:5], peers[0].certificate_names), ("TLSv1", ("app.test",)))

    async def test_the_last_reply_reaches_a_client_that_still_sends(self) -> None:
        """Closing with octets unread would reset the connection and take the reply along."""

        def script(client: Client) -> bytes:
            client.reply()
            client.say(b"EHLO x\r\n")
            client.socket.sendall(ENVELOPE + b"DATA\r\na\nb\r\n.\r\n" + b"NOOP\r\n" * 20000)
            return client.rest()

        self.assertEqual(codes(await self.visit(house(), script)), ["250 2.1.0", "250 2.1.5", "354", "550 5.6.0"])

    async def test_a_client_that_reads_nothing_is_bounded(self) -> None:
        """Replies that nobody reads stop us from reading; neither grows (20,000 pipelined messages)."""
        guests = house()
        message = ENVELOPE + b"DATA\r\n.\r\n"

        def script(client: Client) -> int:
            client.reply()
            client.say(b"EHLO x\r\n")
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.socket.settimeout(1.0)
            sent = 0
            try:
                while sent < 40_000_000:
                    sent += client.socket.send(message * 1000)
            except TimeoutError:
                pass
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return sent

        sent = await self.visit(guests, script)
        self.assertLess(sent, 40_000_000)

    async def test_smtp_source(self) -> None:
        """Postfix's load generator: 500 messages over 5 sessions, new and reused, all whole."""
        program = shutil.which("smtp-source", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        if program is None:
            raise SkipTest("smtp-source is not installed (Debian: postfix)")
        guests = house()
        port = self.listen(guests)
        for reused in ([], ["-d"]):
            command = [program, *reused, "-s", "5", "-m", "250", "-l", "4096", f"127.0.0.1:{port}"]
            await deferToThread(subprocess.run, command, check=True, timeout=PATIENCE)
        self.assertEqual(len(guests.notebook.messages), 500)
        self.assertEqual({len(content) > 4000 for _, _, content in guests.notebook.messages}, {True})
        self.assertEqual(guests.notebook.bugs, [])
