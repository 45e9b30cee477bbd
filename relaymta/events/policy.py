"""TLS policies of destinations, MTA-STS and DANE, and the reports about them (RFC 8460)."""

from __future__ import annotations

from attrs import frozen

from relaymta.events.ears import Event


@frozen(slots=True)
class TlsChecked(Event):
    """One session with a host of a policy domain, as TLS-RPT counts them (RFC 8460 §4.3).

    `policy` is "tlsa", "sts" or "no-policy-found"; `terms` the policy's own lines (TLSA records or the policy file's);
    `result` is "" for a success, else the result type ("certificate-expired"). `source`: our address, where known.
    `domain` is who is told; `policy_domain` is the TLSA base domain, "" where the policy is the domain's own (§1.1).
    """

    domain: str
    policy: str
    terms: tuple[str, ...]
    mx: str
    mx_patterns: tuple[str, ...]
    source: str
    address: str
    result: str
    reason: str
    policy_domain: str = ""


@frozen(slots=True)
class StsPolicyFetched(Event):
    """A domain's MTA-STS policy was fetched, for the first time or again; `version` is the id of its record."""

    domain: str
    mode: str
    mx: str
    max_age: int
    version: str


@frozen(slots=True)
class StsPolicyFailed(Event):
    """A domain's MTA-STS policy or its record could not be got; `mode` is that of the policy in force, "" for none.

    `result` is "sts-policy-fetch-error", "sts-policy-invalid" or "sts-webpki-invalid" (RFC 8460 §4.3.2.2), or "dns".
    """

    domain: str
    result: str
    mode: str
    reason: str


@frozen(slots=True)
class TlsReportSent(Event):
    """A TLS report (RFC 8460) about a UTC day, "2026-11-23", was queued as mail or taken by a web server."""

    domain: str
    day: str
    to: str
    report: str


@frozen(slots=True)
class TlsReportFailed(Event):
    """A TLS report could not be handed over; `again`: whether it will be tried again."""

    domain: str
    day: str
    to: str
    again: bool
    reason: str


@frozen(slots=True)
class TlsReportDropped(Event):
    """Results of TLS sessions were dropped without a report."""

    domain: str
    day: str
    reason: str
