"""Log-ins over real sockets: TLS that is verified, tokens from a real authorization server, a 535 in the middle."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor as the_reactor
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.server import Site

from relaymta.config import Duration
from relaymta.delivery.account import AccountSettings, GrantKind, OauthSettings
from relaymta.delivery.attempt import Batch, Deliveries
from relaymta.delivery.settings import Settings
from relaymta.events import Event, LoginRefused
from relaymta.mail.content import MemoryContent
from relaymta.mail.outcome import Fate, Outcome
from relaymta.routing.mx import Host
from relaymta.routing.route import Hop, TlsLevel
from tests.delivery.certificates import authority
from tests.delivery.loopback import Session
from tests.delivery.network import Finder, route_to
from tests.net.tokenserver import TokenServer
from tests.smtp.auth_server import AuthServer
from tests.smtp.scripted import BODY, envelope

reactor: Any = the_reactor
HOST = "smarthost-login.test"


class StartTlsServer(AuthServer):
    """Offers AUTH under TLS alone, as it should be."""

    def _command(self, line: str) -> bytes:
        said = super()._command(line)
        if line == "STARTTLS":
            self.offers = [f"AUTH {self.mechanisms}", "STARTTLS"]
        return said

    def __attrs_post_init__(self) -> None:
        self.offers = ["STARTTLS"]


class LoginLoopback(TestCase):
    """One smarthost on 127.0.0.1, whose certificate an authority of this test's has signed."""

    timeout = 20

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relaymta-"))
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "ca.pem").write_bytes(authority().certificate.public_bytes(Encoding.PEM))
        os.putenv("SSL_CERT_FILE", str(self.folder / "ca.pem"))  # OpenSSL's own; what the system trusts
        self.addCleanup(os.unsetenv, "SSL_CERT_FILE")
        (self.folder / "secret").write_text("pässword\n")
        self.servers: list[AuthServer] = []
        self.events: list[Event] = []
        self.finder = Finder({})

    def listen(self, **more: Any) -> None:
        """The smarthost."""

        def build(_: Any) -> Session:
            self.servers.append(StartTlsServer(**more))
            return Session(self.servers[-1], authority().server(HOST), "")

        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = build  # type: ignore[method-assign,assignment]
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.finder.hosts[HOST] = (Host(HOST, port.getHost().port, 0, ("127.0.0.1",)),)

    def tokens(self) -> TokenServer:
        """The authorization server."""
        server = TokenServer()
        site = Site(server)
        site.noisy = False
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        oauth = OauthSettings(
            f"http://127.0.0.1:{port.getHost().port}/token",
            GrantKind.CLIENT_CREDENTIALS,
            "client",
            str(self.folder / "secret"),
        )
        self.begin(AccountSettings("smarthost", "relay", oauth=oauth))
        return server

    async def tearDown(self) -> None:  # type: ignore[override]
        """Let the last QUIT be answered."""
        await self.deliveries.close(1.0)
        for _ in range(400):
            if not [one for one in reactor.getDelayedCalls() if "RelaySender" in str(one)]:
                return
            await deferLater(reactor, 0.005)

    def begin(self, account: AccountSettings) -> None:
        """Deliveries with that account."""
        self.deliveries = Deliveries(
            reactor,
            self.finder,
            Settings(ehlo_timeout=Duration(5.0)),
            hostname="us.test",
            tell=self.events.append,
            accounts=(account,),
        )

    async def deliver(self, tls: TlsLevel = TlsLevel.VERIFY) -> Outcome:
        """One message by way of the smarthost."""
        hop = Hop(HOST, mx=False, configured=True)
        route = route_to(hops=(hop,), account="smarthost", tls=tls)
        content = MemoryContent(BODY)
        [outcome] = await self.deliveries.attempt(Batch("Q1", envelope("a@b.test"), content, (0,), route, route.lane))
        return outcome

    async def test_a_log_in_over_verified_tls(self) -> None:
        """The certificate is checked, then SCRAM; the outcome knows of the TLS."""
        self.listen()
        self.begin(AccountSettings("smarthost", "relay", str(self.folder / "secret")))
        outcome = await self.deliver()
        assert outcome.fate is Fate.RELAYED and outcome.tls, outcome
        assert self.servers[0].logins == [("SCRAM-SHA-256", "relay")]

    async def test_no_log_in_over_tls_that_proves_nothing(self) -> None:
        """`encrypt` takes any certificate, hence no account goes over it."""
        self.listen()
        self.begin(AccountSettings("smarthost", "relay", str(self.folder / "secret")))
        outcome = await self.deliver(TlsLevel.ENCRYPT)
        assert outcome.status == "4.7.0" and not self.servers

    async def test_nobody_with_another_certificate_gets_the_password(self) -> None:
        """The handshake fails before AUTH is said."""
        self.listen()
        self.begin(AccountSettings("smarthost", "relay", str(self.folder / "secret")))
        os.unsetenv("SSL_CERT_FILE")
        [host] = self.finder.hosts[HOST]  # type: ignore[misc]
        self.finder.hosts[HOST] = (Host("other-login.test", host.port, 0, host.addresses, secure=True),)
        outcome = await self.deliver()
        assert outcome.status == "4.7.5" and not self.servers[0].tries

    async def test_tokens_are_fetched_kept_and_replaced(self) -> None:
        """One token serves many sessions; when it is refused it is replaced once, and no message waits."""
        tokens = self.tokens()
        self.listen(mechanisms="XOAUTH2 PLAIN")
        assert (await self.deliver()).fate is Fate.RELAYED
        self.deliveries._pool.close()  # the next message needs a session of its own
        self.servers.clear()
        self.listen(mechanisms="XOAUTH2", token="tok-2")
        assert (await self.deliver()).fate is Fate.RELAYED
        assert len(tokens.forms) == 2 and [one.tries for one in self.servers] == [["XOAUTH2"]] * 2
        assert [len(one.logins) for one in self.servers] == [0, 1] and not self.events

    async def test_a_token_that_is_refused_twice_is_a_refusal(self) -> None:
        """Twice and no more; then the back-off, and neither server is asked."""
        tokens = self.tokens()
        self.listen(mechanisms="OAUTHBEARER", token="another")
        for _ in range(2):
            outcome = await self.deliver()
            assert (outcome.fate, outcome.status) == (Fate.DEFERRED, "4.7.8")
        assert len(self.servers) == 2 and sum(isinstance(one, LoginRefused) for one in self.events) == 1
        assert "tok-" not in repr(self.events) and len(tokens.forms) <= 3

    async def test_a_token_that_comes_again_is_not_tried_again(self) -> None:
        """The same token would be refused again."""
        tokens = self.tokens()
        tokens.answer = lambda _: (200, {"access_token": "same", "token_type": "bearer"})
        self.listen(mechanisms="XOAUTH2")
        assert (await self.deliver()).status == "4.7.8" and len(self.servers) == 1

    async def test_no_token_defers(self) -> None:
        """The authorization server's word is the reason; the smarthost is not called."""
        tokens = self.tokens()
        tokens.answer = lambda _: (401, {"error": "invalid_client"})
        self.listen(mechanisms="XOAUTH2")
        outcome = await self.deliver()
        assert outcome.status == "4.7.0" and "answered 401 invalid_client" in outcome.text and not self.servers

    async def test_an_account_by_token_shows_no_password(self) -> None:
        """PLAIN is never said with a token."""
        self.tokens()
        self.listen(mechanisms="PLAIN LOGIN SCRAM-SHA-256")
        outcome = await self.deliver()
        assert "no mechanism in common" in outcome.text and not self.servers[0].tries
