"""Which TLS is asked of a host, why, and when clear text is allowed."""

from __future__ import annotations

from datetime import date
from enum import Enum
from typing import Any

import pytest
from attrs import evolve, field, frozen
from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed

from relaymta.delivery.policy import Ask, Decision, Exemption, demands_tls, sharing, waives_tls
from relaymta.delivery.security import Security, demanded, result_of
from relaymta.delivery.verification import Dane, Pkix, Unauthenticated, open_context, strict_context
from relaymta.net.dns import Answer as DnsAnswer
from relaymta.net.dns import Kind, State
from relaymta.net.dns import Security as Vouched
from relaymta.routing.mx import Host
from relaymta.routing.route import Hop, TlsLevel, Transport
from relaymta.smtp.actions import Answer, Stage, Tls, Trouble
from relaymta.trust import believing
from tests.delivery.network import route_to
from tests.smtp.scripted import envelope

HANDSHAKE = Answer(Stage.HANDSHAKE, trouble=Trouble.TLS, text="bad certificate")
HOST = "mx.test"
NAME = f"_25._tcp.{HOST}"
EE = b"\x03\x01\x01" + bytes(32)
TA = b"\x02\x01\x01" + bytes(32)
PKIX = b"\x01\x01\x01" + bytes(32)
LEVELS = list(TlsLevel)


class Mode(Enum):
    """RFC 8461 §3.2."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@frozen
class Policy:
    """An MTA-STS policy of one pattern."""

    mode: Mode = Mode.ENFORCE
    mx: tuple[str, ...] = (HOST,)
    max_age: int = 86400
    id: str = "1"
    text: tuple[str, ...] = ("version: STSv1",)

    def allows(self, host: str) -> bool:
        """Exact names alone."""
        return host in self.mx


@frozen
class World:
    """What is published, by the names of TLSA records and of domains."""

    tlsa_answers: dict[str, DnsAnswer[Any]] = field(factory=dict)
    policies: dict[str, Policy] = field(factory=dict)
    asked: list[str] = field(factory=list)

    def tlsa(self, name: str) -> Deferred[DnsAnswer[bytes]]:
        self.asked.append(name)
        return succeed(self.tlsa_answers.get(name, DnsAnswer(State.NXDOMAIN, security=Vouched.SECURE)))

    def lookup(self, name: str, kind: Kind[str]) -> Deferred[DnsAnswer[str]]:
        self.asked.append(f"{kind.name} {name}")
        return succeed(DnsAnswer(State.NODATA))

    async def policy(self, domain: str) -> Policy | None:
        self.asked.append(f"STS {domain}")
        return self.policies.get(domain)


def records(*octets: bytes, security: Vouched = Vouched.SECURE) -> World:
    """A world in which the host has TLSA records."""
    return World({NAME: DnsAnswer(State.FOUND, octets, security=security)})


def judge(world: World | None = None, now: list[float] | None = None, *exemptions: Exemption) -> Security:
    """A judge in that world, with a clock of ours."""
    clock = now or [0.0]
    return Security(
        lambda: clock[0], 600.0, names=world, sts=world, exemptions=exemptions, now=lambda: 1_795_000_000.0 + clock[0]
    )


SECURE = Host(HOST, 25, 10, ("192.0.2.1",), True, named=True, canonical=HOST, next_hop="b.test")
INSECURE = Host(HOST, 25, 10, ("192.0.2.1",))
RECIPIENTS = Hop("b.test")


def decide(
    level: TlsLevel = TlsLevel.OPPORTUNISTIC,
    world: World | None = None,
    host: Host = SECURE,
    hop: Hop = RECIPIENTS,
    security: Security | None = None,
    **wishes: bool,
) -> Decision:
    """What is decided for mx.test, which is a host of b.test."""
    found: list[Decision] = []
    deciding = (security or judge(world)).decide(Ask(hop, level, **wishes), host)
    Deferred.fromCoroutine(deciding).addCallback(found.append)
    return found[0]


# Levels


def test_each_level_asks_for_its_own() -> None:
    """none, opportunistic, encrypt, verify; connections of different levels are never shared."""
    levels = (TlsLevel.NONE, TlsLevel.OPPORTUNISTIC, TlsLevel.ENCRYPT, TlsLevel.VERIFY)
    found = [decide(level) for level in levels]
    assert [one.tls for one in found] == [Tls.NEVER, Tls.MAY, Tls.MUST, Tls.MUST]
    assert len({one.mark for one in found}) == 4 and [one.verified for one in found] == [False] * 3 + [True]
    kinds = [type(one.creator) for one in found]
    assert kinds == [type(None), Unauthenticated, Unauthenticated, Pkix]


def test_verify_is_for_one_name() -> None:
    """A connection verified for one name serves no other."""
    other = decide(TlsLevel.VERIFY, host=evolve(SECURE, name="other.test"))
    assert other.mark != decide(TlsLevel.VERIFY).mark


def test_verify_of_a_name_that_no_certificate_can_bear() -> None:
    """A host name that is no name defers and is not a bug."""
    for name in ("a" * 300 + ".test", "a..test"):
        refusal = decide(TlsLevel.VERIFY, host=Host(name, 25)).refusal
        assert refusal is not None and "no certificate can name" in refusal.text


def test_dane_is_not_taken_for_less() -> None:
    """The level "dane" without secure, usable records: the message waits, whatever else there is."""
    sts = {"b.test": Policy()}
    for world in (World(policies=sts), records(PKIX), records(EE, security=Vouched.INSECURE)):
        found = decide(TlsLevel.DANE, world)
        assert found.refusal is not None and found.refusal.result == "dane-required"
        assert "DANE is demanded" in found.refusal.text
    assert decide(TlsLevel.DANE, records(EE), INSECURE).refusal is not None
    assert decide(TlsLevel.DANE, records(EE)).verified


def test_none_is_never_tls_and_asks_nobody() -> None:
    """The operator's word stands against everybody's policy, and is told as such."""
    world = World({NAME: DnsAnswer(State.FOUND, (EE,), security=Vouched.SECURE)}, {"b.test": Policy()})
    found = decide(TlsLevel.NONE, world)
    assert found.tls is Tls.NEVER and not world.asked and "TLS is never spoken" in found.reasons


def test_opportunistic_falls_back_and_remembers_for_minutes() -> None:
    """Haraka issue 2944: a failed handshake is retried in clear and remembered for minutes, not for a week."""
    now = [0.0]
    security = judge(None, now)
    decision = decide(security=security)
    clear = security.in_clear(decision, HANDSHAKE, HOST, "192.0.2.1", 25)
    assert clear is not None and (clear.tls, clear.mark) == (Tls.NEVER, decision.mark)
    assert security.at(decision, HOST, "192.0.2.1", 25).tls is Tls.NEVER
    assert security.at(decision, HOST, "192.0.2.2", 25).tls is Tls.MAY
    # a stranger's MX that leads to the same server, which knows no such name, takes nobody's TLS away
    assert security.at(decision, "evil.test", "192.0.2.1", 25).tls is Tls.MAY
    demanding = decide(TlsLevel.ENCRYPT, security=security)
    assert security.at(demanding, HOST, "192.0.2.1", 25).tls is Tls.MUST
    now[0] = 601.0
    assert security.at(decision, HOST, "192.0.2.1", 25).tls is Tls.MAY


def test_demanded_tls_never_falls_back() -> None:
    """Clear text is for the opportunistic level alone, and there only where no policy was found."""
    security = judge()
    sts = World(policies={"b.test": Policy()})
    for found in (decide(TlsLevel.ENCRYPT), decide(TlsLevel.VERIFY), decide(world=records(EE)), decide(world=sts)):
        assert security.in_clear(found, HANDSHAKE, HOST, "192.0.2.1", 25) is None
    assert security.in_clear(decide(world=records(PKIX)), HANDSHAKE, HOST, "192.0.2.1", 25) is None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(Stage.CONNECT, trouble=Trouble.UNREACHABLE),
        Answer(Stage.BANNER, trouble=Trouble.LOST),
        Answer(Stage.STARTTLS, trouble=Trouble.GARBLED),
    ],
)
def test_other_trouble_is_no_reason_for_clear_text(answer: Answer) -> None:
    """Only STARTTLS and the handshake are TLS's trouble; a peer that injects text is not rewarded."""
    assert judge().in_clear(decide(), answer, HOST, "192.0.2.1", 25) is None


# DANE


def test_dane_comes_first_and_is_a_must() -> None:
    """RFC 7672 §2.2: usable records make verified TLS a must on an opportunistic route; MTA-STS is not asked."""
    world = evolve(records(EE), policies={"b.test": Policy(mx=("other.test",))})
    for level in (TlsLevel.OPPORTUNISTIC, TlsLevel.ENCRYPT, TlsLevel.VERIFY, TlsLevel.DANE):
        found = decide(level, world)
        assert (found.tls, found.verified, found.refusal) == (Tls.MUST, True, None)
        assert isinstance(found.creator, Dane) and found.mark.startswith("dane mx.test")
        assert found.watch is not None and found.watch.policy == "tlsa"
        assert (found.watch.domain, found.watch.policy_domain) == ("b.test", "mx.test")
    assert world.asked == [NAME] * 4


@pytest.mark.parametrize("security", [Vouched.FAILED, Vouched.BOGUS])
@pytest.mark.parametrize("level", [TlsLevel.OPPORTUNISTIC, TlsLevel.ENCRYPT, TlsLevel.VERIFY, TlsLevel.DANE])
def test_maddy_292_a_failed_tlsa_look_up_never_falls_back(level: TlsLevel, security: Vouched) -> None:
    """RFC 7672 §2.1.2: SERVFAIL is not "no TLSA" (maddy issue 292, kumomta issue 543): the host is left, mail waits."""
    answer: DnsAnswer[Any] = DnsAnswer(State.FAILED, security=security, text=f"{NAME} TLSA: SERVFAIL")
    world = World({NAME: answer}, {"b.test": Policy()})
    found = decide(level, world)
    assert found.refusal is not None and (found.refusal.status, found.result) == ("4.4.3", "dnssec-invalid")
    assert "SERVFAIL" in found.refusal.text and not found.verified


def test_kumomta_543_security_of_mx_and_addresses_comes_before_tlsa() -> None:
    """RFC 7672 §2.2.1, §2.2.2 (kumomta issue 543, stalwart issue 2328): insecure answers ask for no TLSA records."""
    for host in (INSECURE, evolve(SECURE, secure=False)):
        world = records(EE)
        found = decide(world=world, host=host)
        assert found.tls is Tls.MAY and NAME not in world.asked


def test_unusable_records_mean_unauthenticated_tls() -> None:
    """RFC 7672 §2.2: encrypted though nobody is proved, and never in clear; counted as tlsa-invalid."""
    found = decide(world=records(PKIX))
    assert (found.tls, found.verified, found.mark) == (Tls.MUST, False, "encrypt")
    assert isinstance(found.creator, Unauthenticated) and found.result == "tlsa-invalid"
    floor = decide(TlsLevel.VERIFY, records(PKIX))
    assert isinstance(floor.creator, Pkix)


def test_an_unsigned_world_asks_for_no_records() -> None:
    """Without trusted answers there is no TLSA question at all."""
    world = records(EE)
    security = Security(lambda: 0.0, 600.0)
    assert decide(security=security).tls is Tls.MAY and not world.asked


def test_dane_holds_for_hosts_that_the_operator_named() -> None:
    """RFC 7672 §2.2.2: a next hop without MX is asked at its own name and port."""
    hop = Hop("smart.test", 587, mx=False, configured=True)
    host = Host("smart.test", 587, 0, ("192.0.2.1",), True, named=True, canonical="smart.test")
    world = World({"_587._tcp.smart.test": DnsAnswer(State.FOUND, (EE,), security=Vouched.SECURE)})
    found = decide(world=world, host=host, hop=hop)
    assert found.verified and found.watch is None
    assert decide(world=world, host=Host("192.0.2.1", 25, addresses=("192.0.2.1",), secure=True)).tls is Tls.MAY


def test_dane_ta_names_are_the_base_domain_the_host_and_the_next_hop() -> None:
    """RFC 7672 §3.2.2: what DNSSEC connects, may stand in the certificate."""
    host = evolve(SECURE, canonical="end.test", next_hop="real.test")
    for octets, mark in ((TA, "dane end.test mx.test b.test real.test"), (EE, "dane end.test")):
        world = World({"_25._tcp.end.test": DnsAnswer(State.FOUND, (octets,), security=Vouched.SECURE)})
        assert decide(world=world, host=host).mark == mark  # whoever shares a connection shares its proof


# MTA-STS


def test_mta_sts_enforced_is_a_verified_certificate_of_a_named_host() -> None:
    """RFC 8461 §5: a host that the policy names, with PKIX; any other is left, and never in clear."""
    world = World(policies={"b.test": Policy()})
    found = decide(world=world)
    assert (found.tls, found.verified, found.mark) == (Tls.MUST, True, "sts b.test mx.test")
    assert isinstance(found.creator, Pkix) and found.watch is not None
    assert (found.watch.policy, found.watch.patterns) == ("sts", ("mx.test",))
    stranger = decide(world=World(policies={"b.test": Policy(mx=("other.test",))}))
    assert stranger.refusal is not None and stranger.result == "validation-failure"


def test_mta_sts_testing_is_reported_and_binds_nobody() -> None:
    """RFC 8461 §5.1: delivered as if there were none; what would have failed is told."""
    found = decide(world=World(policies={"b.test": Policy(Mode.TESTING)}))
    assert (found.tls, found.verified, found.refusal) == (Tls.MAY, False, None)
    assert isinstance(found.creator, Pkix) and found.watch is not None and found.watch.policy == "sts"
    stranger = decide(world=World(policies={"b.test": Policy(Mode.TESTING, ("other.test",))}))
    assert stranger.refusal is None and stranger.result == "validation-failure"


def test_kumomta_484_one_domains_policy_is_not_its_neighbours() -> None:
    """Two domains with one MX (kumomta issue 484): a bad policy bars its own, and connections are not shared."""
    world = World(policies={"b.test": Policy(mx=("other.test",)), "good.test": Policy()})
    assert decide(world=world).refusal is not None
    good, none = decide(world=world, hop=Hop("good.test")), decide(world=world, hop=Hop("none.test"))
    assert good.refusal is None and none.refusal is None and len({good.mark, none.mark}) == 2


def test_mta_sts_is_of_the_domain_whose_mx_are_used() -> None:
    """RFC 8461 §3.4: a smart host's domain is the policy domain; a host that the operator named itself has none."""
    world = World(policies={"b.test": Policy()})
    found = decide(world=world, hop=Hop("b.test", configured=True))
    assert isinstance(found.creator, Pkix) and found.watch is not None and found.watch.domain == "b.test"
    world = World(policies={"b.test": Policy()})
    found = decide(world=world, hop=Hop("b.test", mx=False, configured=True))
    assert found.tls is Tls.MAY and found.watch is None and not world.asked[1:]


# What the sender wants


def test_requiretls_wants_a_name_that_is_vouched_for() -> None:
    """RFC 8689 §4.2.1: DNSSEC or MTA-STS for the host of an MX, or the operator's own word for a host."""
    sts = World(policies={"b.test": Policy()})
    hop = Hop("smart.test", mx=False, configured=True)
    named = Host("smart.test", 25, addresses=("192.0.2.1",), named=True)
    for found in (
        decide(requiretls=True),
        decide(world=sts, host=INSECURE, requiretls=True),
        decide(world=records(EE), requiretls=True),
        decide(host=named, hop=hop, requiretls=True),
    ):
        assert found.refusal is None and found.verified and found.requiretls and found.tls is Tls.MUST
        assert found.mark.startswith("requiretls ")
    refusal = decide(host=INSECURE, requiretls=True).refusal
    assert refusal is not None and (refusal.trouble, refusal.status) == (Trouble.UNSAFE, "5.7.10")


def test_requiretls_is_not_sent_where_the_route_has_no_tls() -> None:
    """What can never be had is told at once."""
    refusal = decide(TlsLevel.NONE, requiretls=True).refusal
    assert refusal is not None and refusal.status == "5.7.10"


def test_requiretls_makes_a_no_of_what_a_peer_could_not_show() -> None:
    """RFC 8689 §4.2.1: no STARTTLS or a bad certificate is final; a cut connection or a look-up that failed is not."""
    decision = decide(requiretls=True)
    no_starttls = Answer(Stage.STARTTLS, trouble=Trouble.NO_TLS, text="not offered")
    bad = evolve(HANDSHAKE, result="certificate-expired")
    for answer in (no_starttls, bad):
        assert demanded(decision, answer).status == "5.7.10"
        assert demanded(decide(), answer) is answer
    for answer in (HANDSHAKE, Answer(Stage.CONNECT, trouble=Trouble.UNREACHABLE)):
        assert demanded(decision, answer) is answer


def test_tls_required_no_passes_over_the_domains_policies() -> None:
    """RFC 8689 §4.2.2: DANE and MTA-STS are not asked; the operator's own floor stays; nothing is reported."""
    world = evolve(records(EE), policies={"b.test": Policy(mx=())})
    found = decide(world=world, tls_optional=True)
    assert (found.tls, found.refusal, found.watch) == (Tls.MAY, None, None) and not world.asked
    assert decide(TlsLevel.VERIFY, world, tls_optional=True).verified
    assert decide(TlsLevel.DANE, world, tls_optional=True).mark.startswith("dane ")


def test_who_demands_and_who_waives() -> None:
    """RFC 8689 §4.1, §4.2.1: REQUIRETLS overrules the header, binds nobody for the null sender, ends at a mailbox."""
    asks = evolve(envelope("a@b.test"), requiretls=True, tls_optional=True)
    smtp, lmtp = route_to(), route_to(transport=Transport.LMTP)
    assert demands_tls(asks, smtp) and not waives_tls(asks)
    assert not demands_tls(asks, lmtp) and not demands_tls(evolve(asks, sender=None), smtp)
    names = {
        sharing(one, smtp) for one in (asks, evolve(asks, requiretls=False), evolve(asks, sender=None), envelope())
    }
    assert names == {smtp.lane, f"{smtp.lane};requiretls", f"{smtp.lane};tls-required=no"}


def test_no_server_chooses_how_long_a_handshake_computes() -> None:
    """D(HE)at, from a server: 10,000 bits of its choice cost a second for each handshake; everything else is there."""
    for context in (open_context(), strict_context(), believing().getContext()):
        ciphers = SSL.Connection(context, None).get_cipher_list()
        assert not [one for one in ciphers if one.startswith(("DHE-RSA", "DHE-DSS", "ADH"))]
        assert {"TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "AES128-GCM-SHA256"} <= set(ciphers)


def test_a_handshake_is_not_repeated() -> None:
    """What was proved of a peer holds for the whole session, and it does not make us compute again and again."""
    for context in (open_context(), strict_context()):
        assert context.set_options(0) & SSL.OP_NO_RENEGOTIATION


# Exceptions


def exemption(level: TlsLevel, **whom: str) -> Exemption:
    """Until the end of 2026-11-19 UTC; 1_795_132_800 is the midnight after."""
    return Exemption(level, "their DANE is broken, ticket 7", date(2026, 11, 19), **whom)


@pytest.mark.parametrize("whom", [{"domain": "b.test"}, {"host": "mx.test"}])
def test_an_exception_stands_in_the_place_of_policy_until_it_ends(whom: dict[str, str]) -> None:
    """It wins against DANE and the route to the end of its day, with its reason, and is then no more."""
    now = [0.0]
    world = records(EE)
    security = judge(world, now, exemption(TlsLevel.ENCRYPT, **whom))
    found = decide(TlsLevel.VERIFY, security=security)
    assert found.mark == "encrypt" and world.asked == (["STS b.test"] if "host" in whom else [])
    assert found.reasons[0] == "exception until 2026-11-19 (their DANE is broken, ticket 7): encrypt"
    other = decide(security=security, host=evolve(SECURE, name="other.test"), hop=Hop("c.test"))
    assert other.reasons[0] == "the route says opportunistic"
    now[0] = 132_799.0
    assert decide(security=security).mark == "encrypt"
    now[0] = 132_800.0
    assert decide(security=security).mark.startswith("dane ")


@pytest.mark.parametrize("level", [TlsLevel.NONE, TlsLevel.OPPORTUNISTIC, TlsLevel.ENCRYPT, TlsLevel.VERIFY])
def test_an_exception_for_a_host_makes_it_nobodys_host(level: TlsLevel) -> None:
    """RFC 8461 §5: a forged MX does not lead a protected domain's mail to the host that an exception is for."""
    for mode, mx, refused in (
        (Mode.ENFORCE, "other.test", True), (Mode.ENFORCE, HOST, False), (Mode.TESTING, "other.test", False),
    ):  # fmt: skip
        world = World(policies={"b.test": Policy(mode, (mx,))})
        assert (decide(security=judge(world, None, exemption(level, host=HOST))).refusal is not None) is refused
        assert decide(security=judge(world, None, exemption(level, domain="b.test"))).refusal is None
        assert decide(security=judge(world, None, exemption(level, host=HOST)), tls_optional=True).refusal is None


def test_an_exception_may_demand_dane() -> None:
    """A level is a level: also a higher one."""
    assert decide(security=judge(World(), None, exemption(TlsLevel.DANE, domain="b.test"))).refusal is not None
    assert decide(security=judge(records(EE), None, exemption(TlsLevel.DANE, domain="b.test"))).verified


def test_an_exception_does_not_overrule_the_sender() -> None:
    """REQUIRETLS is the sender's, and the operator's exception is from what domains publish."""
    found = decide(security=judge(None, None, exemption(TlsLevel.OPPORTUNISTIC, domain="b.test")), requiretls=True)
    assert found.verified and found.requiretls


# Reasons and reports


@pytest.mark.parametrize("level", LEVELS)
def test_every_decision_says_why(level: TlsLevel) -> None:
    """`relaymta explain` shows the reasons: each a sentence, the route's word first."""
    for world in (None, records(EE), records(PKIX), World(policies={"b.test": Policy()})):
        for wishes in ({}, {"requiretls": True}, {"tls_optional": True}):
            reasons = decide(level, world, **wishes).reasons
            assert reasons[0] == f"the route says {level.value}" and all(reasons) and len(reasons) >= 2


def test_what_a_failed_session_says_of_tls() -> None:
    """RFC 8460 §4.3: the words of its reports; a host that is down says nothing of TLS."""
    assert result_of(Answer(Stage.STARTTLS, trouble=Trouble.NO_TLS)) == "starttls-not-supported"
    assert result_of(HANDSHAKE) == "validation-failure"
    assert result_of(evolve(HANDSHAKE, result="certificate-expired")) == "certificate-expired"
    assert result_of(Answer(Stage.CONNECT, trouble=Trouble.UNREACHABLE)) is None
