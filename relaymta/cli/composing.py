"""What sendmail(1) does to a message: line ends, recipients out of the header, fields that are missing.

RFC 5322 §3.6 (fields), §2.3 (CRLF), RFC 6409 §8 (what a submission may add), RFC 5322 §3.6.3 (Bcc is taken out).
Fields that stay are copied as they are.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email.utils import formataddr, formatdate, make_msgid

from attrs import frozen

from relaymta.mail.address import Address, AddressError, parse_mailbox
from relaymta.mail.addresslist import AddressListError, mailboxes
from relaymta.mail.message import Field, fields

RECIPIENT_FIELDS = (b"to", b"cc", b"bcc")
RESENT_FIELDS = (b"resent-to", b"resent-cc", b"resent-bcc")
HIDDEN_FIELDS = (b"bcc", b"resent-bcc")

_LINE_END = re.compile(rb"\r*\n|\r")
_LONE_DOT = re.compile(rb"(?:\A|\n)\.\r?\n")
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")


class MessageError(ValueError):
    """A message or an address that cannot be sent; the text is for whoever called us."""


@frozen(slots=True)
class Arranged:
    """A message ready to leave: `octets` with CRLF line ends, and the recipients its header named, as text."""

    octets: bytes
    recipients: tuple[str, ...]
    utf8: bool


def arrange(octets: bytes, sender: str, name: str, hostname: str, *, recipients: bool, dots: bool) -> Arranged:
    """Make a message of what was read from standard input.

    `sender` and `name` are for a From field that is missing; Bcc is taken out, and with `recipients` they are those
    that the header names; with `dots` a line with a single dot is the end. Raises MessageError.
    """
    if b"\0" in octets:
        raise MessageError("the message holds a NUL octet, which no mail may")  # RFC 5322 §4: obsolete, refused
    end = _LONE_DOT.search(octets) if dots else None
    if end is not None:
        octets = octets[: end.start() + (end[0][:1] == b"\n")]
    header, body = _split(_LINE_END.sub(b"\r\n", octets))
    found = list(fields(header))
    named = _recipients(found) if recipients else ()
    found = [one for one in found if one.name not in HIDDEN_FIELDS]  # mutt leaves them to us without -t, too
    names = {one.name for one in found}
    added = b""
    if b"from" not in names:
        shown = "".join(letter if letter.isprintable() else "?" for letter in name)  # no line of its own
        added += b"From: " + formataddr((shown, sender)).encode() + b"\r\n"
    if b"date" not in names:
        added += b"Date: " + formatdate(time.time(), localtime=True).encode() + b"\r\n"
    if b"message-id" not in names:
        added += b"Message-ID: " + make_msgid(domain=hostname).encode() + b"\r\n"
    section = added + b"".join(one.raw for one in found)
    return Arranged(section + b"\r\n" + body, named, _is_utf8_beyond_ascii(section))


def _is_utf8_beyond_ascii(section: bytes) -> bool:
    """Whether a header needs SMTPUTF8 (RFC 6532 §3.2); one in an old character set is broken, and goes as it is."""
    if section.isascii():
        return False
    try:
        section.decode()
    except UnicodeDecodeError:
        return False
    return True


def addresses(texts: Iterable[str], hostname: str) -> list[Address]:
    """The addresses in lists as people write them: names, comments and groups allowed. Raises MessageError."""
    return [qualified(text, hostname) for text in _mailboxes(texts)]


def qualified(text: str, hostname: str) -> Address:
    """One address; a name alone is at this host. Raises MessageError."""
    try:
        return parse_mailbox(text if "@" in text else f"{text}@{hostname}")
    except AddressError as error:
        raise MessageError(f'"{text}" is not an address: {error}') from None


def _split(octets: bytes) -> tuple[bytes, bytes]:
    """Header section and body; a first line that is no field begins the body."""
    if octets.startswith((b"From ", b">From ")):  # mbox's line, left by programs that read one
        octets = octets.partition(b"\r\n")[2]
    if octets and not octets.endswith(b"\r\n"):
        octets += b"\r\n"
    at = 0
    while at < len(octets):
        end = octets.index(b"\r\n", at) + 2
        if end == at + 2:
            return octets[:at], octets[end:]
        folded = at > 0 and octets[at : at + 1] in (b" ", b"\t")
        if not folded and not _FIELD.match(octets, at):
            return octets[:at], octets[at:]
        at = end
    return octets, b""


def _recipients(found: list[Field]) -> tuple[str, ...]:
    resent = any(one.name in RESENT_FIELDS for one in found)
    wanted = RESENT_FIELDS if resent else RECIPIENT_FIELDS  # RFC 5322 §3.6.6: the latest sending counts
    texts = []
    for one in found:
        if one.name in wanted:
            try:
                texts.append(one.value.decode())
            except UnicodeDecodeError:
                raise MessageError(f"the {one.name.decode()} field is not UTF-8") from None
    return tuple(_mailboxes(texts))


def _mailboxes(texts: Iterable[str]) -> list[str]:
    try:
        return [mailbox for text in texts for mailbox in mailboxes(text)]
    except AddressListError as error:
        raise MessageError(str(error)) from None
