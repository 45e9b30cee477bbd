"""What a peer offers in its answer to EHLO, and what may be said to it: MAIL and RCPT with their parameters.

RFC 5321 §4.1.1.1 (EHLO), RFC 1870 (SIZE), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8), RFC 3461 (DSN), RFC 2920
(PIPELINING), RFC 4954 (AUTH), RFC 9422 (LIMITS), RFC 8689 (REQUIRETLS). When it is said is left to smtp.dialogue.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from relaymta.mail.address import sender_path
from relaymta.mail.content import Content
from relaymta.mail.envelope import Body, Envelope, Notify, Recipient
from relaymta.mail.xtext import orcpt_encode, xtext_encode

_WORDS = ((Notify.NEVER, "NEVER"), (Notify.SUCCESS, "SUCCESS"), (Notify.FAILURE, "FAILURE"), (Notify.DELAY, "DELAY"))


@frozen(slots=True)
class Offers:
    """The extensions of one peer. `keywords` holds all of them, upper case, with their parameters as sent (str).

    `size` is None where SIZE is not offered and 0 where it names no limit (RFC 1870 §4). The limits of RFC 9422 are
    0 where none is told.
    """

    keywords: Mapping[str, str] = field(factory=dict)
    pipelining: bool = False
    starttls: bool = False
    size: int | None = None
    eightbitmime: bool = False
    smtputf8: bool = False
    dsn: bool = False
    requiretls: bool = False
    rcpt_max: int = 0
    mail_max: int = 0
    domain_max: int = 0


NOTHING = Offers()  # a peer that knows HELO only


def offers_of(lines: list[bytes], *, secure: bool = False) -> Offers:
    """Read the lines of a positive answer to EHLO or LHLO; the first one is a greeting (RFC 5321 §4.1.1.1).

    `secure`: they came over TLS, without which REQUIRETLS cannot be meant (RFC 8689 §2).
    """
    keywords: dict[str, str] = {}
    old: dict[str, str] = {}
    for line in lines[1:]:
        text = line.decode("latin-1").strip()
        word, _, parameters = text.partition(" ")
        name, equals, value = word.partition("=")
        if equals:  # "AUTH=LOGIN" is how servers older than RFC 4954 offered AUTH; the newer form wins
            old.setdefault(name.upper(), f"{value} {parameters}".strip())
        else:
            keywords.setdefault(name.upper(), parameters.strip())
    for name, parameters in old.items():
        keywords.setdefault(name, parameters)
    limits = _limits(keywords.get("LIMITS", ""))
    return Offers(
        keywords=keywords,
        pipelining="PIPELINING" in keywords,
        starttls="STARTTLS" in keywords,
        size=_number(keywords["SIZE"]) if "SIZE" in keywords else None,
        eightbitmime="8BITMIME" in keywords,
        smtputf8="SMTPUTF8" in keywords,
        dsn="DSN" in keywords,
        requiretls=secure and "REQUIRETLS" in keywords,
        rcpt_max=limits.get("RCPTMAX", 0),
        mail_max=limits.get("MAILMAX", 0),
        domain_max=limits.get("RCPTDOMAINMAX", 0),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0


def _limits(text: str) -> dict[str, int]:
    pairs = (word.upper().partition("=") for word in text.split())
    return {name: number for name, _, value in pairs if (number := _number(value))}  # RFC 9422 §3: 0 is no limit


def needs_utf8(envelope: Envelope, content: Content, recipients: tuple[int, ...]) -> bool:
    """Whether the transaction needs SMTPUTF8: an address, or a header declared so, is not ASCII (RFC 6531 §3.4)."""
    sender = envelope.sender
    if sender is not None and sender.internationalized:
        return True
    for index in recipients:
        if envelope.recipients[index].address.internationalized:
            return True
    return envelope.smtputf8 and content.eightbit and not content.header().isascii()


def mail_command(offers: Offers, envelope: Envelope, content: Content, *, utf8: bool) -> bytes:
    """The MAIL command with its CRLF; `utf8` says that the transaction needs SMTPUTF8, which is then offered.

    No AUTH=<> where we logged in, though RFC 4954 §5 wants it: servers that do not know it refuse the mail for good.
    """
    line = b"MAIL FROM:" + sender_path(envelope.sender)
    if offers.size is not None:
        line += b" SIZE=%d" % content.size  # RFC 1870 §5
    if offers.eightbitmime and (content.eightbit or envelope.body is Body.EIGHTBIT):
        line += b" BODY=8BITMIME"  # RFC 6152 §2
    if utf8:
        line += b" SMTPUTF8"  # RFC 6531 §3.4
    if offers.dsn:
        if envelope.ret is not None:
            line += b" RET=" + envelope.ret.value.encode()  # RFC 3461 §4.3
        if envelope.envid:
            line += b" ENVID=" + xtext_encode(envelope.envid)  # RFC 3461 §4.4
    if envelope.requiretls and offers.requiretls:
        line += b" REQUIRETLS"  # RFC 8689 §4.2.1: whoever takes it over takes the demand over
    return line + b"\r\n"


def rcpt_command(offers: Offers, recipient: Recipient, *, utf8: bool) -> bytes:
    """The RCPT command with its CRLF."""
    line = b"RCPT TO:" + recipient.address.path()
    if offers.dsn:
        if recipient.notify:
            line += b" NOTIFY=" + notify_value(recipient.notify)  # RFC 3461 §4.1
        if recipient.orcpt:
            # RFC 3461 §5.2.1: what came with ORCPT goes on with it. RFC 6533 §3: its form depends on SMTPUTF8.
            line += b" ORCPT=" + orcpt_encode(recipient.orcpt, utf8=utf8)
    return line + b"\r\n"


def notify_value(notify: Notify) -> bytes:
    """The value of NOTIFY: NEVER alone, or the others in their usual order."""
    if notify & Notify.NEVER:
        return b"NEVER"  # RFC 3461 §4.1: it stands alone
    return ",".join(word for flag, word in _WORDS if notify & flag).encode()
