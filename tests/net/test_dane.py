"""DANE: which records count, which chains are what they say, and how they are looked up."""

from __future__ import annotations

import functools
from collections.abc import Callable
from hashlib import sha256, sha512
from typing import Any

import pytest
from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed

from relaymta.net import dane
from relaymta.net.dane import PUBLISHED_MAX, RECORDS_MAX, Finding, Presence, Terms, Tlsa, look_up, usable, verify
from relaymta.net.dane_chain import CertificateError, Result, covers, public_key
from relaymta.net.dns import Answer, Kind, Security, State
from tests.net.pki import Issued, issue, rsa_key

HOST = "mx.example.org"
DIGEST: dict[int, Callable[[bytes], bytes]] = {
    0: lambda octets: octets,
    1: lambda octets: sha256(octets).digest(),
    2: lambda octets: sha512(octets).digest(),
}


@functools.cache
def root() -> Issued:
    """An authority of nobody's list."""
    return issue("root", authority=True)


@functools.cache
def middle() -> Issued:
    """An authority below it."""
    return issue("middle", root(), authority=True)


@functools.cache
def leaf() -> Issued:
    """The host's."""
    return issue(HOST, middle(), names=[HOST])


def record(usage: int, selector: int, matching: int, of: Issued) -> bytes:
    """A TLSA record's data."""
    return bytes([usage, selector, matching]) + DIGEST[matching](of.spki if selector else of.der)


def chain(*issued: Issued) -> list[bytes]:
    """As the peer presents it."""
    return [one.der for one in issued or (leaf(), middle(), root())]


def judged(records: list[bytes], presented: list[bytes], *names: str) -> Finding:
    """The verdict by those of the records that are usable."""
    return verify(presented, usable(records), names or (HOST,))


ALL = [(selector, matching) for selector in (0, 1) for matching in (0, 1, 2)]


# DANE-EE


@pytest.mark.parametrize(("selector", "matching"), ALL)
def test_dane_ee_with_every_selector_and_matching_type(selector: int, matching: int) -> None:
    """RFC 6698 §2.1.2 and §2.1.3: certificate or key, whole or as SHA-256 or SHA-512."""
    found = record(3, selector, matching, leaf())
    assert judged([found], chain()) == Finding("DANE-EE")
    other = issue(HOST, middle(), names=[HOST])
    refused = judged([found], chain(other, middle(), root()))
    assert (refused.how, refused.result) == ("", Result.NOT_TRUSTED) and "no TLSA record matches" in refused.text


@pytest.mark.parametrize("selector", [0, 1])
def test_dane_ee_ignores_names_and_dates(selector: int) -> None:
    """RFC 7672 §3.1.1: an expired certificate for another name, signed by itself, is the one that was named."""
    other = issue("other.test", names=["other.test"], expired=True)
    assert judged([record(3, selector, 1, other)], [other.der]) == Finding("DANE-EE")


def test_dane_ee_is_about_the_peers_own_certificate() -> None:
    """An EE record that matches an authority of the chain proves nothing."""
    assert judged([record(3, 1, 1, middle())], chain()).how == ""


# DANE-TA


@pytest.mark.parametrize(("selector", "matching"), ALL)
@pytest.mark.parametrize("anchor", [root, middle])
def test_dane_ta_with_every_selector_and_matching_type(
    anchor: Callable[[], Issued], selector: int, matching: int
) -> None:
    """RFC 7672 §3.1.2: root or intermediate, as long as the chain brings it; no public authority is asked."""
    assert judged([record(2, selector, matching, anchor())], chain()) == Finding("DANE-TA")


@pytest.mark.parametrize("matching", [1, 2])
def test_dane_ta_by_a_digest_needs_the_anchor_in_the_chain(matching: int) -> None:
    """RFC 7672 §3.1.2: a digest of what the peer does not present verifies nothing."""
    assert judged([record(2, 0, matching, root())], chain(leaf(), middle())).result is Result.NOT_TRUSTED


@pytest.mark.parametrize("selector", [0, 1])
def test_dane_ta_whole_in_dns_needs_no_anchor_in_the_chain(selector: int) -> None:
    """RFC 7671 §5.2.2: a whole certificate or a whole key is an anchor by itself."""
    for anchor, presented in ((root(), chain(leaf(), middle())), (middle(), chain(leaf()))):
        assert judged([record(2, selector, 0, anchor)], presented) == Finding("DANE-TA")
    stranger = issue("root", authority=True)
    assert judged([record(2, selector, 0, stranger)], chain()).result is Result.NOT_TRUSTED


@pytest.mark.parametrize("key", [rsa_key, ed25519.Ed25519PrivateKey.generate])
def test_a_bare_key_of_any_kind_is_an_anchor(key: Callable[[], Any]) -> None:
    """RSA and Ed25519 beside ECDSA."""
    anchor = issue("root", authority=True, key=key())
    presented = [issue(HOST, anchor, names=[HOST]).der]
    assert judged([record(2, 1, 0, anchor)], presented) == Finding("DANE-TA")
    assert judged([record(2, 1, 0, anchor)], chain(leaf())).result is Result.NOT_TRUSTED


def test_dane_ta_checks_names() -> None:
    """RFC 7672 §3.2.3: the TLSA base domain or the next hop, and nothing else; "*" is one whole first label."""
    found = [record(2, 0, 1, root())]
    for names, good in (
        ((HOST,), True),
        (("other.test", HOST), True),
        (("other.test", "example.org"), False),
    ):
        finding = judged(found, chain(), *names)
        assert (finding.how == "DANE-TA") is good
        assert good or finding.result is Result.HOST_MISMATCH
    wild = issue("whatever", middle(), names=["*.example.org"])
    assert judged(found, chain(wild, middle(), root())).how == "DANE-TA"
    assert judged(found, chain(wild, middle(), root()), "a.mx.example.org").result is Result.HOST_MISMATCH


def test_the_common_name_counts_where_there_is_no_other() -> None:
    """RFC 7672 §3.2.3: CN-ID, but not beside a subjectAltName."""
    found = [record(2, 0, 1, root())]
    assert judged(found, chain(issue(HOST, middle()), middle(), root())).how == "DANE-TA"
    both = issue(HOST, middle(), names=["other.test"])
    assert judged(found, chain(both, middle(), root())).result is Result.HOST_MISMATCH


@pytest.mark.parametrize("fault", [{"expired": True}, {"early": True}])
def test_dane_ta_refuses_what_is_not_in_force(fault: dict[str, bool]) -> None:
    """Dates matter under DANE-TA, of the peer's certificate and of those above it, whatever the anchor is."""
    old_leaf = issue(HOST, middle(), names=[HOST], **fault)  # type: ignore[arg-type]
    old_middle = issue("middle", root(), authority=True, **fault)  # type: ignore[arg-type]
    below = issue(HOST, old_middle, names=[HOST])
    for anchor, presented in ((root(), (old_leaf, middle(), root())), (root(), (below, old_middle, root()))):
        for selector, matching in ALL:
            assert judged([record(2, selector, matching, anchor)], chain(*presented)).result is Result.EXPIRED
    assert judged([record(2, 1, 0, middle())], chain(old_leaf)).result is Result.EXPIRED
    assert judged([record(2, 0, 1, old_middle)], chain(below, old_middle)).result is Result.EXPIRED


def test_dane_ta_wants_authorities_that_may_sign() -> None:
    """RFC 5280 §6.1.4: a host's certificate signs nothing, whether DNS names it or not."""
    host = issue("host.test", middle(), names=["host.test"])
    forged = issue(HOST, host, names=[HOST])
    for anchor in (host, middle(), root()):
        finding = judged([record(2, 0, 1, anchor)], chain(forged, host, middle(), root()))
        assert finding.result is Result.NOT_TRUSTED, anchor


def test_dane_ta_wants_a_servers_certificate() -> None:
    """RFC 5280 §4.2.1.12: one for clients alone is no server's."""
    client = issue(HOST, middle(), names=[HOST], usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    server = issue(HOST, middle(), names=[HOST], usage=ExtendedKeyUsageOID.SERVER_AUTH)
    found = [record(2, 1, 1, root())]
    assert judged(found, chain(client, middle(), root())).result is Result.NOT_TRUSTED
    assert judged(found, chain(server, middle(), root())).how == "DANE-TA"


def test_dane_ta_is_not_met_by_the_mere_presence_of_the_anchor() -> None:
    """An anchor that is sent along but signed nothing of the chain is no proof."""
    stranger = issue(HOST, names=[HOST])
    assert judged([record(2, 0, 1, root())], chain(stranger, middle(), root())).result is Result.NOT_TRUSTED


def test_the_peers_own_certificate_is_no_anchor_for_itself() -> None:
    """A DANE-TA digest of the leaf is a mistake of whoever published it (RFC 7671 §5.2)."""
    alone = issue(HOST, names=[HOST])
    assert judged([record(2, 1, 1, alone)], [alone.der]).how == ""


# Records


@pytest.mark.parametrize("usage", [0, 1, 4, 255])
def test_other_usages_are_unusable(usage: int) -> None:
    """RFC 7672 §3.1.3: PKIX-TA(0) and PKIX-EE(1) are not for SMTP, the others are nobody's."""
    assert usable([record(3, 1, 1, leaf()).replace(b"\x03", bytes([usage]), 1)]) == ()


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x03\x01\x01",
        b"\x03\x01\x01" + bytes(31),
        b"\x03\x01\x02" + bytes(32),
        b"\x03\x02\x01" + bytes(32),
        b"\x03\x01\x03" + bytes(32),
        b"\x02\x00\x00" + bytes(40),
        b"\x02\x01\x00not a key",
    ],
)
def test_what_is_malformed_or_unknown_is_unusable(octets: bytes) -> None:
    """RFC 7671 §4.1: a digest of the wrong length, a selector or matching type of nobody's, no certificate."""
    assert usable([octets]) == ()
    good = record(3, 1, 1, leaf())
    assert [str(one) for one in usable([octets, good])] == [f"3 1 1 {good[3:].hex()}"]


def test_rotation_one_record_that_matches_suffices() -> None:
    """RFC 7671 §8.1: the next key's record stands beside that of the present one, in whatever order."""
    following = issue(HOST, middle(), names=[HOST])
    records = [record(3, 1, 1, following), record(3, 1, 1, leaf())]
    for order in (records, records[::-1]):
        for shown in (leaf(), following):
            assert judged(order, chain(shown, middle(), root())).how == "DANE-EE"


def test_mixed_usages_any_of_them_suffices() -> None:
    """A wrong EE beside a right TA, a wrong TA beside a right EE, an unusable one beside either."""
    stranger = issue("stranger", authority=True)
    pkix = record(1, 0, 1, leaf())
    assert judged([pkix, record(3, 1, 1, stranger), record(2, 0, 1, root())], chain()).how == "DANE-TA"
    assert judged([pkix, record(3, 1, 1, leaf()), record(2, 0, 1, stranger)], chain()).how == "DANE-EE"
    assert judged([pkix, record(3, 1, 1, leaf()), record(2, 0, 1, root())], chain(), "other.test").how == "DANE-EE"


def test_digest_agility_the_strongest_digest_counts() -> None:
    """RFC 7671 §9: beside SHA-512 a SHA-256 of the same usage and selector is not looked at; Full(0) is."""
    strong, weak = record(3, 1, 2, root()), record(3, 1, 1, leaf())
    assert judged([strong, weak], chain()).how == ""
    assert judged([strong, record(3, 0, 1, leaf())], chain()).how == "DANE-EE"  # another selector
    assert judged([strong, record(3, 1, 0, leaf())], chain()).how == "DANE-EE"
    assert judged([strong[:-1], weak], chain()).how == "DANE-EE"  # a malformed one outdoes nothing
    assert judged([strong, record(2, 1, 1, root())], chain()).how == "DANE-TA"  # another usage


def test_thousands_of_records_cost_little_and_never_become_none() -> None:
    """Who fills an answer with records gets a few of them: no quadratic look-up, no long report, no downgrade."""
    many = [bytes((3, 1, 1)) + number.to_bytes(32, "big") for number in range(20_000)]
    assert usable(many) == usable(many[:RECORDS_MAX]) and len(usable(many)) == RECORDS_MAX
    assert len(usable([PKIX] * 5000 + many)) == RECORDS_MAX
    assert judged([*many, record(3, 1, 2, leaf())], chain()).how == "DANE-EE"  # the strongest digest is never left out
    found = looked_up(Zone({f"_25._tcp.{HOST}": tlsa(*many)}))
    assert found.presence is Presence.USABLE and sum(map(len, found.published)) <= PUBLISHED_MAX
    assert looked_up(Zone({f"_25._tcp.{HOST}": tlsa(b"\x02\x00\x00" + bytes(60_000), GOOD)})).published == ()


def test_a_chain_of_hundreds_of_certificates_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates shown twice, and those behind a good many, are not looked at."""
    asked: list[int] = []
    proof = dane.verify_chain
    monkeypatch.setattr(dane, "verify_chain", lambda *given: asked.append(1) or proof(*given))
    stranger = issue("stranger", authority=True)
    shown = chain(leaf(), *[stranger] * 300)
    assert judged([record(2, 0, 1, stranger)], shown).how == "" and len(asked) == 1
    assert judged([record(2, 0, 1, root())], chain(leaf(), middle(), *[stranger] * 10, root())).how == "DANE-TA"


def test_no_certificate_is_no_proof() -> None:
    """A peer that shows none fails, and garbage is no bug."""
    records = [record(3, 1, 1, leaf()), record(2, 0, 1, root()), record(2, 1, 0, root())]
    assert judged(records, []).result is Result.VALIDATION
    assert judged(records, [b"garbage"]).result is Result.NOT_TRUSTED
    assert judged(records, [leaf().der[:100], middle().der]).result is Result.NOT_TRUSTED


@pytest.mark.parametrize("octets", [b"\x30\x02\xa3\x00", b"garbage", b"\x30\x03\x82\x01\xff"])
def test_names_that_cannot_be_read_are_no_names(octets: bytes) -> None:
    """A subjectAltName of a kind that nobody reads, of garbage, of what is no ASCII: refused, and no bug."""
    odd = issue(HOST, middle(), extra=x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, octets))
    finding = judged([record(2, 0, 1, root())], chain(odd, middle(), root()))
    assert finding.how == "" and finding.result is Result.NOT_TRUSTED
    assert judged([record(3, 1, 1, odd)], chain(odd)).how == "DANE-EE"  # where names do not matter


def test_a_key_is_read_as_it_stands_in_the_certificate() -> None:
    """SPKI(1) is those octets, whatever the kind of key; what is behind a certificate is not of it."""
    for one in (leaf(), root(), issue("r", key=rsa_key()), issue("e", key=ed25519.Ed25519PrivateKey.generate())):
        assert public_key(one.der) == one.spki
    with pytest.raises(CertificateError):
        public_key(leaf().der + b"\0")


@given(st.binary(max_size=80) | st.integers(0, 300).map(lambda cut: leaf().der[:cut]))
def test_no_octets_are_a_bug(octets: bytes) -> None:
    """A certificate of garbage is refused with a CertificateError alone."""
    with pytest.raises(CertificateError):
        public_key(octets)


def test_wildcards_stand_for_one_whole_label() -> None:
    """RFC 6125 §6.4.3, as RFC 7672 §3.2.3 wants it."""
    assert covers(["*.b.test"], ["a.b.test"])
    for pattern in ("*", "*.test", "a*.b.test", "*.*.test", "a.*.test", "", "*."):
        assert not covers([pattern], ["a.b.test", "", "test"]), pattern


# The look-up

SECURE, INSECURE = Security.SECURE, Security.INSECURE


@define
class Zone:
    """A resolver of few names: TLSA and CNAME answers by name."""

    answers: dict[str, Answer[Any]]
    asked: list[str] = field(factory=list)

    def tlsa(self, name: str) -> Deferred[Answer[bytes]]:
        return self._ask(name)

    def lookup(self, name: str, kind: Kind[str]) -> Deferred[Answer[str]]:
        return self._ask(f"{kind.name} {name}")

    def _ask(self, name: str) -> Deferred[Answer[Any]]:
        self.asked.append(name)
        return succeed(self.answers.get(name, Answer(State.NXDOMAIN, security=SECURE)))


def looked_up(zone: Zone, canonical: str = "", *, secure: bool = True) -> Terms:
    """What is found for mx.example.org."""
    found: list[Terms] = []
    looking = look_up(zone, HOST, canonical, 25, addresses_secure=secure)
    Deferred.fromCoroutine(looking).addCallback(found.append)
    return found[0]


def tlsa(*records: bytes, security: Security = SECURE) -> Answer[bytes]:
    """An answer with records."""
    return Answer(State.FOUND, records, security=security)


GOOD = b"\x03\x01\x01" + bytes(32)
PKIX = b"\x01\x01\x01" + bytes(32)


def test_records_are_asked_for_by_port_and_host() -> None:
    """RFC 7672 §2.2.3: _25._tcp.mx.example.org; the published text is for reports, in whatever order they came."""
    zone = Zone({f"_25._tcp.{HOST}": tlsa(GOOD, PKIX)})
    found = looked_up(zone)
    assert (found.presence, found.base, len(found.records)) == (Presence.USABLE, HOST, 1)
    assert found.published == (f"1 1 1 {'0' * 64}", f"3 1 1 {'0' * 64}")
    assert looked_up(Zone({f"_25._tcp.{HOST}": tlsa(PKIX, GOOD)})).published == found.published
    assert zone.asked == [f"_25._tcp.{HOST}"]


def test_four_answers_are_four() -> None:
    """Secure, insecure, bogus and failed (maddy issue 292, kumomta issue 543: SERVFAIL was read as "no TLSA")."""
    name = f"_25._tcp.{HOST}"
    assert looked_up(Zone({name: tlsa(GOOD)})).presence is Presence.USABLE
    assert looked_up(Zone({name: tlsa(PKIX)})).presence is Presence.UNUSABLE
    assert looked_up(Zone({name: tlsa(GOOD, security=INSECURE)})).presence is Presence.NONE
    assert looked_up(Zone({name: Answer(State.NODATA, security=SECURE)})).presence is Presence.NONE
    for security in (Security.FAILED, Security.BOGUS):
        found = looked_up(Zone({name: Answer(State.FAILED, security=security, text="SERVFAIL")}))
        assert found.presence is Presence.FAILED and "SERVFAIL" in found.text
        assert found.bogus is (security is Security.BOGUS)


def test_nothing_is_asked_where_the_addresses_are_insecure() -> None:
    """RFC 7672 §2.2.2: a name server that chokes on TLSA is not asked for nothing."""
    zone = Zone({f"_25._tcp.{HOST}": tlsa(GOOD)})
    assert looked_up(zone, HOST, secure=False).presence is Presence.NONE and not zone.asked


def test_an_alias_is_asked_at_its_end_first_then_at_its_own_name() -> None:
    """RFC 7672 §2.2.3: the expanded name is the TLSA base domain where it has records, else the original one."""
    end = "end.example.net"
    both = {f"_25._tcp.{end}": tlsa(GOOD), f"_25._tcp.{HOST}": tlsa(PKIX)}
    assert looked_up(Zone(both), end).base == end
    zone = Zone({f"_25._tcp.{HOST}": tlsa(GOOD)})
    assert looked_up(zone, end).base == HOST and zone.asked == [f"_25._tcp.{end}", f"_25._tcp.{HOST}"]
    unusable = Zone({f"_25._tcp.{end}": tlsa(PKIX), f"_25._tcp.{HOST}": tlsa(GOOD)})
    assert looked_up(unusable, end).presence is Presence.UNUSABLE
    failed = Zone({f"_25._tcp.{end}": Answer(State.FAILED), f"_25._tcp.{HOST}": tlsa(GOOD)})
    assert looked_up(failed, end).presence is Presence.FAILED


def test_a_signed_alias_of_an_unsigned_target_is_asked_at_its_own_name() -> None:
    """RFC 7672 §2.2.2: whether the alias itself is secure is asked by its type; the target's records never count."""
    end, alias = "end.example.net", f"CNAME {HOST}"
    records = {f"_25._tcp.{end}": tlsa(GOOD), f"_25._tcp.{HOST}": tlsa(GOOD)}
    signed: Answer[str] = Answer(State.FOUND, (end,), security=SECURE)
    zone = Zone({**records, alias: signed})
    assert looked_up(zone, end, secure=False).base == HOST and f"_25._tcp.{end}" not in zone.asked
    unsigned: Answer[str] = Answer(State.FOUND, (end,), security=INSECURE)
    assert looked_up(Zone({**records, alias: unsigned}), end, secure=False).presence is Presence.NONE
    failed: Answer[str] = Answer(State.FAILED, security=Security.BOGUS)
    assert looked_up(Zone({**records, alias: failed}), end, secure=False).presence is Presence.FAILED


def test_a_record_is_written_as_in_a_zone() -> None:
    """RFC 6698 §2.2: three numbers and hexadecimal."""
    assert str(Tlsa.parse(GOOD)) == "3 1 1 " + "00" * 32
