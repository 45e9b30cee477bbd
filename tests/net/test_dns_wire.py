"""DNS messages, pure: what is asked, which reply is believed, and what it says."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.names import dns

from relaymta.net.dns_answer import AAAA, MX, PTR, SRV, TLSA, TXT, A, Answer, Kind, Mx, Security, Srv, State
from relaymta.net.dns_wire import (
    FAILED_TTL,
    NEGATIVE_MAX,
    TTL_MAX,
    TTL_MIN,
    UDP_MAX,
    Question,
    Unusable,
    is_reply,
    query,
    read,
)
from tests.net.nameserver import Asked, record, reply, soa

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)
NAME = st.lists(LABEL, min_size=1, max_size=8).map(".".join).filter(lambda name: len(name) <= 253)


def asked(name: str = "victim.test", kind: Kind[Any] = MX, **terms: Any) -> tuple[Question, Asked]:
    """A question, and it as a server sees it."""
    question = Question.of(name, kind)
    return question, Asked(query(question, 4711, **terms), 40000, tcp=False)


def answered(question: Question, octets: bytes, *, trust_ad: bool = False) -> Answer[Any]:
    """A reply that must be believed and must be a yes or a no."""
    assert is_reply(octets, 4711, question)
    answer = read(octets, question, trust_ad=trust_ad)
    assert isinstance(answer, Answer), answer
    return answer


@given(NAME)
def test_a_name_reaches_the_server_as_it_is(name: str) -> None:
    """Any name with lengths that RFC 1035 §2.3.4 allows stands in the question as its labels."""
    question, seen = asked(name, A)
    assert seen.name == name
    assert seen.kind == 1
    assert is_reply(reply(seen), 4711, question)


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", ".a", "x" * 64 + ".test", ".".join(["x" * 62] * 4) + ".xyz", "f\u00e4.test"],
)
def test_names_with_wrong_lengths_are_never_sent(name: str) -> None:
    """Twisted encodes a name of 304 octets; RFC 1035 §2.3.4 allows labels of 63 octets and names of 255."""
    with pytest.raises(ValueError, match="not a domain name"):
        Question.of(name, A)


def test_the_longest_name_is_sent() -> None:
    """253 characters are 255 octets on the wire (RFC 1035 §2.3.4)."""
    name = ".".join(["x" * 61] * 4) + ".abcd"
    assert len(name) == 252
    assert asked(name + "e")[1].name == name + "e"


def test_a_query_offers_edns_with_1232_octets() -> None:
    """EDNS spares most answers the truncation, and 1232 octets cross any path in one piece (RFC 9715 §3)."""
    _, seen = asked()
    assert seen.edns == UDP_MAX == 1232
    assert not seen.dnssec
    assert seen.message.recDes == 1
    assert seen.message.authenticData == 0


def test_do_and_ad_are_set_for_a_trusted_validator() -> None:
    """DNSSEC is asked for with DO and AD (RFC 4035 §3.2.1, RFC 6840 §5.7)."""
    _, seen = asked(dnssec=True)
    assert seen.dnssec
    assert seen.message.authenticData == 1


def test_a_server_without_edns_gets_a_plain_query() -> None:
    """Without EDNS neither an OPT record nor AD is sent (RFC 6891 §6.2.2)."""
    _, seen = asked(edns=False, dnssec=True)
    assert seen.edns == 0
    assert seen.message.authenticData == 0


def test_the_name_of_a_reply_is_compared_without_case() -> None:
    """RFC 1035 §2.3.3: VICTIM.Test is victim.test."""
    question, seen = asked()
    assert is_reply(reply(seen, name="VICTIM.Test"), 4711, question)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "totally.different.name"},
        {"name": "victim.test.evil"},
        {"name": "victim.tesu"},
        {"kind": dns.TXT},
        {"ident": 4712},
    ],
)
def test_replies_to_other_questions_are_not_ours(changes: dict[str, Any]) -> None:
    """Stock Twisted takes any reply with the right number; the question must be the one asked (RFC 5452 §9.1)."""
    question, seen = asked()
    assert not is_reply(reply(seen, record("victim.test", dns.Record_MX(1, "evil.test")), **changes), 4711, question)


def test_queries_and_fragments_are_no_replies() -> None:
    """Neither our own query sent back nor a piece of a header is a reply."""
    question, seen = asked()
    assert not is_reply(seen.octets, 4711, question)
    assert not is_reply(reply(seen)[:11], 4711, question)
    assert not is_reply(reply(seen)[:20], 4711, question)


def test_a_refusal_may_leave_out_the_question() -> None:
    """Some servers answer FORMERR with a bare header; a yes or a no without the question is not believed."""
    question, _ = asked()
    assert is_reply(struct.pack("!6H", 4711, 0x8001, 0, 0, 0, 0), 4711, question)
    assert not is_reply(struct.pack("!6H", 4711, 0x8000, 0, 0, 0, 0), 4711, question)
    assert not is_reply(struct.pack("!6H", 4711, 0x8003, 0, 0, 0, 0), 4711, question)


def test_answers_of_other_owners_are_dropped() -> None:
    """Stock Twisted returned other.name's MX as victim.test's; a record counts for its owner alone."""
    question, seen = asked()
    octets = reply(
        seen,
        record("other.name", dns.Record_MX(1, "evil.test")),
        record("VICTIM.test", dns.Record_MX(10, "MX.Victim.Test")),
    )
    assert answered(question, octets).records == (Mx(10, "mx.victim.test"),)
    only_others = reply(seen, record("other.name", dns.Record_MX(1, "evil.test")))
    assert answered(question, only_others).state is State.NODATA


@pytest.mark.parametrize("turned", [False, True])
def test_a_cname_chain_is_followed_in_any_order(turned: bool) -> None:
    """RFC 1034 §4.3.2: the answer is that of the chain's last name, the ttl the least on the way."""
    question, seen = asked("www.test", A)
    records = [
        record("www.test", dns.Record_CNAME("a.test"), 100),
        record("a.test", dns.Record_CNAME("b.test"), 70),
        record("b.test", dns.Record_A("192.0.2.7"), 90),
    ]
    answer = answered(question, reply(seen, *(records[::-1] if turned else records)))
    assert answer.records == ("192.0.2.7",)
    assert answer.canonical == "b.test"
    assert answer.ttl == 70


def test_a_cname_loop_is_no_answer() -> None:
    """A chain that bites its tail is the server's trouble, neither a yes nor a no."""
    question, seen = asked("a.test", A)
    octets = reply(seen, record("a.test", dns.Record_CNAME("b.test")), record("b.test", dns.Record_CNAME("a.test")))
    assert read(octets, question, trust_ad=False) == Unusable("CNAME loop")


def test_a_cname_that_the_server_did_not_follow_is_asked_for() -> None:
    """RFC 1034 §5.3.3: without the target's data and without a no, we go on ourselves."""
    question, seen = asked("a.test", A)
    octets = reply(seen, record("a.test", dns.Record_CNAME("elsewhere.test")))
    reading = read(octets, question, trust_ad=False)
    assert isinstance(reading, Unusable)
    assert reading.alias == "elsewhere.test"


@pytest.mark.parametrize(("ttl", "kept"), [(0, TTL_MIN), (300, 300), (1_000_000, TTL_MAX), (0x80000000, TTL_MIN)])
def test_ttls_are_clamped(ttl: int, kept: float) -> None:
    """Between 5 seconds and an hour; with the top bit set a ttl is 0 (RFC 2181 §8)."""
    question, seen = asked()
    assert answered(question, reply(seen, record("victim.test", dns.Record_MX(1, "mx.test"), ttl))).ttl == kept


@pytest.mark.parametrize("rcode", [0, 3])
@pytest.mark.parametrize(
    ("minimum", "ttl", "kept"), [(60, 3600, 60), (3600, 30, 30), (0, 10, TTL_MIN), (86400, 86400, NEGATIVE_MAX)]
)
def test_a_no_is_kept_by_its_soa(rcode: int, minimum: int, ttl: int, kept: float) -> None:
    """RFC 2308 §5: the lesser of the SOA's ttl and its MINIMUM, clamped."""
    question, seen = asked()
    answer = answered(question, reply(seen, rcode=rcode, authority=[soa("test", minimum, ttl)]))
    assert answer.state is (State.NXDOMAIN if rcode else State.NODATA)
    assert answer.records == ()
    assert answer.ttl == kept


def test_a_no_without_soa_is_kept_as_short_as_can_be() -> None:
    """RFC 2308 §5: such an answer should not be kept."""
    question, seen = asked()
    assert answered(question, reply(seen)).ttl == TTL_MIN


def test_nodata_is_not_nxdomain() -> None:
    """Empty answers with NOERROR are NODATA (then comes the implicit MX); NXDOMAIN is a no to the whole name."""
    question, seen = asked()
    assert answered(question, reply(seen, authority=[soa("test")])).state is State.NODATA
    assert answered(question, reply(seen, rcode=3, authority=[soa("test")])).state is State.NXDOMAIN


def test_a_referral_is_not_nodata() -> None:
    """RFC 2308 §2.2: NS records without an SOA from a server that does not recurse say nothing of the name."""
    question, seen = asked()
    lame = reply(seen, recurses=False, authority=[record("test", dns.Record_NS("ns.test"))])
    reading = read(lame, question, trust_ad=False)
    assert isinstance(reading, Unusable) and "referral" in reading.text


@pytest.mark.parametrize(("rcode", "text"), [(2, "SERVFAIL"), (5, "REFUSED"), (9, "NOTAUTH"), (11, "rcode 11")])
def test_other_codes_are_no_answer(rcode: int, text: str) -> None:
    """SERVFAIL and its kin are "could not ask"."""
    question, seen = asked()
    assert read(reply(seen, rcode=rcode), question, trust_ad=False) == Unusable(text)


@pytest.mark.parametrize("rcode", [1, 4])
def test_a_server_that_knows_no_edns_is_told_apart(rcode: int) -> None:
    """RFC 6891 §6.2.2: FORMERR and NOTIMP are what EDNS makes old servers say."""
    question, seen = asked()
    reading = read(reply(seen, rcode=rcode), question, trust_ad=False)
    assert isinstance(reading, Unusable) and reading.without_edns


def test_the_code_is_extended_by_edns() -> None:
    """RFC 6891 §6.1.3: BADVERS is 0 in the header and 1 in the OPT record."""
    question, seen = asked()
    opt = dns.RRHeader("", dns.OPT, 1232, 1 << 24, dns.UnknownRecord(b""))
    reading = read(reply(seen, additional=[opt]), question, trust_ad=False)
    assert isinstance(reading, Unusable) and reading.text == "BADVERS" and reading.without_edns


@pytest.mark.parametrize(("info", "bogus"), [(6, True), (7, True), (22, False)])
def test_bogus_is_told_from_failed(info: int, bogus: bool) -> None:
    """RFC 8914: a validator says why it SERVFAILs; secure, insecure, bogus and failed are four values."""
    question, seen = asked()
    option = struct.pack("!HHH", 15, 2 + 7, info) + b"expired"
    opt = dns.RRHeader("", dns.OPT, 1232, 0, dns.UnknownRecord(option))
    reading = read(reply(seen, rcode=2, additional=[opt]), question, trust_ad=True)
    assert reading == Unusable("SERVFAIL (expired)", bogus=bogus)


def test_ad_is_believed_from_trusted_servers_alone() -> None:
    """RFC 7672 §2.1: without `trust_ad` the AD bit is anybody's."""
    question, seen = asked()
    octets = reply(seen, record("victim.test", dns.Record_MX(1, "mx.test")), secure=True)
    assert answered(question, octets).security is Security.INSECURE
    assert answered(question, octets, trust_ad=True).security is Security.SECURE
    denial = reply(seen, rcode=3, secure=True, authority=[soa("test")])
    assert answered(question, denial, trust_ad=True).secure  # a secure no: RFC 7672 §2.1.1
    assert not answered(question, reply(seen, authority=[soa("test")]), trust_ad=True).secure


def test_truncation_is_told() -> None:
    """TC set: whatever stands in it is not the answer (RFC 2181 §9)."""
    question, seen = asked()
    octets = reply(seen, record("victim.test", dns.Record_MX(1, "mx.test")), trunc=True)
    reading = read(octets, question, trust_ad=False)
    assert isinstance(reading, Unusable) and reading.truncated


@pytest.mark.parametrize(
    ("kind", "payload", "value"),
    [
        (A, dns.Record_A("192.0.2.1"), "192.0.2.1"),
        (AAAA, dns.Record_AAAA("2001:DB8:0:0::1"), "2001:db8::1"),
        (MX, dns.Record_MX(0, ""), Mx(0, "")),  # RFC 7505: the null MX's root is "" in Twisted too
        (MX, dns.Record_MX(10, "Mx.Example"), Mx(10, "mx.example")),
        (TXT, dns.Record_TXT(b"v=spf1 ", b"-all"), b"v=spf1 -all"),
        (PTR, dns.Record_PTR("Host.Example"), "host.example"),
        (SRV, dns.Record_SRV(1, 2, 465, "Mail.Example"), Srv(1, 2, 465, "mail.example")),
    ],
)
def test_records_are_typed(kind: Kind[Any], payload: Any, value: Any) -> None:
    """Each type of record has its value; names are lower case, strings of a TXT are joined."""
    question, seen = asked("victim.test", kind)
    assert answered(question, reply(seen, record("victim.test", payload))).records == (value,)


def test_tlsa_data_come_as_they_are() -> None:
    """RFC 6698 §2.1: usage, selector, matching type and data, unread."""
    question, seen = asked("_25._tcp.victim.test", TLSA)
    data = b"\x03\x01\x01" + bytes(32)
    header = dns.RRHeader("_25._tcp.victim.test", 52, dns.IN, 300, dns.UnknownRecord(data))
    signature = dns.RRHeader("_25._tcp.victim.test", 46, dns.IN, 300, dns.UnknownRecord(b"\x00\x34" + bytes(30)))
    assert answered(question, reply(seen, header, signature)).records == (data,)


def test_a_message_that_ends_too_early_is_no_short_answer() -> None:
    """Stock Twisted takes a cut message for one with fewer records."""
    question, seen = asked()
    octets = reply(seen, *(record("victim.test", dns.Record_MX(n, f"mx{n}.test")) for n in range(3)))
    for end in range(12 + len(question.section), len(octets)):
        reading = read(octets[:end], question, trust_ad=False)
        assert isinstance(reading, Unusable) and "malformed" in reading.text


def test_a_record_that_lies_about_its_length_is_refused() -> None:
    """Stock Twisted reads four octets of an A record whatever its length says, and then garbage."""
    question, seen = asked("victim.test", A)
    octets = bytearray(reply(seen, record("victim.test", dns.Record_A("192.0.2.1"))))
    octets[-5] = 5
    assert isinstance(read(bytes(octets) + b"\0", question, trust_ad=False), Unusable)


@given(st.binary(max_size=300), st.booleans())
def test_no_octets_are_fatal(octets: bytes, header: bool) -> None:
    """Whatever a server sends behind a matching question is an answer or unusable, never an exception."""
    question = Question.of("victim.test", MX)
    start = struct.pack("!6H", 4711, 0x8180, 1, 3, 1, 1) + question.section if header else b""
    if is_reply(start + octets, 4711, question):
        read(start + octets, question, trust_ad=True)


@given(st.integers(0, 200), st.integers(0, 255))
def test_no_changed_octet_is_fatal(position: int, value: int) -> None:
    """A flipped octet in a good reply gives an answer or something unusable."""
    question, seen = asked()
    octets = bytearray(
        reply(
            seen,
            record("victim.test", dns.Record_CNAME("b.test")),
            record("b.test", dns.Record_MX(1, "mx.b.test")),
            authority=[soa("test")],
            additional=[dns.RRHeader("", dns.OPT, 1232, 0, dns.UnknownRecord(b"\x00\x0f\x00\x02\x00\x06"))],
        )
    )
    octets[position % len(octets)] = value
    if is_reply(bytes(octets), 4711, question):
        read(bytes(octets), question, trust_ad=True)


def test_failures_are_kept_for_seconds() -> None:
    """RFC 2308 §7.1: at most five minutes; ours is between 10 and 30 seconds."""
    assert 10 <= FAILED_TTL <= 30
