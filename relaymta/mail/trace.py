"""The Received field that we stamp, and the count of those that others did.

RFC 5321 §4.4 (form), §6.3 (loops), RFC 3848 and RFC 6531 §4.3 (the "with" keywords), RFC 5322 §3.3 (dates).
Return-Path is not ours: final delivery writes it (RFC 5321 §4.4). Facts come from the envelope, the clock's value from
the caller.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from relaymta.mail.address import Address, AddressError, parse_domain
from relaymta.mail.envelope import Origin
from relaymta.mail.message import count

HOPS_MAX = 50  # ours: RFC 5321 §6.3 advises 100, but no honest path is half as long; above it the mail is refused

_LINE = 78  # RFC 5322 §2.1.1, characters without CRLF
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NAME = re.compile(r"[A-Za-z0-9._\-]{1,255}|\[[A-Za-z0-9.:]{1,253}\]")
_NOT_NAME = re.compile(r"[^A-Za-z0-9._\-]")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}")
_NOT_COMMENT = re.compile(r"[^ !#-'*-\[\]-~]")  # RFC 5322 §3.2.2: ctext, and no quotes to be puzzled by


def date(at: float) -> str:
    """POSIX time `at` in seconds as an RFC 5322 §3.3 date, in UTC; formatted once a second."""
    return _date(int(at))


@lru_cache(maxsize=8)
def _date(second: int) -> str:
    t = datetime.fromtimestamp(second, UTC)
    clock = f"{t.hour:02}:{t.minute:02}:{t.second:02}"
    return f"{_DAYS[t.weekday()]}, {t.day:02} {_MONTHS[t.month]} {t.year} {clock} +0000"


def protocol(*, esmtp: bool, tls: bool = False, auth: bool = False, utf8: bool = False, lmtp: bool = False) -> str:
    """The "with" keyword: RFC 3848 §1, or RFC 6531 §4.3 where the message came with SMTPUTF8."""
    if not (esmtp or lmtp):
        return "SMTP"
    word = "LMTP" if lmtp else "SMTP" if utf8 else "ESMTP"
    return ("UTF8" if utf8 else "") + word + ("S" if tls else "") + ("A" if auth else "")


def received(
    origin: Origin, hostname: str, queue_id: str, at: float, *, recipient: Address | None = None, rdns: str = ""
) -> bytes:
    """The Received field for a message taken from `origin` by `hostname`, folded, with its CRLF (RFC 5321 §4.4).

    `recipient` is named only where it is the sole one (RFC 5321 §7.6), as str of its path; `rdns` is a name that the
    client's address was proved to have. Nothing that a client said can leave its place: names lose all but name
    characters, comments all but comment text.
    """
    address = _literal(origin.client)
    if address:
        name = f"Received: from {_name(origin.helo) or address}"
        facts = f"({_name(rdns)} {address})" if rdns else f"({address})"
        start = _joined(name, facts)
        if origin.tls:
            facts = _NOT_COMMENT.sub("?", origin.tls)[:200].replace("; ", ";\r\n\t ")
            start += f"\r\n\t(using {facts})"
        by = f"\r\n\tby {_name(hostname)}"
    else:
        start, by = "", f"Received: by {_name(hostname)}"
    word = origin.protocol
    facts = f"with {word} id {queue_id}" if word.isupper() else f"id {queue_id}"  # "local", "notice": no keyword
    text = start + _joined(by, facts)
    if recipient is not None:
        path = _path(recipient, utf8=word.startswith("UTF8"))
        if path:
            return f"{text}\r\n\t{_joined(f'for {path};', date(at))}\r\n".encode()
    return f"{text};\r\n\t{date(at)}\r\n".encode()


def hops(header: bytes) -> int:
    """How many Received fields the header section holds (RFC 5321 §6.3); above HOPS_MAX the mail is in a loop."""
    return count(header, b"received")


def _joined(line: str, more: str) -> str:
    return f"{line} {more}" if len(line) + len(more) < _LINE else f"{line}\r\n\t{more}"


def _name(text: str) -> str:
    """`text` as a domain or a literal that is safe in a header, at most 255 characters; "" for none."""
    if _NAME.fullmatch(text):
        return text
    if not text.isascii():
        try:
            return parse_domain(text)
        except AddressError:
            pass
    return _NOT_NAME.sub("?", text)[:255]


def _literal(client: str) -> str:
    """The client's IP address as an address literal (RFC 5321 §4.1.3); "" where it has none (a UNIX socket)."""
    address = client.partition("%")[0]  # RFC 4007 §11: the zone is our own business
    if not _ADDRESS.fullmatch(address):
        return ""
    if ":" not in address:
        return f"[{address}]"
    if address.startswith("::ffff:") and "." in address:  # RFC 4291 §2.5.5.2: IPv4 in a dual socket's clothes
        return f"[{address[7:]}]"
    return f"[IPv6:{address}]"


def _path(recipient: Address, *, utf8: bool) -> str:
    """The path for the "for" clause, or "" where it cannot stand there (RFC 6531 §3.7.3: UTF-8 only if asked)."""
    text = str(recipient)
    if not text.isprintable() or not (utf8 or text.isascii()):
        return ""
    return f"<{text}>"
