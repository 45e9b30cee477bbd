"""TLS reports: what a domain's record asks for, the JSON of one day, and the mail that carries it.

RFC 8460 §3 (the record), §4.4 (the report), §5.1 (its file name), §5.3 (the mail), RFC 6068 (mailto), RFC 6522
(multipart/report), RFC 8689 §3 (TLS-Required), RFC 3834 (Auto-Submitted). Pure: composes, never sends; clock and ids
come from the caller. What counted the sessions, and who gets reports when, is left to admin.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from attrs import evolve, frozen

from relaymta.mail.address import Address, AddressError, parse_mailbox
from relaymta.mail.envelope import Body, Envelope, Notify, Origin, Recipient
from relaymta.mail.trace import date

LISTENER: Final = "tls-report"  # Origin.listener of such mail; its own sessions do not belong into reports
MEDIA: Final = "application/tlsrpt+gzip"  # RFC 8460 §6.5
DAY: Final = 86_400  # RFC 8460 §4.1: a report covers a day of UTC
URIS_MAX: Final = 5  # of one record; ours, for a stranger chooses whom we write to
TEXT_MAX: Final = 300  # characters of a reason in a report; ours
DETAILS_MIN: Final = 2  # failures that are told one by one of each policy, however many policies there are; ours

_RECORD = re.compile(rb"v=TLSRPTv1[ \t]*;")
_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.\-]{0,31})=([!-:<-~ \t]*)")
_LONE = re.compile(r"[\ud800-\udfff]")
_NOT_SAFE = re.compile(r"[^A-Za-z0-9.\-]")


@frozen(slots=True)
class Detail:
    """Failed sessions that failed in the same way (RFC 8460 §4.4). What is not known is ""."""

    result: str
    source: str
    mx: str
    address: str
    reason: str
    count: int


@frozen(slots=True)
class Tally:
    """A day's sessions with one domain under one policy. `type` is "tlsa", "sts" or "no-policy-found".

    `domain`: the policy's own, where it is not that of the report (RFC 8460 §1.1: a TLSA base domain).
    """

    type: str
    terms: tuple[str, ...]
    patterns: tuple[str, ...]
    successes: int
    details: tuple[Detail, ...]
    domain: str = ""

    @property
    def failures(self) -> int:
        """How many sessions failed."""
        return sum(detail.count for detail in self.details)


@frozen(slots=True)
class Reporter:
    """Who reports: the name of the organization, who can be asked, and the sender of the mail."""

    organization: str
    contact: str
    sender: Address

    @property
    def domain(self) -> str:
        """The submitter: RFC 8460 §5.3 wants the domain of the contact."""
        return self.contact.rpartition("@")[2]


@frozen(slots=True)
class Report:
    """One report: about `domain`, for the UTC day that is `day` days after 1970-01-01."""

    domain: str
    day: int
    ident: str
    tallies: tuple[Tally, ...]


@frozen(slots=True)
class Package:
    """A report as it goes out: `octets` are compressed JSON; the counts are those of all its sessions."""

    domain: str
    day: int
    ident: str
    successes: int
    failures: int
    octets: bytes


@frozen(slots=True)
class Letter:
    """A report as mail; `octets` with CRLF line ends, not signed yet (RFC 8460 §3 wants DKIM)."""

    envelope: Envelope
    octets: bytes


def show_day(day: int) -> str:
    """The day as RFC 3339 writes it, "2026-11-23"."""
    return _moment(day * DAY).strftime("%Y-%m-%d")


def _moment(at: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at)


# The record


def report_uris(records: Iterable[bytes]) -> tuple[str, ...]:
    """Where the TXT records of `_smtp._tls.domain` want reports: mailto: and https: URIs, () for nowhere.

    RFC 8460 §3: what does not begin with "v=TLSRPTv1;" is not looked at; two records are none.
    """
    found = [record for record in records if _RECORD.match(record)]
    if len(found) != 1:
        return ()
    try:
        fields = [field.strip(" \t") for field in found[0].decode("ascii").split(";")[1:]]
    except UnicodeDecodeError:
        return ()
    for field in fields:
        known = _FIELD.fullmatch(field)
        if known is None:
            if field:
                return ()
            continue
        if known[1] == "rua":
            uris = [uri.strip(" \t") for uri in known[2].split(",")]
            reached: dict[str, str] = {}  # by whom it reaches: a mailbox has many URIs
            for uri in uris:
                if _usable(uri):
                    reached.setdefault(str(mailbox(uri) or uri), uri)
            return tuple(reached.values())[:URIS_MAX]
    return ()


def _usable(uri: str) -> bool:
    if mailbox(uri) is not None:
        return True
    try:
        parts = urlsplit(uri)
        return parts.scheme.lower() == "https" and bool(parts.hostname) and len(uri) <= 2000
    except ValueError:
        return False


def mailbox(uri: str) -> Address | None:
    """The address of a mailto: URI (RFC 6068 §2), without what else it asks for; None where it is none of ours.

    Nor is an address literal: a stranger does not choose which host we speak to.
    """
    scheme, _, rest = uri.partition(":")
    if scheme.lower() != "mailto":
        return None
    try:
        address = parse_mailbox(unquote(rest.partition("?")[0], errors="strict"))
    except (AddressError, UnicodeDecodeError):
        return None
    return None if address.internationalized or address.domain.startswith("[") else address


# The report


def document(report: Report, reporter: Reporter) -> dict[str, Any]:
    """The report as RFC 8460 §4.4 has it, ready for JSON."""
    start = _moment(report.day * DAY)
    return {
        "organization-name": _clean(reporter.organization),
        "date-range": {
            "start-datetime": start.strftime("%Y-%m-%dT00:00:00Z"),
            "end-datetime": start.strftime("%Y-%m-%dT23:59:59Z"),
        },
        "contact-info": reporter.contact,
        "report-id": report.ident,
        "policies": [_policy(report.domain, tally) for tally in report.tallies],
    }


def _policy(domain: str, tally: Tally) -> dict[str, Any]:
    policy: dict[str, Any] = {"policy-type": tally.type}
    if tally.terms:
        policy["policy-string"] = [_clean(term) for term in tally.terms]
    policy["policy-domain"] = tally.domain or domain
    if tally.patterns:
        policy["mx-host"] = list(tally.patterns)
    told: dict[str, Any] = {
        "policy": policy,
        "summary": {
            "total-successful-session-count": tally.successes,
            "total-failure-session-count": tally.failures,
        },
    }
    if tally.details:
        told["failure-details"] = [_detail(detail) for detail in tally.details]
    return told


def _detail(detail: Detail) -> dict[str, Any]:
    facts = {
        "result-type": detail.result,
        "sending-mta-ip": detail.source,
        "receiving-mx-hostname": detail.mx,
        "receiving-ip": detail.address,
        "failed-session-count": detail.count,
        "failure-reason-code": _clean(detail.reason)[:TEXT_MAX],
    }
    return {key: value for key, value in facts.items() if value != ""}


def _clean(text: str) -> str:
    """RFC 7493 §2.1, which RFC 8460 §4 asks for: no lone surrogates."""
    return _LONE.sub("\ufffd", text)


def packed(report: Report, reporter: Reporter) -> Package:
    """The report as it is sent."""
    octets = json.dumps(document(report, reporter), ensure_ascii=False, separators=(",", ":")).encode()
    return Package(
        report.domain,
        report.day,
        report.ident,
        sum(tally.successes for tally in report.tallies),
        sum(tally.failures for tally in report.tallies),
        gzip.compress(octets, mtime=0),
    )


def file_name(report: Package, reporter: Reporter) -> str:
    """RFC 8460 §5.1: sender, domain, first and last second, an id."""
    unique = re.sub(r"[^A-Za-z0-9]", "", report.ident)
    begin = report.day * DAY
    return f"{reporter.domain}!{report.domain}!{begin}!{begin + DAY - 1}!{unique}.json.gz"


def letter(report: Package, reporter: Reporter, to: Address, now: float) -> Letter:
    """The mail that carries `report` to `to`; `now` is POSIX time."""
    submitter = reporter.domain
    boundary = f"=_{_NOT_SAFE.sub('', report.ident)}"
    head = (
        f"Date: {date(now)}\r\n"
        f"From: <{reporter.sender}>\r\n"
        f"To: <{to}>\r\n"
        # RFC 8460 §5.3: this form, and these fields
        f"Subject: Report Domain: {report.domain}\r\n\tSubmitter: {submitter}\r\n"
        f"\tReport-ID: <{report.ident}@{submitter}>\r\n"
        f"Message-ID: <{report.ident}.{_tag(to)}@{submitter}>\r\n"
        f"TLS-Report-Domain: {report.domain}\r\n"
        f"TLS-Report-Submitter: {submitter}\r\n"
        "TLS-Required: No\r\n"  # RFC 8460 §3: reports go out despite TLS failures; RFC 8689 §3 says so to the next
        "Auto-Submitted: auto-generated\r\n"  # RFC 3834 §5
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/report; report-type="tlsrpt";\r\n\tboundary="{boundary}"\r\n'
        "\r\n"
        f"--{boundary}\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n"
        "\r\n"
    )
    tail = (
        f"--{boundary}\r\n"
        f"Content-Type: {MEDIA}\r\n"
        "Content-Transfer-Encoding: base64\r\n"
        f'Content-Disposition: attachment;\r\n\tfilename="{file_name(report, reporter)}"\r\n'
        "\r\n"
    )
    encoded = base64.encodebytes(report.octets).replace(b"\n", b"\r\n")
    message = (head + _advice(report, submitter) + tail).encode() + encoded + f"--{boundary}--\r\n".encode()
    return Letter(_envelope(reporter.sender, to, now), message)


def _tag(to: Address) -> str:
    """Two mails of one report differ in their Message-ID."""
    return sha256(str(to).encode()).hexdigest()[:12]


def _advice(report: Package, submitter: str) -> str:
    return (
        f"This is an aggregate TLS report (RFC 8460) from {submitter}\r\n"
        f"about mail sessions with {report.domain}\r\n"
        f"on {show_day(report.day)}, 00:00 to 24:00 UTC.\r\n"
        "\r\n"
        f"Sessions that were as the policy wants them: {report.successes}\r\n"
        f"Sessions that were not: {report.failures}\r\n"
        "\r\n"
    )


def _envelope(sender: Address, to: Address, now: float) -> Envelope:
    return Envelope(
        sender=sender,
        recipients=(Recipient(to, Notify.NEVER),),  # a report that cannot be delivered is worth no notice
        accepted_at=now,
        origin=Origin(listener=LISTENER, protocol="notice"),
        body=Body.SEVENBIT,
        tls_optional=True,  # RFC 8460 §3: despite any TLS-related failure
    )


def in_order(tallies: Sequence[Tally], most: int) -> tuple[Tally, ...]:
    """Tallies with about `most` details in all, the most frequent first; the rest is put together by its result."""
    each = max(most // max(len(tallies), 1), DETAILS_MIN)
    return tuple(
        evolve(tally, details=_bounded(tally.details, each))
        for tally in sorted(tallies, key=lambda tally: (tally.type, tally.domain, tally.terms))
    )


def _bounded(details: tuple[Detail, ...], most: int) -> tuple[Detail, ...]:
    ordered = sorted(details, key=lambda detail: (-detail.count, detail.result, detail.mx, detail.address))
    rest: dict[str, int] = {}
    for detail in ordered[most:]:
        rest[detail.result] = rest.get(detail.result, 0) + detail.count
    return (*ordered[:most], *(Detail(result, "", "", "", "", count) for result, count in rest.items()))
