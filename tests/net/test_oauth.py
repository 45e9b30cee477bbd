"""Tokens from a real HTTP server on loopback, over TLS with an authority made for the test."""

from __future__ import annotations

import os
import stat
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import trustRootFromCertificates
from twisted.trial.unittest import TestCase
from twisted.web.server import Site

from relaymta.config.secretfile import SecretError, SecretFile
from relaymta.net import oauth
from relaymta.net.oauth import Grant, TokenError, Tokens
from tests.delivery.certificates import authority
from tests.net.tokenserver import TokenServer

reactor: Any = the_reactor


class OauthTests(TestCase):
    """One authorization server on 127.0.0.1."""

    timeout = 20

    def setUp(self) -> None:
        self.server = TokenServer()
        site = Site(self.server)
        site.noisy = False
        port = reactor.listenSSL(0, site, authority().server("localhost"), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.url = f"https://localhost:{port.getHost().port}/token"
        self.folder = Path(tempfile.mkdtemp())
        self.trust_root: Any = trustRootFromCertificates([authority().trusted])
        self.now = 1000.0

    def file(self, name: str, text: str) -> SecretFile:
        """A secret in a file."""
        (self.folder / name).write_text(text + "\n")
        return SecretFile(str(self.folder / name))

    def tokens(self, **more: Any) -> Tokens:
        """The tokens of a program that shows who it is."""
        more.setdefault("secret", self.file("secret", "client pass/word"))
        grant = Grant(more.pop("url", self.url), "client:id", **more)
        return Tokens(reactor, grant, lambda: self.now, self.trust_root)

    async def refused(self, tokens: Tokens) -> str:
        """Why there is no token."""
        try:
            await tokens.get()
        except TokenError as error:
            return str(error)
        raise AssertionError("a token came")

    async def test_a_program_gets_a_token_for_its_own_credentials(self) -> None:
        """RFC 6749 §4.4.2, with the client's password as §2.3.1 has it: form-encoded, then Basic."""
        token = await self.tokens(scope="smtp send").get()
        assert token.value == "tok-1" and "tok-1" not in repr(token)
        assert self.server.forms == [{"grant_type": "client_credentials", "scope": "smtp send"}]
        assert self.server.authorizations == [b"Basic " + b64encode(b"client%3Aid:client+pass%2Fword")]

    async def test_a_refresh_token_gets_a_token(self) -> None:
        """RFC 6749 §6; a public client says who it is in the form (§3.2.1)."""
        tokens = self.tokens(secret=None, refresh=self.file("refresh", "r-1"))
        assert (await tokens.get()).value == "tok-1"
        assert self.server.forms == [{"grant_type": "refresh_token", "refresh_token": "r-1", "client_id": "client:id"}]
        assert self.server.authorizations == [b""]

    async def test_a_token_is_kept_until_shortly_before_its_end(self) -> None:
        """expires_in less a minute, for clocks differ."""
        tokens = self.tokens()
        assert (await tokens.get()).value == "tok-1"
        self.now += 3600 - oauth.EARLY - 1
        assert (await tokens.get()).value == "tok-1"
        self.now += 2
        assert (await tokens.get()).value == "tok-2"

    async def test_a_token_without_a_lifetime_is_kept_for_minutes(self) -> None:
        """RFC 6749 §5.1 only recommends expires_in; nonsense counts as none."""
        for lifetime in ({}, {"expires_in": "soon"}, {"expires_in": -1}, {"expires_in": True}):
            self.server.answer = lambda number, more=lifetime: (  # type: ignore[misc]
                200, {"access_token": f"tok-{number}", "token_type": "bearer", **more},
            )  # fmt: skip
            assert (await self.tokens().get()).until == self.now + oauth.LIFETIME - oauth.EARLY

    async def test_many_who_wait_are_one_request(self) -> None:
        """A queue that wakes does not storm the server."""
        tokens = self.tokens()
        waiting = [tokens.get() for _ in range(5)]
        assert [(await one).value for one in waiting] == ["tok-1"] * 5 and len(self.server.forms) == 1

    async def test_a_refused_token_is_thrown_away(self) -> None:
        """Only if it is the one that is kept."""
        tokens = self.tokens()
        first = await tokens.get()
        tokens.discard(first)
        second = await tokens.get()
        tokens.discard(first)
        assert (await tokens.get()) == second and second.value == "tok-2"

    async def test_a_new_refresh_token_takes_the_old_ones_place(self) -> None:
        """RFC 6749 §6: it is written where the old one stood, for nobody else to read."""
        self.server.answer = lambda number: (
            200,
            {"access_token": f"tok-{number}", "token_type": "bearer", "refresh_token": f"r-{number + 1}"},
        )
        refresh = self.file("refresh", "r-1")
        tokens = self.tokens(refresh=refresh)
        tokens.discard(await tokens.get())
        await tokens.get()
        assert [form["refresh_token"] for form in self.server.forms] == ["r-1", "r-2"]
        assert (self.folder / "refresh").read_text() == "r-3\n"
        assert stat.S_IMODE(os.stat(self.folder / "refresh").st_mode) == 0o600
        (self.folder / "refresh").write_text("by-hand\n")
        self.now += 3600
        tokens.discard(await tokens.get())
        assert self.server.forms[-1]["refresh_token"] == "by-hand"

    async def test_a_new_refresh_token_that_cannot_be_written_is_kept_in_memory(self) -> None:
        """A directory that is not ours is no reason to stop."""
        self.server.answer = lambda number: (
            200,
            {"access_token": f"tok-{number}", "token_type": "bearer", "refresh_token": f"r-{number + 1}"},
        )

        class ReadOnly(SecretFile):
            def write(self, secret: str) -> None:
                raise SecretError("no")

        self.file("refresh", "r-1")
        tokens = self.tokens(refresh=ReadOnly(str(self.folder / "refresh")))
        for _ in range(3):
            tokens.discard(await tokens.get())
        assert [form["refresh_token"] for form in self.server.forms] == ["r-1", "r-2", "r-3"]

    async def test_a_refusal_is_told_by_its_word_and_remembered_for_a_minute(self) -> None:
        """RFC 6749 §5.2; what the description says stays with the server."""
        self.server.answer = lambda _: (400, {"error": "invalid_grant", "error_description": "user secret-x"})
        tokens = self.tokens()
        said = await self.refused(tokens)
        assert said == f"{self.url} answered 400 invalid_grant"
        assert await self.refused(tokens) == said and len(self.server.forms) == 1
        self.now += oauth.TROUBLE + 1
        assert await self.refused(tokens) == said and len(self.server.forms) == 2

    async def test_answers_that_are_none(self) -> None:
        """Each is told for what it is, and no token comes of it."""
        for answer, matter in (
            ((200, b"<html>"), "answered 200, and not with JSON"),
            ((500, b"oops"), "answered 500, and not with JSON"),
            ((302, {}), "answered 302"),
            ((200, []), "not with JSON"),
            ((200, {"token_type": "bearer"}), "without a token"),
            ((200, {"access_token": "a\r\nb", "token_type": "bearer"}), "without a token"),
            ((200, {"access_token": "a", "token_type": "mac"}), "not a bearer token"),  # RFC 6749 §7.1
            ((401, {"error": "a\nb"}), "answered 401"),
            ((200, b"x" * (oauth.ANSWER_MAX + 1)), "too long"),
            ((200, b"[" * (oauth.ANSWER_MAX - 1)), "not with JSON"),
            ((200, b'{"a":' * 9000), "not with JSON"),
        ):
            self.server.answer = lambda _, it=answer: it  # type: ignore[misc]
            said = await self.refused(self.tokens())
            assert matter in said and "\n" not in said and "client pass" not in said, said

    async def test_a_server_that_nobody_vouches_for_gets_nothing(self) -> None:
        """The certificate is verified: our client secret is not shown to whoever answers."""
        said = await self.refused(self.tokens(url=self.url.replace("localhost", "127.0.0.1")))
        assert said.endswith("the certificate is not for this host") and not self.server.forms
        self.trust_root = None
        said = await self.refused(self.tokens())
        assert "certificate verify failed" in said and not self.server.forms

    async def test_a_certificate_whose_names_cannot_be_read_is_for_nobody(self) -> None:
        """RFC 6125 §6.4: also where its chain is good, it has none, or one that is no name; a CN does not count."""
        for names in ((), ("\x01", "*.*.test"), ("*",)):
            site = Site(self.server)
            site.noisy = False
            port = reactor.listenSSL(0, site, authority().server("localhost", names), interface="127.0.0.1")
            self.addCleanup(port.stopListening)
            said = await self.refused(self.tokens(url=f"https://localhost:{port.getHost().port}/token"))
            assert said.endswith("the certificate is not for this host") and not self.server.forms

    async def test_a_server_that_is_not_there_or_silent(self) -> None:
        """Both end in time, and say so."""
        assert "refused" in await self.refused(self.tokens(url="http://127.0.0.1:9/"))
        self.server.answer = lambda _: None
        self.patch(oauth, "TIMEOUT", 0.2)
        assert "no answer in time" in await self.refused(self.tokens())

    async def test_a_new_refresh_token_that_is_none_is_not_kept(self) -> None:
        """One that no file with one line can hold would be the end of the account."""
        for refresh in ("a\nb", "\ud800", "", 7, ["x"]):
            answer = {"access_token": "tok", "token_type": "bearer", "refresh_token": refresh}
            self.server.answer = lambda _, it=answer: (200, it)  # type: ignore[misc]
            tokens = self.tokens(refresh=self.file("refresh", "r-1"))
            tokens.discard(await tokens.get())
            await tokens.get()
            assert self.server.forms[-1]["refresh_token"] == "r-1"
            assert sorted(os.listdir(self.folder)) == ["refresh", "secret"]

    async def test_an_answer_that_does_not_end_is_hung_up_on(self) -> None:
        """Time ends the connection too, headers without end do not fill the memory."""
        self.patch(oauth, "TIMEOUT", 0.5)
        for first, matter in (
            (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx", "no answer in time"),
            (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, "too long"),
            (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, "too long"),
        ):
            gone: Deferred[None] = Deferred()
            server = Protocol()
            server.connectionMade = lambda it=server, said=first: it.transport.write(said)  # type: ignore
            server.connectionLost = lambda *_, it=gone: it.callback(None)  # type: ignore
            factory = Factory()
            factory.noisy = False
            factory.buildProtocol = lambda _, it=server: it  # type: ignore
            port = reactor.listenTCP(0, factory, interface="127.0.0.1")
            self.addCleanup(port.stopListening)
            assert matter in await self.refused(self.tokens(url=f"http://127.0.0.1:{port.getHost().port}/"))
            await gone.addTimeout(5.0, reactor)

    async def test_a_secret_that_is_not_there(self) -> None:
        """It is no token, and the file is named."""
        said = await self.refused(self.tokens(secret=SecretFile("/nowhere/secret")))
        assert said == "/nowhere/secret cannot be read: No such file or directory" and not self.server.forms
