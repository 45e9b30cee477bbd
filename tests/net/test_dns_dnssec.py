"""The four values of an answer against real DNSSEC: unbound validates what NSD serves, on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from relaymta.net.dns import CNAME, DnsSettings, Resolver, Security, State
from tests.net.dnssec import DNSSEC_MISSING, signed_world
from tests.peers.nameserver import BrokenNameserver

RECORD, FORGED = "11" * 32, "22" * 32
ZONE = f"""
@            MX     10 mx
mx           A      127.0.0.2
_25._tcp.mx  TLSA   3 1 1 {RECORD}
_25._tcp.bad TLSA   3 1 1 {FORGED}
ring         CNAME  mx
outward      CNAME  mx.plain.test.
_tcp.broken  NS     ns.nowhere.test.
"""
PLAIN = f"@ MX 10 mx\nmx A 127.0.0.2\n_25._tcp.mx TLSA 3 1 1 {RECORD}"


@pytest.fixture(scope="class")
def world(request: pytest.FixtureRequest) -> Iterator[None]:
    """One world for all tests of a class: its `validating` resolver, and the `name_server` behind it."""
    with (
        BrokenNameserver() as broken,
        signed_world(
            {"signed.test": ZONE},
            {"plain.test": PLAIN},
            forged=lambda text: text.replace(FORGED, "33" * 32),
            elsewhere={"_tcp.broken.signed.test": broken.address},
        ) as made,
    ):
        request.cls.validating, request.cls.name_server = made.resolver, made.name_server
        yield


@pytest.mark.peers
@pytest.mark.skipif(bool(DNSSEC_MISSING), reason=DNSSEC_MISSING)
@pytest.mark.usefixtures("world")
class DnssecTests(TestCase):
    """Secure, insecure, bogus, failed."""

    validating: ClassVar[str]
    name_server: ClassVar[str]
    timeout = 20

    def asking(self, server: str, *, trust_ad: bool = True) -> Resolver:
        """A resolver of ours that asks there."""
        made = Resolver(reactor, DnsSettings(servers=(server,), trust_ad=trust_ad))
        self.addCleanup(made.close)
        return made

    async def test_four_values(self) -> None:
        """RFC 4035 §4.3: a signed yes, a signed no, what is not signed, a broken signature, no answer."""
        resolver = self.asking(self.validating)
        for name, state, security in (
            ("_25._tcp.mx.signed.test", State.FOUND, Security.SECURE),
            ("_25._tcp.none.signed.test", State.NXDOMAIN, Security.SECURE),
            ("mx.signed.test", State.NODATA, Security.SECURE),
            ("_25._tcp.mx.plain.test", State.FOUND, Security.INSECURE),
            ("_25._tcp.none.plain.test", State.NXDOMAIN, Security.INSECURE),
            ("_25._tcp.bad.signed.test", State.FAILED, Security.BOGUS),
        ):
            answer = await resolver.tlsa(name)
            assert (answer.state, answer.security) == (state, security), (name, answer)
        answer = await resolver.tlsa("_25._tcp.broken.signed.test")
        assert answer.state is State.FAILED and not answer.secure  # of the reason unbound says what it likes

    async def test_mx_and_addresses(self) -> None:
        """Each kind of answer carries its own security."""
        resolver = self.asking(self.validating)
        for domain, secure in (("signed.test", True), ("plain.test", False)):
            assert (await resolver.mx(domain)).secure is secure
            assert (await resolver.addresses(f"mx.{domain}")).secure is secure

    async def test_aliases(self) -> None:
        """An answer is as secure as its weakest link; the alias alone can be asked for by its type."""
        resolver = self.asking(self.validating)
        ring, outward = await resolver.addresses("ring.signed.test"), await resolver.addresses("outward.signed.test")
        assert (ring.secure, ring.canonical) == (True, "mx.signed.test")
        assert (outward.secure, outward.canonical) == (False, "mx.plain.test")
        alias = await resolver.lookup("outward.signed.test", CNAME)
        assert (alias.secure, alias.records) == (True, ("mx.plain.test",))
        none = await resolver.lookup("mx.signed.test", CNAME)
        assert (none.secure, none.state) == (True, State.NODATA)

    async def test_without_trust_nothing_is_secure(self) -> None:
        """RFC 7672 §2.1: AD counts only where `dns.trust_ad` says so, and only AD does."""
        for resolver in (self.asking(self.validating, trust_ad=False), self.asking(self.name_server)):
            answer = await resolver.tlsa("_25._tcp.mx.signed.test")
            assert (answer.state, answer.security) == (State.FOUND, Security.INSECURE)
