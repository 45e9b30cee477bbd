"""The Received field says who gave us a message, in the form of RFC 5321 §4.4, whatever the client says."""

from __future__ import annotations

import email.utils
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relaymta.mail.address import Address, parse_mailbox
from relaymta.mail.envelope import Origin
from relaymta.mail.message import fields
from relaymta.mail.trace import HOPS_MAX, date, hops, protocol, received
from tests.mail.strategies import domains, local_parts

AT = 1_700_000_000.0
ORIGIN = Origin(client="192.0.2.1", helo="client.example.com", protocol="ESMTPS")

# RFC 5321 §4.4 Time-stamp-line, unfolded
SHAPE = re.compile(
    r"Received: (?:from (?P<helo>\S+) \((?:(?P<rdns>\S+) )?(?P<ip>\[[^\]]+\])\) (?:\(using (?P<tls>[^()]*)\) )?)?"
    r"by (?P<by>\S+) (?:with (?P<with>[A-Z0-9]+) )?id (?P<id>[0-9A-Z]+)(?: for <(?P<for>.*)>)?; (?P<date>[^;]+)"
)


def read(octets: bytes) -> dict[str, str | None]:
    """A Received field, unfolded and taken to pieces."""
    assert octets.endswith(b"\r\n")
    assert re.fullmatch(rb"[^\r\n\0]+(\r\n\t[^\r\n\0]+)*\r\n", octets)
    found = SHAPE.fullmatch(octets.decode()[:-2].replace("\r\n\t", " "))
    assert found, octets
    return found.groupdict()


@given(domains, st.ip_addresses(), st.sampled_from(["SMTP", "ESMTPSA", "UTF8SMTPS", "LMTP"]), domains)
def test_what_is_stamped_can_be_read_back(helo: str, ip: object, word: str, by: str) -> None:
    """Every fact of the origin stands in its clause (RFC 5321 §4.4, §4.1.3)."""
    bob = parse_mailbox("bob@example.net")
    found = read(received(Origin(client=str(ip), helo=helo, protocol=word), by, "0ABC", AT, recipient=bob))
    literal = f"[IPv6:{ip}]" if ":" in str(ip) else f"[{ip}]"
    if not str(ip).startswith("::ffff:"):
        assert found["ip"] == literal
    assert (found["helo"], found["by"], found["with"], found["id"]) == (helo, by, word, "0ABC")
    assert found["for"] == "bob@example.net"
    assert email.utils.parsedate_to_datetime(str(found["date"])).timestamp() == AT


@given(st.text(max_size=300), st.text(max_size=100), st.text(max_size=300), local_parts)
@example("x\r\nBcc: evil", "", "x) by (y\r\n\r\nbody", "a")
@example("(((", ";", "\\)", 'a" <b>')
def test_nothing_that_is_said_leaves_its_place(helo: str, rdns: str, tls: str, local: str) -> None:
    """No greeting, name or cipher can add a field, a line or a clause (RFC 5321 §4.4)."""
    origin = Origin(client="192.0.2.1", helo=helo, protocol="ESMTP", tls=tls)
    octets = received(origin, "relay.example.org", "0ABC", AT, recipient=Address(local, "example.net"), rdns=rdns)
    found = read(octets)
    assert found["by"] == "relay.example.org"
    assert len(list(fields(octets + b"\r\n"))) == 1
    assert octets.isascii()


@given(domains.filter(lambda d: len(d) < 40), domains.filter(lambda d: len(d) < 40))
def test_lines_are_folded_below_78(helo: str, by: str) -> None:
    """RFC 5322 §2.1.1: at most 78 characters where names allow it."""
    octets = received(Origin(client="192.0.2.1", helo=helo, protocol="ESMTP"), by, "0" * 12, AT, rdns=helo)
    assert max(map(len, octets.split(b"\r\n"))) <= 78


@pytest.mark.parametrize(
    ("client", "literal"),
    [
        ("192.0.2.1", "[192.0.2.1]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ("fe80::1%eth0", "[IPv6:fe80::1]"),
        ("::ffff:192.0.2.1", "[192.0.2.1]"),
    ],
)
def test_a_client_is_an_address_literal(client: str, literal: str) -> None:
    """RFC 5321 §4.1.3; zones and mapped addresses are our own business."""
    assert read(received(Origin(client=client, helo="x", protocol="SMTP"), "y", "0", AT))["ip"] == literal


@pytest.mark.parametrize("client", ["", "unix", "/run/relaymta/submit.sock"])
def test_without_an_address_there_is_no_from(client: str) -> None:
    """Mail from sendmail(1) or a UNIX socket has no TCP-info, and no registered "with" word."""
    found = read(received(Origin(client=client, helo="x", protocol="local"), "y", "0", AT))
    assert found["helo"] is None and found["with"] is None


def test_a_client_without_a_name_is_its_address() -> None:
    """RFC 5321 §4.1.1.1: an address literal stands where there is no name."""
    assert read(received(Origin(client="192.0.2.1", protocol="SMTP"), "y", "0", AT))["helo"] == "[192.0.2.1]"


def test_an_internationalized_name_becomes_a_labels() -> None:
    """A greeting in UTF-8 is written as A-labels (RFC 6531 §3.7.3)."""
    origin = Origin(client="192.0.2.1", helo="bücher.example", protocol="ESMTP")
    assert read(received(origin, "y", "0", AT))["helo"] == "xn--bcher-kva.example"


def test_tls_facts_are_a_comment() -> None:
    """RFC 5321 §4.4 leaves other facts to comments."""
    origin = Origin(client="192.0.2.1", helo="x", protocol="ESMTPS", tls="TLSv1.3 TLS_AES_256_GCM_SHA384")
    assert read(received(origin, "y", "0", AT))["tls"] == "TLSv1.3 TLS_AES_256_GCM_SHA384"


def test_a_utf8_recipient_is_named_in_utf8_mail_alone() -> None:
    """RFC 6531 §3.7.3: elsewhere the header must stay ASCII, and the clause goes."""
    joerg = parse_mailbox("jörg@example.net")
    utf8 = Origin(client="192.0.2.1", helo="x", protocol="UTF8SMTPS")
    assert read(received(utf8, "y", "0", AT, recipient=joerg))["for"] == "jörg@example.net"
    assert read(received(ORIGIN, "y", "0", AT, recipient=joerg))["for"] is None


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({"esmtp": False}, "SMTP"),
        ({"esmtp": True}, "ESMTP"),
        ({"esmtp": True, "tls": True}, "ESMTPS"),
        ({"esmtp": True, "auth": True}, "ESMTPA"),
        ({"esmtp": True, "tls": True, "auth": True}, "ESMTPSA"),
        ({"esmtp": True, "utf8": True}, "UTF8SMTP"),
        ({"esmtp": True, "utf8": True, "tls": True, "auth": True}, "UTF8SMTPSA"),
        ({"esmtp": True, "lmtp": True}, "LMTP"),
        ({"esmtp": True, "lmtp": True, "tls": True, "auth": True}, "LMTPSA"),
        ({"esmtp": True, "lmtp": True, "utf8": True, "tls": True}, "UTF8LMTPS"),
    ],
)
def test_the_protocol_is_a_registered_word(facts: dict[str, bool], word: str) -> None:
    """RFC 3848 §1, RFC 6531 §4.3."""
    assert protocol(**facts) == word


@given(st.integers(0, 4_000_000_000))
def test_a_date_is_read_back(second: int) -> None:
    """RFC 5322 §3.3, in UTC, with English names whatever the locale."""
    assert email.utils.parsedate_to_datetime(date(second + 0.7)).timestamp() == second
    assert date(second) == email.utils.formatdate(second).replace("-0000", "+0000")


@given(st.integers(0, 60))
def test_hops_are_the_received_fields(number: int) -> None:
    """RFC 5321 §6.3: what we stamp is what we count."""
    stamp = received(ORIGIN, "relay.example.org", "0ABC", AT)
    others = b"Received-SPF: pass\r\nSubject: Received: no\r\n received: neither\r\n"
    assert hops(stamp * number + others + b"\r\nReceived: body\r\n") == number
    assert HOPS_MAX == 50
