"""Events: one frozen value for each thing worth telling; the log, the metrics and the console are ears.

A session's events carry its session id from before a queue id exists; a message's carry its queue id first.
Names are an interface: dashboards and fail2ban read them. Nothing here formats or writes.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen


class Event:
    """What all events are. The first field is the id that ties lines together."""

    __slots__ = ()


Ear = Callable[[Event], None]


class Ears:
    """Who listens. `tell` costs one loop over a tuple; an ear that fails is told of and never hurts mail."""

    def __init__(self, complain: Callable[[], None] = lambda: None) -> None:
        self._ears: tuple[Ear, ...] = ()
        self._complain = complain

    def add(self, ear: Ear) -> None:
        """Let `ear` hear every event from now on."""
        self._ears = (*self._ears, ear)

    def remove(self, ear: Ear) -> None:
        """Let `ear` hear no more."""
        self._ears = tuple(known for known in self._ears if known is not ear)

    def tell(self, event: Event) -> None:
        """Hand `event` to every ear."""
        for ear in self._ears:
            try:
                ear(event)
            except Exception:  # noqa: BLE001 a broken ear must not turn a 250 into a 451
                self._complain()


# Sessions (the way in)


@frozen(slots=True)
class SessionOpened(Event):
    """A client connected."""

    session: str
    listener: str
    client: str
    port: int


@frozen(slots=True)
class SessionRefused(Event):
    """A client was turned away at the door; `reply` says how."""

    session: str
    listener: str
    client: str
    reply: str


@frozen(slots=True)
class ClientNamed(Event):
    """The host at `proxy` said, `by` PROXY or XCLIENT, whose connection it is; `client` "": it could not say."""

    session: str
    listener: str
    proxy: str
    by: str
    client: str
    port: int
    name: str
    account: str


@frozen(slots=True)
class ProxyRefused(Event):
    """A named proxy did not say, or not rightly, whose connection it is; it was closed without a word."""

    session: str
    listener: str
    proxy: str
    reason: str


@frozen(slots=True)
class OriginForwarded(Event):
    """The client said by XFORWARD where its next message comes from: facts for the log that nobody has checked."""

    session: str
    client: str
    origin: str
    port: int
    name: str
    helo: str
    protocol: str
    ident: str
    source: str


@frozen(slots=True)
class TlsStarted(Event):
    """A session's TLS handshake ended well.

    `server_name`: whom the client asked for. `certificate`: the fingerprint (SHA-256) of the client's own, where it
    showed one; `names`: those in it, where it can be trusted.
    """

    session: str
    client: str
    tls: str
    server_name: str = ""
    certificate: str = ""
    names: str = ""


@frozen(slots=True)
class TlsFailed(Event):
    """A session's TLS handshake did not end, or ended badly."""

    session: str
    listener: str
    client: str
    reason: str


@frozen(slots=True)
class Authenticated(Event):
    """A client logged in as `account`, by that mechanism."""

    session: str
    client: str
    account: str
    mechanism: str


@frozen(slots=True)
class AuthenticationFailed(Event):
    """A client failed to log in; `name` is who it said it was, where it said so. `failures`: so far, of that client."""

    session: str
    client: str
    name: str
    mechanism: str
    reason: str
    failures: int = 0


@frozen(slots=True)
class UsersRead(Event):
    """The file of accounts has changed, and so many accounts are in force."""

    file: str
    accounts: int


@frozen(slots=True)
class UsersBroken(Event):
    """Accounts cannot be read; those of a file that was read before stay in force.

    `file` is the file, or the table of a source that cannot be used.
    """

    file: str
    reason: str


@frozen(slots=True)
class CommandRefused(Event):
    """A command was answered 4xx or 5xx by the grammar, a limit or a check."""

    session: str
    client: str
    command: str
    reply: str
    check: str = ""
    sender: str = ""
    recipient: str = ""


@frozen(slots=True)
class ContentRefused(Event):
    """A message was refused at or before its end of data; nothing was kept."""

    session: str
    client: str
    sender: str
    recipients: int
    size: int
    reply: str
    check: str = ""


@frozen(slots=True)
class QuotaExceeded(Event):
    """A message would be one too many for its account: `limit` ("recipients_per_hour") allows `allowed`.

    `over` is what becomes of it: "hold" or "refuse".
    """

    session: str
    client: str
    account: str
    limit: str
    would_be: int
    allowed: int
    over: str


@frozen(slots=True)
class SessionClosed(Event):
    """A connection ended: how, after how many messages, and seconds."""

    session: str
    client: str
    helo: str
    messages: int
    commands: int
    seconds: float
    reason: str


# Messages


@frozen(slots=True)
class MessageAccepted(Event):
    """A message is on stable storage and is ours; its 250 goes out. `seconds`: from MAIL to durable.

    `account`: who had logged in, or "".
    """

    id: str
    session: str
    client: str
    sender: str
    recipients: int
    size: int
    protocol: str
    message_id: str
    seconds: float
    account: str = ""


@frozen(slots=True)
class RecipientSettled(Event):
    """One recipient left the queue: delivered, relayed, failed, expired or removed."""

    id: str
    fate: str
    recipient: str
    status: str
    host: str
    address: str
    reply: str
    lane: str
    tls: str
    attempts: int
    seconds: float


@frozen(slots=True)
class RecipientDeferred(Event):
    """One recipient must wait; `next` is POSIX time of the next attempt."""

    id: str
    recipient: str
    status: str
    host: str
    address: str
    reply: str
    scope: str
    lane: str
    attempts: int
    next: int


@frozen(slots=True)
class MessageFinished(Event):
    """The last recipient left the queue; `seconds` since acceptance."""

    id: str
    seconds: float


@frozen(slots=True)
class NoticeQueued(Event):
    """A DSN was composed and accepted under `notice`, its own queue id."""

    id: str
    notice: str
    kind: str
    to: str
    recipients: int


@frozen(slots=True)
class NoticeDropped(Event):
    """A DSN was owed to nobody (null sender, no postmaster): told here alone."""

    id: str
    kind: str
    reason: str
    recipients: int


@frozen(slots=True)
class MessageHeld(Event):
    """A message waits for the operator."""

    id: str
    by: str
    reason: str


@frozen(slots=True)
class MessageReleased(Event):
    """A held message goes on."""

    id: str
    by: str


@frozen(slots=True)
class MessageRemoved(Event):
    """The operator deleted a message; no notice is sent."""

    id: str
    by: str
    recipients: int


# Destinations


@frozen(slots=True)
class ConnectFailed(Event):
    """A host of a next hop could not be used; the next one is tried where there is one."""

    lane: str
    host: str
    address: str
    reason: str
    seconds: float


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


@frozen(slots=True)
class StateFailed(Event):
    """What workers share beside the mail cannot be read or written; mail goes on without it."""

    file: str
    reason: str


@frozen(slots=True)
class LoginRefused(Event):
    """A next hop refused our log-in, or there can be none; the account is not tried there for `seconds`."""

    account: str
    host: str
    reason: str
    seconds: float


@frozen(slots=True)
class LaneSuspended(Event):
    """A destination is left alone for `seconds` after failures that were its own."""

    lane: str
    reason: str
    seconds: float


@frozen(slots=True)
class LaneResumed(Event):
    """A suspended destination answered again."""

    lane: str


# The daemon


@frozen(slots=True)
class SpoolOpened(Event):
    """A shard was opened and replayed: what the crash table of store.journal found."""

    shard: str
    queued: int
    replayed: int
    corrupt: int
    seconds: float


@frozen(slots=True)
class SpoolCorrupt(Event):
    """Something could not be read and was put into corrupt/; nothing was dropped."""

    file: str
    reason: str


@frozen(slots=True)
class SpoolFailed(Event):
    """A write or sync failed; no 250 was sent for it."""

    shard: str
    reason: str


@frozen(slots=True)
class SpoolFull(Event):
    """Free space fell below `queue.min_free`; mail is refused with 452."""

    shard: str
    free: int


@frozen(slots=True)
class LedgerMismatch(Event):
    """The auditor found accepted != settled + queued; a bug of ours."""

    shard: str
    difference: int


@frozen(slots=True)
class DaemonStarted(Event):
    """Listening."""

    version: str
    pid: int
    listeners: str


@frozen(slots=True)
class DaemonReloaded(Event):
    """A new configuration is in force."""

    version: str
    file: str


@frozen(slots=True)
class ReloadFailed(Event):
    """A new configuration is wrong or cannot be put in force; the one before stays."""

    file: str
    reason: str


@frozen(slots=True)
class CertificateLoaded(Event):
    """Files of a certificate or of authorities have changed, and are in force; `until`: the day (UTC) of their end."""

    file: str
    names: str
    until: str


@frozen(slots=True)
class CertificateRefused(Event):
    """A certificate's files have changed and cannot be used; what they held before stays in force."""

    file: str
    reason: str


@frozen(slots=True)
class DaemonStopping(Event):
    """Draining: no new sessions."""

    reason: str


@frozen(slots=True)
class WorkerEnded(Event):
    """A worker process ended without being asked; it is started again."""

    worker: str
    reason: str


@frozen(slots=True)
class BugCaught(Event):
    """An exception that no rule foresaw; the peer got 451 or the message was deferred."""

    where: str
    trace: str
