"""Tokens, introspected by a real HTTP server on loopback, in clear and over TLS."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from attrs import evolve
from OpenSSL import SSL
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from relaymta.config import Duration
from relaymta.directory.account import Account
from relaymta.directory.credentials import BearerToken, DirectoryUnavailableError
from relaymta.directory.oauth import ANSWER_MAX, TOKEN_MAX, Introspection
from relaymta.directory.settings import OAuthSettings, UserSettings
from tests.delivery.certificates import authority
from tests.directory.certificates import certificates
from tests.directory.rig import AccountsCase, entry, write

Answer = Callable[[dict[str, str]], Any]


class Endpoint(Resource):
    """An issuer: `answer` gets the form and gives what is said, or (status, octets), or None for silence."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.answer: Answer = lambda _: {"active": False}
        self.asked: list[tuple[dict[str, str], dict[str, str]]] = []

    def render_POST(self, request: Any) -> Any:
        """RFC 7662 §2.1."""
        form = {key: values[0] for key, values in parse_qs(request.content.read().decode()).items()}
        raw = request.requestHeaders.getAllRawHeaders()
        headers = {key.decode().lower(): values[0].decode() for key, values in raw}
        self.asked.append((form, headers))
        said = self.answer(form)
        if said is None:
            return NOT_DONE_YET
        status, octets = said if isinstance(said, tuple) else (200, json.dumps(said).encode())
        request.setResponseCode(status)
        if status == 302:
            request.setHeader("Location", "/elsewhere")
        return octets


class TestTokens(AccountsCase):
    """OAUTHBEARER and XOAUTH2."""

    def setUp(self) -> None:
        """An issuer that knows the token "good"."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "secret").write_text("s3 cret&\n")
        self.endpoint = Endpoint()
        self.endpoint.answer = lambda form: (
            {"active": True, "username": "Shop@Example.org", "scope": "mail.send other", "aud": "relay"}
            if form["token"] == "good"
            else {"active": False}
        )
        self.port = reactor.listenTCP(0, Site(self.endpoint), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.settings = OAuthSettings(
            introspection_url=f"http://127.0.0.1:{self.port.getHost().port}/introspect",
            client_id="relay mta",
            client_secret_file=str(self.folder / "secret"),
        )

    def directory(self, settings: OAuthSettings | None = None, **more: Any) -> Any:
        """Accounts whose tokens this issuer knows."""
        return self.make(UserSettings(oauth=settings or self.settings, **more), self.folder)

    def token(self, accounts: Any, token: str, name: str = "") -> Deferred[Account]:
        """Log in by a token."""
        return self.enter(accounts, BearerToken(name, token))

    async def test_a_token_is_its_account(self) -> None:
        """The issuer says whose; what is asked, and who asks, is as RFC 7662 §2.1 and RFC 6749 §2.3.1 have it."""
        accounts = self.directory(evolve(self.settings, senders=("{name}",), relay=False))
        self.assertEqual(accounts.mechanisms, {"OAUTHBEARER", "XOAUTH2"})
        found = await self.token(accounts, "good", "SHOP@example.org")
        self.assertEqual(found, Account("shop@example.org", ("shop@example.org",), False))
        [(form, headers)] = self.endpoint.asked
        self.assertEqual(form, {"token": "good", "token_type_hint": "access_token"})
        pair = base64.b64decode(headers["authorization"].removeprefix("Basic "))
        self.assertEqual(pair, b"relay+mta:s3+cret%26")
        self.assertEqual(headers["accept"], "application/json")

    async def test_a_token_that_is_nobodys_is_a_no(self) -> None:
        """Not active, of another name, expired, not valid yet, without the scope or for somebody else."""
        accounts = self.directory()
        for token, name in (("bad", ""), ("good", "other"), ("", ""), ("x" * (TOKEN_MAX + 1), "")):
            await self.assertFailure(self.token(accounts, token, name), UnauthorizedLogin)
        now = reactor.seconds()
        good = {"active": True, "username": "shop"}
        for said in (
            {"username": "shop"},
            {**good, "active": "true"},
            {**good, "exp": now - 1},
            {**good, "nbf": now + 60},
            {**good, "username": "a b"},
        ):
            self.endpoint.answer = lambda _, said=said: said
            await self.assertFailure(self.token(accounts, "one"), UnauthorizedLogin)
        for settings in (evolve(self.settings, scope="mail.send"), evolve(self.settings, audience="relay")):
            accounts = self.directory(settings)
            for said in (good, {**good, "scope": "mail.sender", "aud": "relays"}, {**good, "aud": ["x"]}):
                self.endpoint.answer = lambda _, said=said: said
                await self.assertFailure(self.token(accounts, "one"), UnauthorizedLogin)
            self.endpoint.answer = lambda _: {**good, "scope": "a mail.send", "aud": ["x", "relay"]}
            self.assertEqual((await self.token(accounts, "one")).name, "shop")

    async def test_an_account_that_a_source_knows_has_its_rights_there(self) -> None:
        """And when it is disabled there, no token helps."""
        write(self.folder / "users", entry("shop@example.org", senders="a.example"), entry("x"))
        accounts = self.directory(file=str(self.folder / "users"))
        self.assertIn("PLAIN", accounts.mechanisms)
        self.assertEqual((await self.token(accounts, "good")).senders, ("a.example",))
        write(self.folder / "users", entry("shop@example.org", disabled="yes"))
        await self.assertFailure(
            self.token(self.directory(file=str(self.folder / "users")), "good"), UnauthorizedLogin
        )

    async def test_a_yes_is_remembered_and_a_no_is_not(self) -> None:
        """A token that becomes valid is not locked out; one that is used for each message is not asked about again."""
        accounts = self.directory()
        for _ in range(3):
            await self.token(accounts, "good")
            await self.assertFailure(self.token(accounts, "bad"), UnauthorizedLogin)
        self.assertEqual([form["token"] for form, _ in self.endpoint.asked], ["good", "bad", "bad", "bad"])

    async def test_what_could_not_be_asked_is_no_answer(self) -> None:
        """Our own secret is wrong, no JSON, too much of it, another place, a claim that is missing, silence."""
        accounts = self.directory(evolve(self.settings, timeout=Duration(0.5)))
        for said, reason in (
            ((401, b'{"error": "invalid_client"}'), "the answer was 401"),
            ((500, b""), "the answer was 500"),
            ((302, b""), "the answer was 302"),
            ((200, b"<html>"), "is not JSON"),
            ((200, b"[" * 50_000), "is not JSON"),
            ((200, b"\xff"), "is not JSON"),
            ((200, b'{"active": true, "username": "shop", "exp": NaN}'), "is not JSON"),  # it never came
            ((200, b"[true]"), "is not a JSON object"),
            ((200, b'{"active": true, "x": "' + b"x" * ANSWER_MAX + b'"}'), "too large"),
            ({"active": True}, 'has no "username"'),
            ({"active": True, "username": 7}, 'has no "username"'),
            ({"active": True, "username": "shop", "exp": "soon"}, "a time that is none"),
            (None, "no answer within 0.5 s"),
        ):
            self.endpoint.answer = lambda _, said=said: said
            error = await self.assertFailure(self.token(accounts, "t0ken"), DirectoryUnavailableError)
            self.assertIn(reason, str(error))
            self.assertNotIn("t0ken", str(error))
        await self.port.stopListening()
        error = await self.assertFailure(self.token(accounts, "t0ken"), DirectoryUnavailableError)
        self.assertIn("refused", str(error))

    async def test_the_issuer_shows_a_certificate_that_is_its_own(self) -> None:
        """Of an authority that is trusted, for the name that was asked for; anything else sees no token."""
        files = certificates(self.folder)
        context = DefaultOpenSSLContextFactory(files.key, files.certificate, SSL.TLS_SERVER_METHOD)
        port = reactor.listenSSL(0, Site(self.endpoint), context, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        url = f"https://localhost:{port.getHost().port}/introspect"
        trusted = evolve(self.settings, introspection_url=url, ca_file=files.ca)
        self.assertEqual((await self.token(self.directory(trusted), "good")).name, "shop@example.org")
        self.assertEqual(len(self.endpoint.asked), 1)
        for settings in (
            evolve(trusted, ca_file=""),
            evolve(trusted, introspection_url=url.replace("localhost", "127.0.0.2")),
        ):
            await self.assertFailure(self.token(self.directory(settings), "good"), DirectoryUnavailableError)
        self.assertEqual(len(self.endpoint.asked), 1)

    async def test_an_issuer_whose_certificate_names_nobody_is_not_asked(self) -> None:
        """RFC 6125 §6.4: also where its chain is good, it has none, or one that is no name; a CN does not count."""
        (self.folder / "ca.pem").write_bytes(authority().trusted.dumpPEM())
        for names in ((), ("\x01", "*.*.test"), ("*",)):
            port = reactor.listenSSL(
                0, Site(self.endpoint), authority().server("localhost", names), interface="127.0.0.1"
            )
            self.addCleanup(port.stopListening)
            url = f"https://localhost:{port.getHost().port}/introspect"
            trusted = evolve(self.settings, introspection_url=url, ca_file=str(self.folder / "ca.pem"))
            error = await self.assertFailure(self.token(self.directory(trusted), "good"), DirectoryUnavailableError)
            self.assertIn("the certificate is not for this host", str(error))
        self.assertEqual(self.endpoint.asked, [])

    async def test_a_source_that_cannot_be_made_says_so_and_the_rest_goes_on(self) -> None:
        """A secret that is gone: tokens cannot be asked about, passwords can."""
        (self.folder / "secret").unlink()
        write(self.folder / "users", entry("shop", "pencil"))
        accounts = self.directory(file=str(self.folder / "users"))
        [(place, reason)] = self.told
        self.assertEqual(place, "users.oauth")
        self.assertIn("No such file", str(reason))
        self.assertEqual((await self.password(accounts, "shop", "pencil")).name, "shop")
        await self.assertFailure(self.token(accounts, "good"), DirectoryUnavailableError)

    def test_a_yes_lives_no_longer_than_its_token(self) -> None:
        """And a minute at most (RFC 7662 §4)."""
        clock = Clock()
        clock.advance(1_000_000)
        asked = Introspection(self.settings, "x", clock)
        for said, lifetime in (({"exp": 1_000_010}, 10), ({}, 60), ({"exp": 2_000_000}, 60)):
            name, until = asked._judged({"active": True, "username": "shop", **said}, clock.seconds())
            self.assertEqual(name, "shop")
            asked._known.put("shop", min(60.0, until - clock.seconds()), b"t")
            clock.advance(lifetime - 0.1)
            self.assertEqual(asked._known.get(b"t"), "shop")
            clock.advance(0.2)
            self.assertIsNone(asked._known.get(b"t"))
            clock.advance(1_000_000 - clock.seconds())
