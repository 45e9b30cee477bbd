"""The resolver against a real name server: NSD on loopback, with zones as they are met in the field."""

from __future__ import annotations

from typing import ClassVar

import pytest
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from relaymta.net.dns import SRV, TXT, DnsSettings, Mx, Resolver, Srv, State
from tests.net.nsd import NSD_MISSING, serving

ZONE = """
@            MX    10 mx1
@            MX    20 mx2
mx1          A     127.0.0.2
mx1          AAAA  ::1
mx2          A     127.0.0.3
equal        MX    10 mx1
equal        MX    10 mx2
null         MX    0 .
alias        CNAME @
elsewhere    CNAME mail.other.test.
lost         CNAME nowhere.other.test.
viacname     MX    10 mxalias
mxalias      CNAME mx1
ttl      10  MX    10 mx1
text         TXT   "v=spf1 " "-all"
_smtp._tcp   SRV   1 2 465 mx1
_25._tcp.mx1 TYPE52 \\# 35 030101 0000000000000000000000000000000000000000000000000000000000000001
""" + "\n".join(f"big MX {number} a-rather-long-name-of-a-mail-exchanger-{number}" for number in range(60))

OTHER = "mail A 127.0.0.9\nmail MX 5 mail"
TURNED = "2 PTR mx1.example.test."


name_server = serving({"example.test": ZONE, "other.test": OTHER, "0.0.127.in-addr.arpa": TURNED})


@pytest.mark.peers
@pytest.mark.skipif(bool(NSD_MISSING), reason=NSD_MISSING)
@pytest.mark.usefixtures("name_server")
class NsdTests(TestCase):
    """Real answers."""

    server: ClassVar[str]
    timeout = 20

    def setUp(self) -> None:
        self.resolver = Resolver(reactor, DnsSettings(servers=(self.server,)))
        self.addCleanup(self.resolver.close)

    async def test_mx_records_come_with_their_preferences(self) -> None:
        """RFC 5321 §5.1: preference and name, in whatever order."""
        answer = await self.resolver.mx("Example.TEST")
        self.assertEqual(set(answer.records), {Mx(10, "mx1.example.test"), Mx(20, "mx2.example.test")})
        self.assertEqual((answer.ttl, answer.canonical), (300.0, "example.test"))
        equal = await self.resolver.mx("equal.example.test")
        self.assertEqual({mx.preference for mx in equal.records}, {10})

    async def test_a_null_mx_is_the_root(self) -> None:
        """RFC 7505 §3: one MX record, its exchange is the root."""
        self.assertEqual((await self.resolver.mx("null.example.test")).records, (Mx(0, ""),))

    async def test_an_alias_is_followed_within_and_between_zones(self) -> None:
        """A CNAME stands for what it names, and the answer says which name that was."""
        answer = await self.resolver.mx("alias.example.test")
        self.assertEqual((len(answer.records), answer.canonical), (2, "example.test"))
        other = await self.resolver.mx("elsewhere.example.test")
        self.assertEqual((other.records, other.canonical), ((Mx(5, "mail.other.test"),), "mail.other.test"))
        self.assertEqual((await self.resolver.mx("lost.example.test")).state, State.NXDOMAIN)

    async def test_an_mx_that_is_an_alias_has_addresses(self) -> None:
        """RFC 2181 §10.3 forbids it and the field does it."""
        answer = await self.resolver.addresses("mxalias.example.test")
        self.assertEqual((answer.records, answer.canonical), (("::1", "127.0.0.2"), "mx1.example.test"))

    async def test_nodata_and_nxdomain_and_refused_are_three_things(self) -> None:
        """A no to the type, a no to the name, and no answer at all."""
        nodata = await self.resolver.mx("mx1.example.test")
        nxdomain = await self.resolver.mx("nobody.example.test")
        refused = await self.resolver.mx("not-served-here.test")
        self.assertEqual((nodata.state, nodata.ttl), (State.NODATA, 60.0))
        self.assertEqual((nxdomain.state, nxdomain.ttl), (State.NXDOMAIN, 60.0))
        self.assertEqual(refused.state, State.FAILED)
        self.assertIn("REFUSED", refused.text)

    async def test_a_big_answer_comes_over_tcp(self) -> None:
        """Sixty MX records do not fit into 1232 octets."""
        self.assertEqual(len((await self.resolver.mx("big.example.test")).records), 60)

    async def test_other_types(self) -> None:
        """TXT, SRV, TLSA and PTR as the zone has them."""
        text = await self.resolver.lookup("text.example.test", TXT)
        service = await self.resolver.lookup("_smtp._tcp.example.test", SRV)
        tlsa = await self.resolver.tlsa("_25._tcp.mx1.example.test")
        name = await self.resolver.ptr("127.0.0.2")
        self.assertEqual(text.records, (b"v=spf1 -all",))
        self.assertEqual(service.records, (Srv(1, 2, 465, "mx1.example.test"),))
        self.assertEqual(tlsa.records, (b"\x03\x01\x01" + bytes(31) + b"\x01",))
        self.assertEqual(name.records, ("mx1.example.test",))

    async def test_five_hundred_questions_at_once(self) -> None:
        """More questions than room for them: all are answered, none fails (stock: 3 to 7 SERVFAILs in 1,000)."""
        answers = await gatherResults([self.resolver.mx(f"d{number}.example.test") for number in range(500)])
        self.assertEqual({answer.state for answer in answers}, {State.NXDOMAIN})
