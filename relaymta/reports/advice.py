"""The part of a notice that people read: what happened, which server said what, and what to do.

RFC 6522 §3 (the first part), RFC 3463 §3 (what the codes mean, here in plain English), RFC 2046 §4.1 (text/plain).
"""

from __future__ import annotations

import textwrap

from relaymta.mail.outcome import Fate
from relaymta.mail.trace import date
from relaymta.reports.status import REPLY_LINES_MAX, Facts, clean, wrapped

WIDTH = 72

_SUBJECTS = {
    "failed": "Your message could not be delivered",
    "delayed": "Your message is delayed, we are still trying",
    "delivered": "Your message was delivered",
    "relayed": "Your message was passed on",
}
_DOUBLE_SUBJECT = "A message without sender could not be delivered"

_OPENINGS = {
    "failed": "Your message could not be delivered to the {} below. We have given up trying.",
    "delayed": "Your message has not yet been delivered to the {} below. We are still trying, and you need not "
    "send it again.",
    "delivered": "Your message was delivered to the {} below.",
    "relayed": "Your message was passed on to the mail server of the {} below. That server does not send "
    "notices of delivery, so that you may hear no more of it.",
}
_DOUBLE_OPENING = (
    "This is for the postmaster. A message that has no sender to be told, most often a notice itself, could not "
    "be delivered to the {} below. Nothing more will be tried."
)

_ASK = "Ask the recipient, by other means, for the right address."
_THEIRS = "Only the people who run that mail server can mend this. Show them this notice."
_LATER = "Send the message again later."

# RFC 3463 §3: subject and detail of the code > (what it means, what to do)
_MEANINGS = {
    "1.0": ("Something is wrong with the recipient's address.", "Check the address. " + _ASK),
    "1.1": ("There is no such mailbox.", "Check the address for typing errors. " + _ASK),
    "1.2": ("The domain, the part after the @, does not exist.", "Check the address for typing errors. " + _ASK),
    "1.3": ("The other server does not understand the address.", "Check the address for typing errors. " + _ASK),
    "1.6": ("The mailbox has moved, and nobody knows where to.", _ASK),
    "1.7": ("The other server does not accept your address as a sender.", "Check the address you send from."),
    "1.8": ("The other server cannot find the domain of your address.", "Check the address you send from."),
    "1.10": ("The domain, the part after the @, takes no mail at all.", "Check the address. " + _ASK),
    "2.0": ("Something is wrong with the recipient's mailbox.", "Tell the recipient by other means."),
    "2.1": ("The mailbox is closed or takes no mail now.", "Tell the recipient by other means."),
    "2.2": ("The mailbox is full.", "Tell the recipient by other means, and send the message again later."),
    "2.3": ("The message is larger than the mailbox takes.", "Send a smaller message, or a link to the files."),
    "3.0": ("The other server has a fault of its own.", _LATER),
    "3.1": ("The other server has no room for more mail.", _LATER),
    "3.2": ("The other server takes no mail at present.", _LATER),
    "3.4": ("The message is larger than the other server takes.", "Send a smaller message, or a link to the files."),
    "4.0": ("There is a fault on the way to the other server.", _LATER),
    "4.1": ("No server of the domain could be reached.", _LATER + " If it fails again: " + _THEIRS),
    "4.2": ("The connection to the other server broke.", _LATER),
    "4.3": ("The servers of the domain could not be looked up in the DNS.", _LATER + " " + _THEIRS),
    "4.4": ("No way to a mail server of that domain is known.", "Check the address. " + _ASK),
    "4.6": ("The message went round in a circle between servers.", _THEIRS),
    "4.7": ("The time for delivery ran out.", _LATER + " Or tell the recipient by other means."),
    "5.0": ("The two servers did not understand each other.", _THEIRS),
    "6.0": ("The other server does not like what is in the message.", "Send it in another form."),
    "6.3": ("The other server takes no 8-bit text, and this message cannot be converted.", "Send it as plain ASCII."),
    "6.7": ("The other server cannot take addresses or headers with letters beyond ASCII.", "Use an ASCII address."),
    "7.0": ("The other server refused the message by its rules.", _THEIRS),
    "7.1": ("The other server refused the message by its rules: you may not send it, or not from here.", _THEIRS),
}
# RFC 5321 §4.5.3.2.6: the end of data was sent, and no reply came
_UNANSWERED = "The other server had the whole message and did not answer any more: it may have arrived all the same."
_UNKNOWN = ("The message was not accepted, and no more is known.", "The words of the other server may tell more.")


def subject(action: str, *, double: bool) -> str:
    """The Subject of a notice, ASCII."""
    return _DOUBLE_SUBJECT if double else _SUBJECTS[action]


def part(action: str, queue_id: str, facts: list[Facts], *, hostname: str, whole: bool, double: bool) -> bytes:
    """The MIME part, its header section included: `whole` says that the message itself is attached, not its header."""
    opening = _DOUBLE_OPENING if double else _OPENINGS[action]
    lines = [f"This is the mail server {clean(hostname)}.", ""]
    lines += textwrap.wrap(opening.format("recipient" if len(facts) == 1 else "recipients"), WIDTH)
    for fact in facts:
        lines += ["", *_recipient(fact)]
    attached = "The message itself" if whole else "The header of the message"
    ending = f"{attached} is attached, with a part for programs that says the same as this text."
    lines += ["", *textwrap.wrap(ending, WIDTH)]
    lines += ["", f"If you ask for help, please quote {queue_id} and {clean(hostname)}.", ""]
    text = "\r\n".join(lines).encode()
    if text.isascii():
        return b"Content-Type: text/plain; charset=us-ascii\r\n\r\n" + text
    return b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + text


def _recipient(fact: Facts) -> list[str]:
    outcome = fact.outcome
    lines = _indented(str(fact.recipient.address), 2)
    kind, _, original = fact.recipient.orcpt.partition(";")
    if original and kind.lower() in ("rfc822", "utf-8") and original != str(fact.recipient.address):
        lines += _indented(f"(you wrote to {original})", 2)
    if fact.action in ("failed", "delayed"):
        meaning, remedy = _meaning(fact.status)
        late = " The time for delivery ran out; this was the last state:" if outcome.fate is Fate.EXPIRED else ""
        lines += _indented(f"What happened:{late} {meaning} ({fact.status})", 4)
    if outcome.unknown:
        lines += _indented(_UNANSWERED, 4)
    if outcome.reply is not None:
        lines += _indented(f"{_server(fact)} said:", 4)
        for said in str(outcome.reply).split("\n")[:REPLY_LINES_MAX]:
            lines += _indented(said, 6)
    elif outcome.text and fact.action in ("failed", "delayed"):
        lines += _indented(f"{_server(fact)}: {outcome.text}" if fact.peer else outcome.text, 4)
    if fact.action == "failed":
        lines += _indented(f"What to do: {remedy}", 4)
    elif fact.action == "delayed" and fact.retry_until is not None:
        lines += _indented(f"We go on trying until {date(fact.retry_until)}.", 4)
    return lines


def _server(fact: Facts) -> str:
    address = clean(fact.outcome.address)
    if not fact.peer:
        return "The other server"
    return f"{fact.peer} [{address}]" if fact.outcome.host and address else fact.peer


def _meaning(status: str) -> tuple[str, str]:
    _, _, detail = status.partition(".")
    return _MEANINGS.get(detail) or _MEANINGS.get(detail.partition(".")[0] + ".0") or _UNKNOWN


def _indented(text: str, columns: int) -> list[str]:
    margin = " " * columns
    return [margin + line for line in wrapped(clean(text), WIDTH - columns)]
