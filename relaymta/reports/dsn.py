"""Delivery status notices: what is owed to whom, and the message that says it.

RFC 3461 §4 to §6 (who is told what), RFC 6522 (multipart/report), RFC 3464 (the notice), RFC 3834 (Auto-Submitted),
RFC 6533 (UTF-8 addresses), RFC 8689 (REQUIRETLS). Pure: composes, never sends; clock and ids come from the caller. The
sentences for people are in advice, the fields for programs in status, what comes back of the message in returned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from attrs import frozen

from relaymta.mail.address import Address, parse_mailbox
from relaymta.mail.content import Content
from relaymta.mail.envelope import Body, Envelope, Notify, Origin, Recipient, Ret
from relaymta.mail.message import find
from relaymta.mail.outcome import Fate, Outcome
from relaymta.mail.trace import date
from relaymta.reports import advice, returned, status
from relaymta.reports.settings import Settings

NOTICE = "notice"  # Origin.protocol of what is composed here
DOUBLE = "double-bounce"  # Origin.listener of a notice to the postmaster; what fails of it is told to nobody

_MESSAGE_ID = re.compile(rb"<[!-;=?-~]{1,240}>")  # what may be repeated in References


class Kind(Enum):
    """What a notice tells: the Action of all its recipients (RFC 3464 §2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"


@frozen(slots=True)
class Told:
    """One recipient of the message, and what the notice says of it."""

    recipient: Recipient
    outcome: Outcome


@frozen(slots=True)
class Notice:
    """A composed notice: `envelope` and `octets` (CRLF line ends) go to the queue under the id it was made with."""

    kind: Kind
    envelope: Envelope
    octets: bytes


# Which fate makes which kind, and which NOTIFY asks for it. UNSET stands for FAILURE and DELAY (RFC 3461 §4.1).
_FATES = {
    Kind.FAILED: (Fate.FAILED, Fate.EXPIRED),
    Kind.DELAYED: (Fate.DEFERRED,),
    Kind.DELIVERED: (Fate.DELIVERED,),
    Kind.RELAYED: (Fate.RELAYED,),
}
_WISHES = {
    Kind.FAILED: Notify.FAILURE,
    Kind.DELAYED: Notify.DELAY,
    Kind.DELIVERED: Notify.SUCCESS,
    Kind.RELAYED: Notify.SUCCESS,
}


def owed(kind: Kind, envelope: Envelope, outcomes: Iterable[Outcome]) -> tuple[Told, ...]:
    """Those of `outcomes` that a notice of `kind` must tell, in order; () if none.

    NOTIFY decides (RFC 3461 §4.1); a relayed recipient is told of only where the next hop did not take the duty over
    (RFC 3461 §5.2.2). Of a message with the null reverse-path no sender is told anything (RFC 5321 §6.1); its failures
    are given nevertheless, whatever NOTIFY says, for `compose` to tell the postmaster.
    """
    if envelope.sender is None and kind is not Kind.FAILED:
        return ()
    fates, wish = _FATES[kind], _WISHES[kind]
    told = []
    for outcome in outcomes:
        if outcome.fate not in fates or (kind is Kind.RELAYED and outcome.dsn):
            continue
        recipient = envelope.recipients[outcome.recipient]
        unset = recipient.notify is Notify.UNSET and wish is not Notify.SUCCESS
        if envelope.sender is None or unset or recipient.notify & wish:
            told.append(Told(recipient, outcome))
    return tuple(told)


def compose(
    kind: Kind,
    queue_id: str,
    envelope: Envelope,
    told: tuple[Told, ...],
    content: Content,
    *,
    hostname: str,
    settings: Settings,
    now: float,
    notice_id: str,
    retry_until: float | None = None,
) -> Notice | None:
    """The notice of `kind` about `told`, recipients of the message `queue_id`; None where nobody is to be told.

    `now` and `retry_until` are POSIX times in seconds; `notice_id` is the queue id that the notice will have. A failure
    of a message without sender goes to `settings.postmaster`, once: what fails of that goes to nobody. Raises OSError
    if `content` cannot be read.
    """
    to = _addressee(kind, envelope, told, settings)
    if to is None:
        return None
    double = envelope.sender is None
    header = content.header()
    back = returned.part(content, header, whole=_whole(kind, envelope, content, settings), utf8=envelope.smtputf8)
    facts = [status.Facts(kind.value, t.recipient, t.outcome, retry_until) for t in told]
    utf8 = envelope.smtputf8 and any(fact.nonascii for fact in facts)
    parts = (
        advice.part(kind.value, queue_id, facts, hostname=hostname, whole=back.whole, double=double),
        status.part(facts, envelope, queue_id, hostname=hostname, utf8=utf8),
        back.octets,
    )
    boundary = _boundary(notice_id, parts)
    delimiter = b"--" + boundary
    head = _header(kind, to, header, hostname=hostname, now=now, notice_id=notice_id, double=double)
    octets = (
        head
        + b'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="' + boundary + b'"\r\n'
        + (b"" if all(map(bytes.isascii, parts)) else b"Content-Transfer-Encoding: 8bit\r\n")
        + b"\r\nThis is a delivery status notice in MIME form (RFC 3464).\r\n"
        + b"".join(b"\r\n" + delimiter + b"\r\n" + part for part in parts)
        + b"\r\n" + delimiter + b"--\r\n"
    )  # fmt: skip
    return Notice(kind, _envelope(to, octets, now, queue_id, double=double, requiretls=envelope.requiretls), octets)


def _addressee(kind: Kind, envelope: Envelope, told: tuple[Told, ...], settings: Settings) -> Address | None:
    if not told or envelope.sender is not None:
        return envelope.sender if told else None
    if kind is not Kind.FAILED or not settings.postmaster or envelope.origin.listener == DOUBLE:
        return None
    postmaster = parse_mailbox(settings.postmaster)
    if any(t.recipient.address == postmaster for t in told):  # whoever sent it: this can only go round
        return None
    return postmaster


def _whole(kind: Kind, envelope: Envelope, content: Content, settings: Settings) -> bool:
    """Whether the whole message is to come back (RFC 3461 §4.3: RET speaks of failures alone).

    Not where it was to go over TLS alone: the way back may have none (RFC 8689 §5).
    """
    if kind is not Kind.FAILED or envelope.ret is Ret.HDRS or envelope.requiretls:
        return False
    return content.size <= settings.return_max


def _header(
    kind: Kind, to: Address, original: bytes, *, hostname: str, now: float, notice_id: str, double: bool
) -> bytes:
    about = find(original, b"message-id")
    known = about is not None and _MESSAGE_ID.fullmatch(about.value)
    references = f"References: {known[0].decode('ascii')}\r\n" if known else ""
    return (
        f"Date: {date(now)}\r\n"
        f'From: "Mail Delivery System" <mailer-daemon@{hostname}>\r\n'
        f"To: {status.clean(str(to))}\r\n"
        f"Subject: {advice.subject(kind.value, double=double)}\r\n"
        f"Message-ID: <{notice_id}@{hostname}>\r\n"
        f"{references}"
        "Auto-Submitted: auto-replied\r\n"  # RFC 3834 §5
        "MIME-Version: 1.0\r\n"
    ).encode()


def _boundary(notice_id: str, parts: tuple[bytes, ...]) -> bytes:
    """A boundary that no line of `parts` can be taken for (RFC 2046 §5.1.1)."""
    boundary = f"=_{notice_id}".encode()
    number = 0
    while any(boundary in part for part in parts):
        number += 1
        boundary = f"=_{notice_id}_{number}".encode()
    return boundary


def _envelope(to: Address, octets: bytes, now: float, queue_id: str, *, double: bool, requiretls: bool) -> Envelope:
    """RFC 3461 §6.1: the null reverse-path, NOTIFY=NEVER. RFC 8689 §5: REQUIRETLS of a message that had it."""
    return Envelope(
        sender=None,
        recipients=(Recipient(to, Notify.NEVER),),
        accepted_at=now,
        origin=Origin(listener=DOUBLE if double else "", session=queue_id, protocol=NOTICE),
        body=Body.SEVENBIT if octets.isascii() else Body.EIGHTBIT,
        smtputf8=to.internationalized,
        requiretls=requiretls,
    )
