"""Attempts over real sockets on loopback: TLS, UNIX sockets, large content, peers that vanish."""

from __future__ import annotations

import os
import shutil
import tempfile

from attrs import evolve

from relaymta.mail.outcome import Fate
from relaymta.routing.mx import Host
from relaymta.routing.route import Hop, Route, TlsLevel, Transport
from tests.delivery.certificates import authority
from tests.delivery.loopback import HOST, Loopback
from tests.delivery.network import route_to
from tests.smtp.scripted import Server


class LoopbackTests(Loopback):
    """One site on 127.0.0.1."""

    async def test_messages_over_one_real_connection(self) -> None:
        """Several messages reach a server over one socket."""
        self.listen()
        for _ in range(5):
            (outcome,) = await self.deliver("a@b.test")
            assert outcome.fate is Fate.RELAYED and outcome.address == "127.0.0.1"
        assert len(self.servers) == 1 and len(self.servers[0].taken) == 5

    async def test_large_content_arrives_as_it_is(self) -> None:
        """Three megabytes with dots at every turn arrive octet for octet."""
        self.listen()
        content = b"Subject: x\r\n\r\n" + (b"." * 77 + b"\r\n.\r\n" + b"y" * 16 + b"\r\n") * 30_000
        (outcome,) = await self.deliver("a@b.test", content=content)
        assert outcome.fate is Fate.RELAYED and self.servers[0].taken[0].content == content

    async def test_a_connection_that_is_reset_in_the_midst_of_content(self) -> None:
        """A peer that resets while content is on its way defers the message, and the outcome is not unknown."""
        self.listen(reset_at="DATA")
        (outcome,) = await self.deliver("a@b.test", content=b"x" * 1_000_000)
        assert outcome.fate is Fate.DEFERRED and not outcome.unknown

    async def test_crit_8_a_server_that_hangs_up_at_once(self) -> None:
        """A peer that closes without a greeting is told at once, not after a time-out."""
        self.listen(lambda: Server(answers=lambda v, a: b""))
        (outcome,) = await self.deliver("a@b.test")
        assert outcome.fate is Fate.DEFERRED and "waiting for the greeting" in outcome.text

    async def test_nobody_listens(self) -> None:
        """A refused connection defers with the system's words."""
        self.finder.hosts["b.test"] = (Host(HOST, 1, 0, ("127.0.0.1",)),)
        (outcome,) = await self.deliver("a@b.test")
        assert outcome.status == "4.4.1" and "refused" in outcome.text

    async def test_lmtp_over_a_unix_socket(self) -> None:
        """LMTP over the file system's socket."""
        folder = tempfile.mkdtemp(prefix="relaymta-")
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, "lmtp")
        self.listen(lambda: Server(lmtp=True), path=path)
        route = Route(Transport.LMTP, (Hop("", 0, mx=False, path=path),))
        outcomes = await self.deliver("a@b.test", "b@b.test", route=route)
        assert [one.fate for one in outcomes] == [Fate.DELIVERED] * 2

    # TLS

    async def test_opportunistic_tls_takes_any_certificate(self) -> None:
        """A certificate of nobody and for another name serves where nothing is demanded (RFC 7435)."""
        self.listen(lambda: Server(offers=("STARTTLS", "PIPELINING")), authority().server("other.test"))
        (outcome,) = await self.deliver("a@b.test")
        assert outcome.fate is Fate.RELAYED and outcome.tls.startswith("TLSv1.")
        commands = self.servers[0].commands
        assert commands[:4] == ["EHLO us.test", "STARTTLS", "(handshake)", "EHLO us.test"]

    async def test_large_content_over_tls(self) -> None:
        """The producer works through TLS as well."""
        self.listen(lambda: Server(offers=("STARTTLS", "PIPELINING")), authority().server(HOST))
        content = b"Subject: x\r\n\r\n" + b"." * 1000 + b"\r\n" * 500_000
        (outcome,) = await self.deliver("a@b.test", content=content)
        assert outcome.fate is Fate.RELAYED and self.servers[0].taken[0].content == content

    async def test_a_broken_handshake_is_tried_in_clear_and_remembered(self) -> None:
        """Where TLS is a wish a failed handshake costs one connection, and none for the next minutes."""
        self.listen(lambda: Server(offers=("STARTTLS", "PIPELINING")))
        (outcome,) = await self.deliver("a@b.test")
        assert outcome.fate is Fate.RELAYED and outcome.tls == "" and len(self.servers) == 2
        await self.deliveries.close(1.0)
        assert "STARTTLS" not in self.servers[1].commands

    async def test_a_handshake_that_fails_for_one_name_takes_tls_from_no_other(self) -> None:
        """Neither what is remembered nor a connection in clear serves a domain whose host has another name."""
        self.listen(lambda: Server(offers=("STARTTLS",)))
        evil = self.finder.hosts["b.test"]
        assert isinstance(evil, tuple)
        self.finder.hosts["c.test"] = (evolve(evil[0], name="mx.c.test"),)
        await self.deliver("a@b.test")
        await self.deliver("a@b.test")
        assert ["STARTTLS" in one.commands for one in self.servers] == [True, False]
        await self.deliver("a@c.test", route=route_to("c.test"))
        assert ["STARTTLS" in one.commands for one in self.servers] == [True, False, True, False]

    async def test_a_broken_handshake_where_tls_is_demanded_defers(self) -> None:
        """Nothing goes in clear under `encrypt`."""
        self.listen(lambda: Server(offers=("STARTTLS", "PIPELINING")))
        (outcome,) = await self.deliver("a@b.test", route=route_to(tls=TlsLevel.ENCRYPT))
        assert outcome.fate is Fate.DEFERRED and outcome.status == "4.7.5"
        assert not self.servers[0].taken and len(self.servers) == 1

    async def test_verify_takes_the_right_name_and_no_other(self) -> None:
        """`verify` delivers to a host with a trusted certificate for its name, and to nobody else (RFC 6125)."""
        self.believe_authority()
        route = route_to(tls=TlsLevel.VERIFY)
        self.listen(lambda: Server(offers=("STARTTLS",)), authority().server("other.test"))
        (outcome,) = await self.deliver("a@b.test", route=route)
        assert outcome.fate is Fate.DEFERRED and outcome.status == "4.7.5" and not self.servers[0].taken
        assert outcome.text == f"the certificate is not for {HOST}"
        assert self.servers[0].commands == ["EHLO us.test", "STARTTLS", "(handshake)"]  # not a word after it
        self.listen(lambda: Server(offers=("STARTTLS",)), authority().server(HOST))
        (outcome,) = await self.deliver("a@b.test", route=route)
        assert outcome.fate is Fate.RELAYED and outcome.tls.endswith(" (verified: PKIX)")

    async def test_verify_does_not_take_an_unknown_authority(self) -> None:
        """A certificate that no CA of this system has signed does not verify."""
        self.listen(lambda: Server(offers=("STARTTLS",)), authority().server(HOST))
        (outcome,) = await self.deliver("a@b.test", route=route_to(tls=TlsLevel.VERIFY))
        assert outcome.fate is Fate.DEFERRED and outcome.status == "4.7.5" and not self.servers[0].taken
