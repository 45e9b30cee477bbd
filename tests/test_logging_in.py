"""Logging in from a real socket to a stored message: reception, accounts, counts and the mechanisms of real clients."""

from __future__ import annotations

import base64
import os
import re
import shutil
import smtplib
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from attrs import evolve
from OpenSSL import SSL
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from relaymta import events
from relaymta.admin.logline import text_renderer
from relaymta.config import Duration, Size
from relaymta.directory.account import Account
from relaymta.mail.address import Address
from relaymta.mail.queueid import IdMaker
from relaymta.policy.bruteforce import SCHEMA, BruteForce
from relaymta.policy.logins import Logins
from relaymta.policy.pipeline import Pipeline
from relaymta.policy.relaying import Relaying
from relaymta.policy.settings import AuthSettings, RelaySettings
from relaymta.queue.manager import Manager
from relaymta.queue.settings import Settings
from relaymta.queue.story import decode_envelope
from relaymta.reception import Manners, Reception
from relaymta.smtp.listener import RelayFactory
from relaymta.smtp.settings import AuthMode, ListenerSettings, TlsMode
from relaymta.store.state import State
from tests.queue.memory_spool import MemorySpool
from tests.smtp.accounts import ALICE, SECRET, TOKEN, Accounts, ScramClient, accounts, b64, plain
from tests.smtp.certificates import server_context

reactor: Any = installed_reactor
PATIENCE = 60.0
BOB = "bob@example.org"  # may not relay
CAROL, ASCII = "carol@example.org", "carols-own"  # smtplib knows no other letters
QUICK = AuthSettings(offences=4, offences_per_account=3, delay=Duration(0.01), delay_max=Duration(0.02))


class Estate:
    """A listener with all that stands behind it but the way out. `told` are the events."""

    def __init__(self, folder: str, directory: Accounts, **settings: Any) -> None:
        self.told: list[events.Event] = []
        self.bugs: list[str] = []
        self.state = State(os.path.join(folder, "auth.sqlite"), SCHEMA, reactor.callFromThread)
        self.guard = BruteForce(self.state, QUICK, reactor.seconds)
        relaying = Relaying(RelaySettings((IPv4Network("192.0.2.0/24"),), ("ours.example",)))
        logins = Logins(directory, self.guard, reactor, self.told.append, relaying.trusts)
        self.spool = MemorySpool(reactor)
        ids = IdMaker(reactor.seconds)
        self.manager = Manager(self.spool, reactor, Settings(min_free=Size(0)), ids, lambda: 0.5)
        postmaster = Address("postmaster", "relay.test")
        manners = Manners("relay.test", postmaster, relaying, Pipeline([relaying]), 4096, logins)
        self.reception = Reception(manners, self.manager, reactor.seconds, self.told.append)
        self.factory = RelayFactory(
            ListenerSettings(**{"name": "in", "tls": TlsMode.STARTTLS, "auth": AuthMode.REQUIRED, **settings}),
            "relay.test",
            self.reception.handler,
            reactor,
            ids.next,
            on_bug=lambda where, trace: self.bugs.append(f"{where}\n{trace}"),
            tls_context=server_context(),
            directory=directory,
        )

    def of(self, kind: type[events.Event]) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.told if isinstance(event, kind)]

    def stored(self) -> list[Any]:
        """Everything on the shelf."""
        return list(self.spool.shelf.values())


def insecure() -> ssl.SSLContext:
    """A client that does not look at the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class LoggingIn(TestCase):
    """One listener with two accounts, one of which may not relay."""

    timeout = 2 * PATIENCE

    async def open(self, **settings: Any) -> tuple[Estate, int]:
        """The estate and its port."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        directory = accounts(
            passwords={ALICE: SECRET, BOB: "bob's own", CAROL: ASCII},
            rights={BOB: Account(BOB, relay=False)},
            tokens={TOKEN: ALICE},
        )
        estate = Estate(folder, directory, **settings)
        await estate.manager.open()
        port = reactor.listenTCP(0, estate.factory, interface="127.0.0.1")

        async def close() -> None:
            await maybeDeferred(port.stopListening)
            await estate.factory.drain(0.1)
            await estate.manager.close()
            estate.state.close()

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        return estate, port.getHost().port

    async def visit(self, script: Callable[[smtplib.SMTP], Any], **settings: Any) -> tuple[Estate, Any]:
        """What a script of smtplib's finds out, in a thread."""
        estate, port = await self.open(**settings)

        def visit() -> Any:
            with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
                client.starttls(context=insecure())
                return script(client)

        found = await deferToThread(visit)
        self.assertEqual(estate.bugs, [])
        return estate, found

    async def test_smtplib_logs_in_and_relays(self) -> None:
        """PLAIN by a client of others, over TLS; the message knows who sent it, and how (RFC 3848)."""

        def script(client: smtplib.SMTP) -> None:
            client.login(CAROL, ASCII)
            client.sendmail(CAROL, ["far@else.example"], b"Subject: x\r\n\r\nx\r\n")

        estate, _ = await self.visit(script)
        [kept] = estate.stored()
        self.assertIn(b"with ESMTPSA id ", kept.content)
        self.assertNotIn(CAROL.encode(), kept.content)
        self.assertEqual(decode_envelope(kept.head).origin.account, CAROL)
        [login] = estate.of(events.Authenticated)
        self.assertEqual((login.account, login.mechanism, login.client), (CAROL, "PLAIN", "127.0.0.1"))
        [accepted] = estate.of(events.MessageAccepted)
        self.assertEqual(accepted.session, login.session)

    async def test_smtplib_by_each_mechanism(self) -> None:
        """LOGIN, and tokens as programs send them."""

        def script(client: smtplib.SMTP) -> list[int]:
            client.ehlo()
            client.user, client.password = CAROL, ASCII  # type: ignore[attr-defined]
            return [client.auth("LOGIN", client.auth_login)[0], client.docmd("AUTH", "PLAIN AA==")[0]]

        _, said = await self.visit(script)
        self.assertEqual(said, [235, 503])
        token = f"user={ALICE}\x01auth=Bearer {TOKEN}\x01\x01"
        estate, said = await self.visit(lambda client: client.ehlo() and client.auth("XOAUTH2", lambda _=None: token))
        self.assertEqual(said[0], 235)
        self.assertEqual(estate.of(events.Authenticated)[0].mechanism, "XOAUTH2")

    async def test_rights_decide_about_relaying(self) -> None:
        """Who may not relay reaches our own domains alone; without a log-in nobody gets beyond MAIL here."""

        def script(client: smtplib.SMTP) -> list[int]:
            client.ehlo()
            said = [client.mail(BOB)[0]]
            client.login(BOB, "bob's own")
            said += [client.mail(BOB)[0], client.rcpt("far@else.example")[0], client.rcpt("near@ours.example")[0]]
            return said

        estate, said = await self.visit(script)
        self.assertEqual(said, [530, 250, 550, 250])

    async def test_guesses_are_refused(self) -> None:
        """Three guesses at one account, one at another: 535, 454, 421; fail2ban's filter finds who is refused."""

        def script(client: smtplib.SMTP) -> list[int]:
            client.ehlo()
            said = []
            for name, guess in ((ALICE, "a"), (ALICE, "b"), (ALICE, "c"), (ALICE, SECRET), (BOB, "d"), (BOB, "e")):
                said.append(client.docmd("AUTH", "PLAIN " + plain(name, guess).decode())[0])
            return said

        estate, said = await self.visit(script)
        self.assertEqual(said, [535, 535, 535, 454, 535, 421])
        failures = estate.of(events.AuthenticationFailed)
        self.assertEqual([one.failures for one in failures], [1, 2, 3, 0, 4, 0])
        write = text_renderer(events.AuthenticationFailed)
        pattern = fail2ban_filter()
        forged = [evolve(one, name='x" mechanism=X reason="too many failures" \n') for one in failures]
        for number, one in enumerate([*failures, *forged]):
            found = pattern.match(f"2026-11-23T20:00:00.123Z {write(one)}")
            self.assertEqual(found and found["HOST"], "127.0.0.1" if number in (5, 11) else None)

    async def test_no_event_holds_a_secret(self) -> None:
        """Whatever was shown, well or badly, is in no event, no bug and no log line."""
        secrets = [SECRET, TOKEN, "hidden-guess"]
        shown = [*secrets, *(b64(one).decode().rstrip("=")[:-1] for one in secrets), plain().decode()]

        def script(client: smtplib.SMTP) -> None:
            client.ehlo()
            client.send("AUTH LOGIN\r\n" + b64(ALICE).decode() + "\r\n" + b64("hidden-guess").decode() + "\r\n")
            for _ in range(3):
                client.getreply()
            for argument in ("CRAM-MD5", "PLAIN " + plain().decode() + "!", "PLAIN " + plain(authzid="x").decode()):
                client.docmd("AUTH", argument)
            client.docmd(b64(SECRET).decode())
            client.docmd("AUTH", "OAUTHBEARER " + b64("n,,\x01auth=Bearer hidden-guess\x01\x01").decode())
            client.docmd("AQ==")
            client.docmd("AUTH", "PLAIN " + plain().decode())
            client.docmd("AUTH", "PLAIN " + plain().decode())

        estate, _ = await self.visit(script)
        told = "\n".join([*map(repr, estate.told), *(text_renderer(type(one))(one) for one in estate.told)])
        self.assertTrue(estate.of(events.Authenticated) and len(estate.of(events.AuthenticationFailed)) == 2)
        self.assertEqual([one for one in shown if one in told], [])

    async def test_scram_plus_over_tls(self) -> None:
        """RFC 9266 and RFC 5929: bound to this very channel, and refused when bound to another."""
        estate, port = await self.open()
        for version, kind, spoil, reply in (
            (SSL.TLS1_3_VERSION, "tls-exporter", False, b"235"),
            (SSL.TLS1_3_VERSION, "tls-server-end-point", False, b"235"),
            (SSL.TLS1_2_VERSION, "tls-server-end-point", False, b"235"),
            (SSL.TLS1_2_VERSION, "tls-exporter", False, b"535"),
            (SSL.TLS1_3_VERSION, "tls-exporter", True, b"535"),
            (SSL.TLS1_3_VERSION, "tls-unique", False, b"535"),
        ):
            said = await deferToThread(_scram_plus, port, version, kind, spoil)
            self.assertEqual(said[:3], reply, (version, kind))
        self.assertEqual({one.mechanism for one in estate.of(events.Authenticated)}, {"SCRAM-SHA-256-PLUS"})
        self.assertEqual(estate.bugs, [])

    async def test_swaks_logs_in(self) -> None:
        """swaks --tls --auth, by PLAIN and LOGIN, rightly and wrongly; in clear it finds no AUTH."""
        program = shutil.which("swaks")
        if program is None:
            raise SkipTest("swaks is not installed (apt-get install swaks)")
        estate, port = await self.open()

        def swaks(*words: str) -> subprocess.CompletedProcess[str]:
            where = [program, "--server", "127.0.0.1", "--port", str(port), "--to", "far@else.example"]
            return subprocess.run(
                [*where, "--from", ALICE, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
            )  # fmt: skip

        for mechanism in ("PLAIN", "LOGIN"):
            user = ("--auth", mechanism, "--auth-user", ALICE, "--auth-password")
            right = await deferToThread(swaks, "--tls", *user, SECRET)
            self.assertEqual(right.returncode, 0, right.stdout + right.stderr)
            self.assertIn("235 2.7.0", right.stdout)
            wrong = await deferToThread(swaks, "--tls", *user, "wrong")
            self.assertEqual(wrong.returncode, 28)
            self.assertIn("535 5.7.8", wrong.stdout)
            clear = await deferToThread(swaks, *user, SECRET)
            self.assertEqual(clear.returncode, 28)
            self.assertNotIn("AUTH", clear.stdout)
        self.assertEqual(len(estate.stored()), 2)


def fail2ban_filter() -> Any:
    """The filter of relaymta.toml(5), with <HOST> as fail2ban reads it."""
    page = (Path(__file__).resolve().parent.parent / "man" / "relaymta.toml.5").read_text()
    [line] = [line for line in page.splitlines() if line.startswith("failregex = ")]
    pattern = line.removeprefix("failregex = ").replace("\\e", "\\")
    return re.compile(pattern.replace("<HOST>", r"(?P<HOST>[0-9a-fA-F.:]+)"))


class _Channel:
    """Lines over a TLS connection of OpenSSL's, blocking."""

    def __init__(self, port: int, version: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._socket.settimeout(None)  # OpenSSL's connection wants a blocking one
        self._read: Callable[[int], bytes] = self._socket.recv
        self.reply()
        self._socket.sendall(b"EHLO x\r\n")
        self.reply()
        self._socket.sendall(b"STARTTLS\r\n")
        self.reply()
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(version)
        self.tls = SSL.Connection(context, self._socket)
        self.tls.set_connect_state()
        self.tls.do_handshake()
        self._read = self.tls.recv

    def reply(self) -> bytes:
        """One reply, its last line."""
        line = b""
        while line[3:4] != b" ":
            line = b""
            while not line.endswith(b"\r\n"):
                line += self._read(1)
        return line

    def say(self, line: bytes) -> bytes:
        """Send a line under TLS, and read the reply."""
        self.tls.sendall(line + b"\r\n")
        return self.reply()

    def close(self) -> None:
        """At once."""
        self._socket.close()


def _scram_plus(port: int, version: int, kind: str, spoil: bool) -> bytes:
    channel = _Channel(port, version)
    data = b"?"
    if kind == "tls-exporter":
        data = channel.tls.export_keying_material(b"EXPORTER-Channel-Binding", 32)
    elif kind == "tls-server-end-point":
        certificate = channel.tls.get_peer_certificate()
        assert certificate is not None
        data = bytes.fromhex(certificate.digest("sha256").decode().replace(":", ""))
    client = ScramClient(gs2=f"p={kind},,", data=b"!" * 32 if spoil else data)
    try:
        assert b"SCRAM-SHA-256-PLUS" in channel.say(b"EHLO x")
        said = channel.say(b"AUTH SCRAM-SHA-256-PLUS " + b64(client.first))
        if said[:3] == b"334":
            said = channel.say(b64(client.last(_decoded(said))))
        if said[:3] == b"334":
            assert client.knows(_decoded(said))
            said = channel.say(b"")
        return said
    finally:
        channel.close()


def _decoded(reply: bytes) -> bytes:
    return base64.b64decode(reply[4:-2], validate=True)
