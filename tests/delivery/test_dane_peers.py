"""DANE from end to end: NSD with signed zones, unbound that validates, our own server with TLS; all on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, ClassVar

import pytest
from attrs import evolve
from twisted.internet import reactor as the_reactor
from twisted.trial.unittest import TestCase

from relaymta.config import Duration
from relaymta.delivery.attempt import Batch, Deliveries
from relaymta.delivery.policy import Ask, Decision
from relaymta.delivery.settings import Settings
from relaymta.events import Event, TlsChecked
from relaymta.mail.content import MemoryContent
from relaymta.mail.outcome import Fate, Outcome
from relaymta.net.dns import DnsSettings, Resolver
from relaymta.net.dns import Security as Vouched
from relaymta.routing.mx import HostFinder
from relaymta.routing.route import Hop, TlsLevel
from relaymta.smtp.listener import RelayFactory
from relaymta.smtp.settings import ListenerSettings, TlsMode
from tests.delivery.network import route_to
from tests.net.dnssec import DNSSEC_MISSING, signed_world
from tests.net.nsd import free_port
from tests.net.pki import Issued, Presents, issue
from tests.peers.nameserver import BrokenNameserver
from tests.smtp.guests import Notebook, NotingHandler
from tests.smtp.scripted import BODY, envelope

reactor: Any = the_reactor
NET = "127.0.0.{}"
EE, TA, WRONG, CLEAR = 110, 111, 112, 113  # the last octet of each peer's address

ROOT = issue("root", authority=True)
MIDDLE = issue("middle", ROOT, authority=True)
OLD = issue("other.test", names=["other.test"], expired=True)  # DANE-EE does not mind
LEAF = issue("ta.signed.test", MIDDLE, names=["ta.signed.test"])
PEERS: dict[int, tuple[Issued, ...]] = {EE: (OLD,), TA: (LEAF, MIDDLE, ROOT), WRONG: (LEAF,), CLEAR: ()}

NOBODY, FORGED = "00" * 31 + "01", "00" * 31 + "02"


def digest(of: Issued, selector: int = 1) -> str:
    """SHA-256 of the key (1) or the certificate (0)."""
    return sha256(of.spki if selector else of.der).hexdigest()


def zone(port: int) -> str:
    """Domains named after what becomes of their mail; their hosts' names say what the host does."""
    records = {
        "ee": (EE, f"TLSA 3 1 1 {digest(OLD)}"),
        "rotating": (EE, f"TLSA 3 1 1 {NOBODY}", f"TLSA 3 0 1 {digest(OLD, 0)}"),
        "ta": (TA, f"TLSA 2 0 1 {digest(ROOT, 0)}"),
        "misnamed": (TA, f"TLSA 2 0 1 {digest(ROOT, 0)}"),
        "wrong": (WRONG, f"TLSA 3 1 1 {NOBODY}"),
        "bogus": (EE, f"TLSA 3 1 1 {FORGED}"),
        "unusable": (WRONG, f"TLSA 1 1 1 {digest(LEAF)}"),
        "none": (WRONG,),
        "clear": (CLEAR, f"TLSA 3 1 1 {NOBODY}"),
        "bare": (CLEAR,),
        "failing": (EE,),
    }
    lines = []
    for name, (host, *tlsa) in records.items():
        lines += [f"{name} A {NET.format(host)}", f"d-{name} MX 10 {name}"]
        lines += [f"_{port}._tcp.{name} {record}" for record in tlsa]
    lines += [
        "_tcp.failing NS ns.nowhere.test.",
        "ring CNAME ee",
        "d-ring MX 10 ring",
        "d-second MX 10 wrong",
        "d-second MX 20 ee",
        "d-alias CNAME d-ee",
        "outward CNAME outside.plain.test.",
        f"_{port}._tcp.outward TLSA 3 1 1 {digest(OLD)}",
        "d-outward MX 10 outward",
    ]
    return "\n".join(lines)


def plain_zone(port: int) -> str:
    """A zone without signatures, which names hosts of the signed one and has records that prove nothing."""
    return f"""
d-wrong      MX 10 wrong.signed.test.
d-own        MX 10 own
own          A {NET.format(WRONG)}
outside      A {NET.format(EE)}
_{port}._tcp.own     TLSA 3 1 1 {NOBODY}
_{port}._tcp.outside TLSA 3 1 1 {NOBODY}
"""


@pytest.fixture(scope="class")
def world(request: pytest.FixtureRequest) -> Iterator[None]:
    """One world for all tests of a class, as its `resolver` and `port`."""
    port = free_port("127.0.0.1")
    with (
        BrokenNameserver() as broken,
        signed_world(
            {"signed.test": zone(port)},
            {"plain.test": plain_zone(port)},
            forged=lambda text: text.replace(FORGED, digest(OLD)),  # the right record, without a right signature
            elsewhere={"_tcp.failing.signed.test": broken.address},
        ) as made,
    ):
        request.cls.resolver, request.cls.port = made.resolver, port
        yield


@pytest.mark.peers
@pytest.mark.skipif(bool(DNSSEC_MISSING), reason=DNSSEC_MISSING)
@pytest.mark.usefixtures("world")
class DaneTests(TestCase):
    """Mail to each of those domains."""

    resolver: ClassVar[str]
    port: ClassVar[int]
    timeout = 30

    def setUp(self) -> None:
        self.events: list[Event] = []
        self.books: dict[int, Notebook] = {}
        for host, chain in PEERS.items():
            self.serve(host, chain)
        self.names = Resolver(reactor, DnsSettings(servers=(self.resolver,), trust_ad=True))
        self.addCleanup(self.names.close)
        self.deliveries = self.make()

    def make(self, **more: Any) -> Deliveries:
        """The way out."""
        made = Deliveries(
            reactor,
            HostFinder(self.names),
            Settings(ehlo_timeout=Duration(5.0)),
            hostname="us.test",
            tell=self.events.append,
            tlsa=more.pop("tlsa", self.names),
        )
        self.addCleanup(lambda: made.close(1.0))
        return made

    def serve(self, host: int, chain: tuple[Issued, ...]) -> None:
        """A server with that certificate, or without TLS."""
        book = self.books[host] = Notebook()
        factory = RelayFactory(
            ListenerSettings(tls=TlsMode.STARTTLS if chain else TlsMode.NONE),
            "peer.test",
            lambda peer: NotingHandler(book, {}, lambda answer: answer),
            reactor,
            iter(f"S{number}" for number in range(1000)).__next__,
            on_bug=lambda where, trace: book.bugs.append(trace),
            tls_context=Presents(chain) if chain else None,
        )
        port = reactor.listenTCP(self.port, factory, interface=NET.format(host))
        self.addCleanup(port.stopListening)

    async def mail(self, domain: str, level: TlsLevel = TlsLevel.OPPORTUNISTIC, **wishes: Any) -> Outcome:
        """Send to somebody at d-DOMAIN.signed.test, or at a whole domain."""
        domain = domain if "." in domain else f"d-{domain}.signed.test"
        sent = evolve(envelope(f"a@{domain}"), **wishes)
        route = route_to(hops=(Hop(domain, self.port),), tls=level)
        (outcome,) = await self.deliveries.attempt(Batch("Q1", sent, MemoryContent(BODY), (0,), route, route.lane))
        return outcome

    def arrived(self) -> list[int]:
        """The hosts that took a message, once for each."""
        return [host for host, book in self.books.items() for _ in book.messages]

    def checked(self) -> TlsChecked:
        """The last session that was told."""
        return [event for event in self.events if isinstance(event, TlsChecked)][-1]

    async def is_put_off(self, domain: str, status: str, result: str, level: TlsLevel = TlsLevel.OPPORTUNISTIC) -> str:
        """Mail waits, nothing was said to the host beyond EHLO, and the session is told so; the text."""
        outcome = await self.mail(domain, level)
        assert (outcome.fate, outcome.status) == (Fate.DEFERRED, status), outcome
        assert not self.arrived() and not any("mail" in book.names() for book in self.books.values())
        assert self.checked().result == result
        return outcome.text

    async def test_dane_ee(self) -> None:
        """Secure MX, addresses and TLSA: delivered, verified, with an expired certificate for another name."""
        outcome = await self.mail("ee")
        assert outcome.fate is Fate.RELAYED and outcome.tls.endswith("(verified: DANE-EE)")
        assert self.arrived() == [EE]
        told = self.checked()
        assert (told.domain, told.policy, told.mx, told.result) == ("d-ee.signed.test", "tlsa", "ee.signed.test", "")
        assert told.terms == (f"3 1 1 {digest(OLD)}",) and told.policy_domain == "ee.signed.test"

    async def test_dane_ta(self) -> None:
        """The chain leads to an authority that nobody but DNS knows, and the certificate is for the host."""
        outcome = await self.mail("ta", TlsLevel.DANE)
        assert outcome.fate is Fate.RELAYED and outcome.tls.endswith("(verified: DANE-TA)")

    async def test_dane_ta_for_another_name(self) -> None:
        """The same chain behind another host name: RFC 7672 §3.2.3."""
        assert "is for none of" in await self.is_put_off("misnamed", "4.7.5", "certificate-host-mismatch")

    async def test_rotation(self) -> None:
        """The next key's record beside the present one's."""
        assert (await self.mail("rotating")).tls.endswith("(verified: DANE-EE)")

    async def test_a_wrong_record_defers(self) -> None:
        """No record matches: not a word after the handshake, the message waits, with the reason."""
        text = await self.is_put_off("wrong", "4.7.5", "certificate-not-trusted")
        assert "no TLSA record matches the certificate" in text

    async def test_the_second_host_is_tried(self) -> None:
        """A host that DANE refuses is one host: the next one gets the message."""
        assert (await self.mail("second")).host == "ee.signed.test"
        assert self.arrived() == [EE]

    async def test_a_bogus_record_defers_and_never_falls_back(self) -> None:
        """The right record with a broken signature: whoever forged it gains nothing, on any route."""
        for level in (TlsLevel.OPPORTUNISTIC, TlsLevel.ENCRYPT, TlsLevel.VERIFY, TlsLevel.DANE):
            text = await self.is_put_off("bogus", "4.4.3", "dnssec-invalid", level)
            assert "SERVFAIL" in text
        answer = await self.names.tlsa(f"_{self.port}._tcp.bogus.signed.test")
        assert answer.security is Vouched.BOGUS  # RFC 8914: unbound says why

    async def test_a_failed_look_up_defers_and_never_falls_back(self) -> None:
        """maddy issue 292: SERVFAIL for TLSA is not "no TLSA"."""
        for level in (TlsLevel.OPPORTUNISTIC, TlsLevel.ENCRYPT):
            assert "SERVFAIL" in await self.is_put_off("failing", "4.4.3", "dnssec-invalid", level)

    async def test_unusable_records_encrypt(self) -> None:
        """PKIX-EE(1) alone: TLS is a must and proves nobody (RFC 7672 §3.1.3)."""
        outcome = await self.mail("unusable")
        assert outcome.fate is Fate.RELAYED and outcome.tls.startswith("TLSv1.") and "verified" not in outcome.tls
        assert self.checked().result == "tlsa-invalid"

    async def test_records_and_no_starttls_defer(self) -> None:
        """A host that has records and offers no TLS is somebody else's, or stripped: never in clear."""
        assert "STARTTLS" in await self.is_put_off("clear", "4.7.4", "starttls-not-supported")

    async def test_no_records_in_a_signed_zone(self) -> None:
        """A secure "no" is a no: opportunistic TLS, or clear text where there is none; "dane" waits."""
        assert "verified" not in (await self.mail("none")).tls
        assert (await self.mail("bare")).tls == ""
        self.books[WRONG].messages.clear()
        self.books[CLEAR].messages.clear()
        for book in self.books.values():
            book.log.clear()
        assert "DANE is demanded" in await self.is_put_off("none", "4.7.4", "dane-required", TlsLevel.DANE)

    async def test_an_insecure_zone_falls_back_to_opportunistic(self) -> None:
        """RFC 7672 §2.2.1, §2.2.2: insecure MX or addresses: records, right or wrong, are not asked for."""
        for domain in ("d-wrong.plain.test", "d-own.plain.test"):
            outcome = await self.mail(domain)
            assert outcome.fate is Fate.RELAYED and outcome.tls and "verified" not in outcome.tls
            assert self.checked().policy == "no-policy-found"

    async def test_aliases(self) -> None:
        """RFC 7672 §2.2.2, §2.2.3: a host or a domain that is an alias, also one that leads out of the zone."""
        for domain in ("ring", "alias", "outward"):
            assert (await self.mail(domain)).tls.endswith("(verified: DANE-EE)"), domain

    async def test_tls_required_no_passes_dane_over(self) -> None:
        """RFC 8689 §4.2.2: the sender prefers delivery; the connection is nobody else's."""
        outcome = await self.mail("wrong", tls_optional=True)
        assert outcome.fate is Fate.RELAYED and self.arrived() == [WRONG]
        waiting = await self.mail("wrong")
        assert waiting.fate is Fate.DEFERRED and self.arrived() == [WRONG]

    async def test_an_unsigned_world_asks_for_no_tlsa(self) -> None:
        """Without dns.trust_ad nothing is DANE's."""
        self.deliveries = self.make(tlsa=None)
        assert (await self.mail("wrong")).fate is Fate.RELAYED

    async def test_a_second_message_takes_the_connection_that_was_verified(self) -> None:
        """One handshake, two messages."""
        for _ in range(2):
            assert (await self.mail("ee")).tls.endswith("(verified: DANE-EE)")
        assert self.books[EE].names().count("connect") == 1

    async def test_the_decision_without_a_connection(self) -> None:
        """`relaymta explain` asks what would be done, and why, and connects to nobody."""
        told: dict[str, Decision] = {}
        for name in ("ee", "failing", "unusable", "none"):
            hop = Hop(f"d-{name}.signed.test", self.port)
            hosts = await HostFinder(self.names).find(hop)
            assert isinstance(hosts, tuple)
            told[name] = await self.deliveries.security.decide(Ask(hop), hosts[0])
        assert told["ee"].verified and "DANE: 1 usable TLSA record at ee.signed.test" in told["ee"].reasons
        assert told["failing"].refusal is not None and "SERVFAIL" in told["failing"].reasons[-1]
        assert any("is of use" in reason for reason in told["unusable"].reasons)
        assert any("has no TLSA record" in reason for reason in told["none"].reasons)
        assert not any(book.log for book in self.books.values())
