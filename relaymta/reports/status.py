"""The part of a notice that programs read: message/delivery-status, or its global kind.

RFC 3464 §2 (fields), RFC 3461 §6.3 (what of the envelope is repeated), RFC 4865 §5.1.2 (future release), RFC 6533
§3 and §4 (UTF-8).
"""

from __future__ import annotations

import re
import textwrap

from attrs import frozen

from relaymta.mail.envelope import Envelope, Recipient
from relaymta.mail.outcome import Outcome
from relaymta.mail.trace import date
from relaymta.mail.xtext import embed_unicode

WIDTH = 76  # characters of a line before it is folded; ours, under RFC 5322 §2.1.1
TOKEN_MAX = 240  # characters without a space; ours: as UTF-8 they stay below RFC 5322 §2.1.1's 998 octets
ADDRESS_MAX = 900  # octets of an address on its one line; ours, for the same reason
REPLY_LINES_MAX = 20  # lines of a peer's reply that are repeated; ours

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_NONASCII = re.compile(r"[^\x00-\x7f]+")
_TYPE = re.compile(r"[A-Za-z0-9\-]+")


@frozen(slots=True)
class Facts:
    """One recipient in the notice: `action` is RFC 3464 §2.3.3's word, `retry_until` POSIX time in seconds."""

    action: str
    recipient: Recipient
    outcome: Outcome
    retry_until: float | None = None

    @property
    def nonascii(self) -> bool:
        """Whether its addresses can be told truly only in UTF-8 (RFC 6533 §3)."""
        return self.recipient.address.internationalized or not self.recipient.orcpt.isascii()

    @property
    def peer(self) -> str:
        """The name of the server that spoke, else its address as a literal, or ""."""
        outcome = self.outcome
        if outcome.host or not outcome.address:
            return clean(outcome.host)
        return clean(f"[IPv6:{outcome.address}]" if ":" in outcome.address else f"[{outcome.address}]")


    @property
    def status(self) -> str:
        """The status code; its class fits the action (RFC 3464 §2.3.4), but what expired keeps its last 4.x.x."""
        code = self.outcome.status
        if self.action in ("delivered", "relayed"):
            return code if code.startswith("2.") else "2.0.0"
        return code if code.startswith(("4.", "5.")) else "4.0.0" if self.action == "delayed" else "5.0.0"


def clean(text: str) -> str:
    """`text` without anything that could end or bend a line: control characters become one "?"."""
    return _CONTROL.sub("?", text)


def part(facts: list[Facts], envelope: Envelope, queue_id: str, *, hostname: str, utf8: bool) -> bytes:
    """The MIME part, its header section included; `utf8` asks for the global kind, UTF-8 and 8bit (RFC 6533 §4)."""
    head = (
        "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n"
        if utf8
        else "Content-Type: message/delivery-status\r\n"
    )
    groups = [_message_fields(envelope, queue_id, hostname)]
    groups += [_recipient_fields(fact, utf8=utf8) for fact in facts]
    text = "\r\n".join("".join(group) for group in groups)
    return f"{head}Content-Description: Delivery status\r\n\r\n{text}".encode()


def _message_fields(envelope: Envelope, queue_id: str, hostname: str) -> list[str]:
    """RFC 3464 §2.2."""
    lines = [_field("Original-Envelope-Id", envelope.envid)] if envelope.envid else []  # RFC 3461 §6.3
    lines.append(_field("Reporting-MTA", f"dns; {hostname}"))
    if envelope.origin.client and envelope.origin.helo:
        lines.append(_field("Received-From-MTA", f"dns; {envelope.origin.helo}"))
    lines.append(_field("Arrival-Date", date(envelope.accepted_at)))
    if envelope.release_request:
        lines.append(_field("Future-Release-Request", envelope.release_request))  # RFC 4865 §5.1.2
    lines.append(_field("X-Relaymta-Queue-ID", queue_id))
    return lines


def _recipient_fields(fact: Facts, *, utf8: bool) -> list[str]:
    """RFC 3464 §2.3."""
    recipient, outcome = fact.recipient, fact.outcome
    lines = []
    kind, semicolon, original = recipient.orcpt.partition(";")
    if semicolon and original and _TYPE.fullmatch(kind):  # RFC 3461 §6.3
        lines.append(_address("Original-Recipient", kind, original, utf8=utf8))
    kind = "utf-8" if recipient.address.internationalized else "rfc822"
    lines.append(_address("Final-Recipient", kind, str(recipient.address), utf8=utf8))
    lines.append(_field("Action", fact.action))
    lines.append(_field("Status", fact.status))
    if fact.peer:
        lines.append(_field("Remote-MTA", f"dns; {fact.peer}"))
    lines.append(_diagnostic(outcome, utf8=utf8))
    lines.append(_field("Last-Attempt-Date", date(outcome.at)))
    if fact.action == "delayed" and fact.retry_until is not None:
        lines.append(_field("Will-Retry-Until", date(fact.retry_until)))  # RFC 3464 §2.3.9: delayed alone
    return lines


def _diagnostic(outcome: Outcome, *, utf8: bool) -> str:
    """RFC 3464 §2.3.6: the peer's own words where it spoke, else ours under a type of our own."""
    reply = outcome.reply
    if reply is None:
        return _field("Diagnostic-Code", f"x-relaymta; {outcome.text}", utf8=utf8)
    lines = reply.text.split("\n")[:REPLY_LINES_MAX]
    mark = f"{reply.code} {reply.enhanced}" if reply.enhanced else f"{reply.code}"
    return _field("Diagnostic-Code", f"smtp; {mark} {lines[0]}", *lines[1:], utf8=utf8)


def _address(name: str, kind: str, address: str, *, utf8: bool) -> str:
    """RFC 6533 §3: raw UTF-8 in the global kind, utf-8-addr-xtext in the other. Never folded: spaces may count."""
    kept = clean(address)[:ADDRESS_MAX]
    text = _spelled(kept, kind, utf8=utf8)
    while len(text.encode()) > ADDRESS_MAX:  # only what no path and no ORCPT can hold (RFC 3461 §4.2)
        kept = kept[:-10]
        text = _spelled(kept, kind, utf8=utf8)
    return f"{name}: {kind}; {text}\r\n"


def _spelled(address: str, kind: str, *, utf8: bool) -> str:
    if utf8:
        return address
    return embed_unicode(address) if kind.lower() == "utf-8" else in_ascii(address)


def _field(name: str, *lines: str, utf8: bool = False) -> str:
    """One field; each of `lines` starts on a line of its own and is folded at spaces to WIDTH."""
    folded: list[str] = []
    for number, line in enumerate(lines):
        text = clean(line) if utf8 else in_ascii(clean(line))
        folded += wrapped(f"{name}: {text}" if number == 0 else text, WIDTH)
    return "\r\n ".join(folded) + "\r\n"


def in_ascii(text: str) -> str:
    """`text` with every character outside ASCII as "\\x{HEX}"."""
    return text if text.isascii() else _NONASCII.sub(lambda found: embed_unicode(found[0]), text)


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of `width` characters where its spaces allow it, of TOKEN_MAX at most where they do not."""
    found = []
    for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False, expand_tabs=False):
        found += [line[start : start + TOKEN_MAX] for start in range(0, len(line), TOKEN_MAX)]
    return found
