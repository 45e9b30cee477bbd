"""TLS reports: records, JSON and mail as RFC 8460 writes them."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.mail.address import Address
from relaymta.mail.envelope import Notify
from relaymta.reports.settings import TlsReportSettings
from relaymta.reports.tlsrpt import (
    LISTENER,
    Detail,
    Report,
    Reporter,
    Tally,
    document,
    in_order,
    letter,
    mailbox,
    packed,
    report_uris,
    show_day,
)

DAY = int(datetime(2016, 4, 1, tzinfo=UTC).timestamp()) // 86_400
IDENT = "5065427c-23d3-47ca-b6e0-946ea0e8c4be"
REPORTER = Reporter("Company-X", "sts-reporting@company-x.example", Address("tlsrpt", "mail.company-x.example"))
TERMS = ("version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400")
REPORT = Report(
    "company-y.example",
    DAY,
    IDENT,
    (
        Tally(
            "sts",
            TERMS,
            ("*.mail.company-y.example",),
            5326,
            (
                Detail("certificate-expired", "2001:db8:abcd:12::1", "mx1.mail.company-y.example", "", "", 100),
                Detail(
                    "starttls-not-supported",
                    "2001:db8:abcd:13::1",
                    "mx2.mail.company-y.example",
                    "203.0.113.56",
                    "",
                    200,
                ),
                Detail(
                    "validation-failure",
                    "198.51.100.62",
                    "mx-backup.mail.company-y.example",
                    "203.0.113.58",
                    "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
                    3,
                ),
            ),
        ),
    ),
)

# RFC 8460 Appendix B, less its "additional-information", which points to a server that we do not have
EXAMPLE = """
{
  "organization-name": "Company-X",
  "date-range": {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"},
  "contact-info": "sts-reporting@company-x.example",
  "report-id": "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
  "policies": [{
    "policy": {
      "policy-type": "sts",
      "policy-string": ["version: STSv1","mode: testing", "mx: *.mail.company-y.example","max_age: 86400"],
      "policy-domain": "company-y.example",
      "mx-host": ["*.mail.company-y.example"]
    },
    "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
    "failure-details": [{
      "result-type": "certificate-expired",
      "sending-mta-ip": "2001:db8:abcd:12::1",
      "receiving-mx-hostname": "mx1.mail.company-y.example",
      "failed-session-count": 100
    }, {
      "result-type": "starttls-not-supported",
      "sending-mta-ip": "2001:db8:abcd:13::1",
      "receiving-mx-hostname": "mx2.mail.company-y.example",
      "receiving-ip": "203.0.113.56",
      "failed-session-count": 200
    }, {
      "result-type": "validation-failure",
      "sending-mta-ip": "198.51.100.62",
      "receiving-ip": "203.0.113.58",
      "receiving-mx-hostname": "mx-backup.mail.company-y.example",
      "failed-session-count": 3,
      "failure-reason-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED"
    }]
  }]
}
"""


def unpack(octets: bytes) -> Any:
    """The JSON of a packed report."""
    return json.loads(gzip.decompress(octets))


def test_the_report_of_the_standard() -> None:
    """RFC 8460 Appendix B: the same facts give the same JSON."""
    assert document(REPORT, REPORTER) == json.loads(EXAMPLE)
    made = packed(REPORT, REPORTER)
    assert unpack(made.octets) == json.loads(EXAMPLE)
    assert (made.successes, made.failures) == (5326, 303)


def test_no_policy_has_no_terms() -> None:
    """RFC 8460 §4.4: "no-policy-found" without policy-string and mx-host, no details where nothing failed."""
    report = Report("a.example", DAY, "1", (Tally("no-policy-found", (), (), 7, ()),))
    assert document(report, REPORTER)["policies"] == [
        {
            "policy": {"policy-type": "no-policy-found", "policy-domain": "a.example"},
            "summary": {"total-successful-session-count": 7, "total-failure-session-count": 0},
        }
    ]


def test_the_policy_domain_of_dane_is_the_tlsa_base_domain() -> None:
    """RFC 8460 §1.1: each host of the domain whom the report is for has a policy of its own."""
    tallies = tuple(Tally("tlsa", ("3 1 1 AB",), (), 7, (), base) for base in ("mx2.b.example", "mx1.b.example"))
    told = document(Report("a.example", DAY, "1", in_order(tallies, 9)), REPORTER)["policies"]
    assert [one["policy"]["policy-domain"] for one in told] == ["mx1.b.example", "mx2.b.example"]


@given(st.text(max_size=50).map(lambda text: text + "\ud800"), st.integers(1, 10**9))
def test_any_reason_is_json(reason: str, count: int) -> None:
    """RFC 7493 §2.1: whatever a peer said, the report is UTF-8 without lone surrogates."""
    tally = Tally("tlsa", (reason,), (), 0, (Detail("validation-failure", "", "", "", reason, count),))
    octets = packed(Report("a.example", DAY, "1", (tally,)), REPORTER).octets
    [policy] = unpack(octets)["policies"]
    assert policy["failure-details"][0]["failed-session-count"] == count
    gzip.decompress(octets).decode()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(1, 9)), max_size=9, unique=True))
def test_too_many_details_are_put_together_and_none_is_lost(rows: list[tuple[str, str, int]]) -> None:
    """A bound on the details keeps their sum."""
    details = tuple(Detail(result, "", mx, "", "", count) for result, mx, count in rows)
    [tally] = in_order([Tally("sts", (), (), 0, details)], 2)
    assert tally.failures == sum(count for _, _, count in rows)
    assert len(tally.details) <= 2 + 3


def test_a_report_is_bounded_however_many_policies_it_has() -> None:
    """A stranger chooses whom a report goes to: its details are bounded in all, and not for each policy."""
    details = tuple(Detail("starttls-not-supported", "", f"mx{n}", "", "", 1) for n in range(100))
    found = in_order([Tally("sts", (f"{n}",), (), 0, details) for n in range(20)], 100)
    assert sum(len(tally.details) for tally in found) <= 100 + 20
    assert sum(tally.failures for tally in found) == 2000


def test_the_mail_is_what_receivers_look_for() -> None:
    """RFC 8460 §5.3: multipart/report, its fields and Subject, the attachment and its name; Python reads it back."""
    made = packed(REPORT, REPORTER)
    mail = letter(made, REPORTER, Address("tls", "company-y.example"), 1_459_600_000.0)
    parsed: Any = email.message_from_bytes(mail.octets, policy=email.policy.default)
    assert parsed.defects == []
    assert parsed.get_content_type() == "multipart/report" and parsed.get_param("report-type") == "tlsrpt"
    assert parsed["TLS-Report-Domain"] == "company-y.example"
    assert parsed["TLS-Report-Submitter"] == "company-x.example"  # the domain of contact-info
    assert " ".join(parsed["Subject"].split()) == (
        "Report Domain: company-y.example Submitter: company-x.example"
        f" Report-ID: <{IDENT}@company-x.example>"
    )
    assert (parsed["From"], parsed["To"]) == ("tlsrpt@mail.company-x.example", "tls@company-y.example")
    assert parsed["TLS-Required"] == "No" and parsed["Auto-Submitted"] == "auto-generated"
    words, attached = parsed.iter_parts()
    assert words.get_content_type() == "text/plain" and "5326" in words.get_content()
    assert attached.get_content_type() == "application/tlsrpt+gzip"
    begin = DAY * 86_400
    assert attached.get_filename() == (
        f"company-x.example!company-y.example!{begin}!{begin + 86_399}!{IDENT.replace('-', '')}.json.gz"
    )
    assert unpack(attached.get_content()) == json.loads(EXAMPLE)
    lines = mail.octets.split(b"\r\n")
    assert b"\n" not in b"".join(lines) and max(map(len, lines)) < 998


def test_the_envelope_asks_for_no_tls_and_no_notice() -> None:
    """RFC 8460 §3: delivered despite TLS failures; marked so that its sessions are not counted."""
    envelope = letter(packed(REPORT, REPORTER), REPORTER, Address("tls", "y.example"), 1.0).envelope
    assert envelope.tls_optional and envelope.origin.listener == LISTENER
    assert (envelope.sender, envelope.recipients[0].notify) == (REPORTER.sender, Notify.NEVER)


def test_two_mails_of_one_report_have_two_ids() -> None:
    """Message-ID is one mail's, whatever the report."""
    made = packed(REPORT, REPORTER)
    ids = {
        email.message_from_bytes(letter(made, REPORTER, Address(name, "y.example"), 1.0).octets)["Message-ID"]
        for name in ("a", "b")
    }
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("records", "uris"),
    [
        ([b"v=TLSRPTv1;rua=mailto:reports@example.com"], ("mailto:reports@example.com",)),
        (
            [b"v=TLSRPTv1; rua=mailto:a@example.com , https://r.example/v1?x=1; "],
            ("mailto:a@example.com", "https://r.example/v1?x=1"),
        ),
        ([b"v=TLSRPTv1; ext=1; rua=mailto:a@example.com"], ("mailto:a@example.com",)),
        ([b"v=TLSRPTv1; rua=mailto:a@example.com,mailto:a@example.com"], ("mailto:a@example.com",)),
        ([b"v=TLSRPTv1; rua=mailto:a@b.example?x,mailto:%61@B.example"], ("mailto:a@b.example?x",)),
        ([b"other", b"v=TLSRPTv1; rua=mailto:a@example.com"], ("mailto:a@example.com",)),
        ([b"v=TLSRPTv1; rua=http://r.example/,ftp://x,mailto:nobody,https:///"], ()),
        ([b"v=TLSRPTv1; rua=mailto:a@b.example", b"v=TLSRPTv1; rua=mailto:b@b.example"], ()),
        ([b"v=TLSRPTv1; what is this; rua=mailto:a@b.example"], ()),
        ([b"v=TLSRPTv1; rua=mailto:\xff@b.example"], ()),
        ([b"v=TLSRPTv2; rua=mailto:a@b.example"], ()),
        ([b"v=TLSRPTv1"], ()),
        ([b"v=TLSRPTv1; rua=" + b",".join(b"mailto:%d@b.example" % n for n in range(9))],
         tuple(f"mailto:{n}@b.example" for n in range(5))),
        ([], ()),
    ],
)  # fmt: skip
def test_records(records: list[bytes], uris: tuple[str, ...]) -> None:
    """RFC 8460 §3: one record with a rua, of which mail addresses and https URLs are used."""
    assert report_uris(records) == uris


@given(st.binary(max_size=80))
def test_any_record_is_read(octets: bytes) -> None:
    """No record makes it fail, and what comes out can be used."""
    for uri in report_uris([b"v=TLSRPTv1;rua=" + octets]):
        assert uri.lower().startswith(("mailto:", "https:"))


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("mailto:a@b.example", "a@b.example"),
        ("MAILTO:a%2Bb@b.example?subject=x", "a+b@b.example"),
        ("mailto:a@b.example,c@d.example", None),
        ("mailto:", None),
        ("mailto:%0d%0aBcc:%20x@b.example", None),
        ("mailto:%ff@b.example", None),
        ("mailto:ü@b.example", None),
        ("mailto:root@[127.0.0.1]", None),
        ("mailto:root@%5b10.0.0.1%5d", None),
        ("mailto:postmaster", None),
        ("https://b.example", None),
    ],
)
def test_mailboxes(uri: str, address: str | None) -> None:
    """RFC 6068 §2: one address, percent-decoded; nothing that could leave its field."""
    found = mailbox(uri)
    assert (None if found is None else str(found)) == address


def test_who_reports() -> None:
    """Nobody without a sender; organization and contact have defaults."""
    assert TlsReportSettings().reporter("relay.example.org") is None
    made = TlsReportSettings(sender="tls@example.org").reporter("relay.example.org")
    assert made == Reporter("relay.example.org", "tls@example.org", Address("tls", "example.org"))
    with pytest.raises(ValueError, match="ASCII"):
        TlsReportSettings(sender="ü@example.org")


def test_days() -> None:
    """A day is written as RFC 3339 does."""
    assert show_day(DAY) == "2016-04-01"
