"""From a domain to its hosts through the real resolver and a real name server (NSD on loopback)."""

from __future__ import annotations

from random import Random
from typing import ClassVar

import pytest
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from relaymta.mail.address import parse_mailbox
from relaymta.net.dns import DnsSettings, Resolver
from relaymta.routing.mx import Host, HostFinder, Refusal
from relaymta.routing.ourselves import Ourselves
from relaymta.routing.router import Router
from relaymta.routing.settings import HostSettings, Prefer
from tests.net.nsd import NSD_MISSING, serving

ZONE = """
several    MX 10 mx1
several    MX 10 mx2
several    MX 20 mx3
mx1        A 127.0.0.2
mx1        AAAA ::1
mx2        A 127.0.0.3
mx3        A 127.0.0.4
implicit   A 127.0.0.5
alias      CNAME several
aliased    MX 10 mxalias
mxalias    CNAME mx2
null       MX 0 .
dead       MX 10 nobody
literal    MX 10 127.0.0.2.
ours       MX 10 relay
backup     MX 10 mx1
backup     MX 20 relay
relay      A 127.0.0.25
text       TXT "no mail"
elsewhere  MX 10 mx.not-served-here.test.
"""


name_server = serving({"example.test": ZONE})


@pytest.mark.peers
@pytest.mark.skipif(bool(NSD_MISSING), reason=NSD_MISSING)
@pytest.mark.usefixtures("name_server")
class NsdTests(TestCase):
    """Real domains."""

    server: ClassVar[str]
    timeout = 20

    def setUp(self) -> None:
        resolver = Resolver(reactor, DnsSettings(servers=(self.server,)))
        self.addCleanup(resolver.close)
        ourselves = Ourselves("relay.example.test", [("127.0.0.25", 25)])
        self.finder = HostFinder(resolver, HostSettings(prefer=Prefer.IPV6), ourselves, Random(1))

    async def hosts(self, name: str) -> tuple[Host, ...] | Refusal:
        """The hosts of a domain, each with its addresses."""
        route = Router().route(parse_mailbox(f"user@{name}.example.test"), None)
        found = await self.finder.find(route.hops[0])
        if isinstance(found, Refusal):
            return found
        resolved = [await self.finder.resolve(host) for host in found]
        return tuple(host for host in resolved if isinstance(host, Host))

    async def refused(self, name: str, status: str, permanent: bool) -> None:
        """The domain has no host, for this reason."""
        found = await self.hosts(name)
        assert isinstance(found, Refusal), found
        self.assertEqual((found.status, found.permanent), (status, permanent), found.text)

    async def test_hosts_come_in_order_with_their_addresses(self) -> None:
        """RFC 5321 §5.1, on the wire."""
        for name in ("several", "alias"):
            hosts = await self.hosts(name)
            assert isinstance(hosts, tuple)
            self.assertEqual([host.preference for host in hosts], [10, 10, 20])
            self.assertEqual({host.name for host in hosts[:2]}, {"mx1.example.test", "mx2.example.test"})
            addresses = {host.name.partition(".")[0]: host.addresses for host in hosts}
            self.assertEqual(addresses, {"mx1": ("::1", "127.0.0.2"), "mx2": ("127.0.0.3",), "mx3": ("127.0.0.4",)})

    async def test_the_implicit_mx(self) -> None:
        """NODATA for MX and an A record."""
        self.assertEqual(await self.hosts("implicit"), (Host("implicit.example.test", 25, 0, ("127.0.0.5",)),))

    async def test_an_mx_that_is_an_alias_is_used(self) -> None:
        """RFC 2181 §10.3 forbids it, the field does it, mail goes through."""
        self.assertEqual(await self.hosts("aliased"), (Host("mxalias.example.test", 25, 10, ("127.0.0.3",)),))

    async def test_every_no_is_a_no_of_its_own(self) -> None:
        """Null MX 5.1.10, NXDOMAIN and nothing there 5.1.2, no usable host 5.4.4."""
        await self.refused("null", "5.1.10", permanent=True)
        await self.refused("nobody", "5.1.2", permanent=True)
        await self.refused("text", "5.1.2", permanent=True)
        await self.refused("dead", "5.4.4", permanent=True)
        await self.refused("literal", "5.4.4", permanent=True)

    async def test_what_could_not_be_asked_is_no_no(self) -> None:
        """The server REFUSES another's zone: 4.4.3."""
        await self.refused("elsewhere", "4.4.3", permanent=False)

    async def test_ourselves_in_the_set(self) -> None:
        """RFC 5321 §5.1: the best is a loop; a better one than we is used alone."""
        await self.refused("ours", "5.4.6", permanent=True)
        hosts = await self.hosts("backup")
        assert isinstance(hosts, tuple)
        self.assertEqual([host.name for host in hosts], ["mx1.example.test"])
