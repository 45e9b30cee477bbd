"""What is kept of one account, and the line of text that says so.

A line is the name and then words `key=value`, in any order; lists have commas. Nothing in it has blanks, so that grep
and cut find their way:

    shop@example.org password=$argon2id$... scram=SCRAM-SHA-256$... senders=shop@example.org,.example.net relay=no

A database's row has the same keys. Reading and writing whole files is usersfile's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from attrs import evolve, fields, frozen

from relaymta.config.problems import suggestion
from relaymta.directory.account import Account, Over, Quota
from relaymta.directory.credentials import ScramKeys
from relaymta.directory.hashes import check_hash, read_keys, show_keys
from relaymta.directory.names import account_name
from relaymta.mail.address import AddressError, parse_domain, parse_mailbox

T = TypeVar("T")
LIMITS = tuple(one.name for one in fields(Quota))
KEYS = ("password", "scram", "senders", "relay", "certificates", *LIMITS, "over", "disabled")
FINGERPRINT = "sha256:"  # before the hex digits of a certificate's digest
LIMIT_MOST = 10**9
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_WORD = re.compile(r"[a-z_]{1,30}", re.ASCII)
_YES = {"yes": True, "no": False}


@frozen(slots=True)
class Entry:
    """One account as it is kept.

    `password` is its argon2id hash or "", `scram` its keys or None; without both it logs in by certificate or token.
    `certificates`: names in lower case, or "sha256:" and 64 hex digits. `limits`: the fields of Quota that it has of
    its own, by name.
    """

    name: str
    password: str = ""
    scram: ScramKeys | None = None
    senders: tuple[str, ...] = ()
    relay: bool = True
    certificates: tuple[str, ...] = ()
    limits: tuple[tuple[str, int], ...] = ()
    over: Over | None = None
    disabled: bool = False

    def account(self, default: Quota) -> Account:
        """What it may do; limits that are not its own are those of `default`."""
        quota = evolve(default, **dict(self.limits)) if self.limits else None
        return Account(self.name, self.senders, self.relay, quota, self.over)

    def __str__(self) -> str:
        words = [self.name]
        if self.password:
            words.append(f"password={self.password}")
        if self.scram:
            words.append(f"scram={show_keys(self.scram)}")
        if self.senders:
            words.append(f"senders={','.join(self.senders)}")
        if not self.relay:
            words.append("relay=no")
        if self.certificates:
            words.append(f"certificates={','.join(self.certificates)}")
        words.extend(f"{key}={number}" for key, number in self.limits)
        if self.over:
            words.append(f"over={self.over.value}")
        if self.disabled:
            words.append("disabled=yes")
        return " ".join(words)


def parse_line(line: str) -> Entry:
    """Read a line that is neither empty nor a comment. Raises ValueError with a sentence."""
    name, *words = line.split()
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError("every word behind the name is key=value, without blanks")
        if key in found:
            raise ValueError(f"{key} stands twice")
        found[key] = value
    return entry_of(name, found)


def entry_of(name: str, values: Mapping[str, str]) -> Entry:
    """An account from what is said of it; "" is as good as nothing. Raises ValueError with a sentence."""
    for key in values:
        if key not in KEYS:
            shown = f' "{key}"' if _WORD.fullmatch(key) else ""  # a piece of a hash is not told
            raise ValueError(f"there is no such thing{shown} about an account{suggestion(key, KEYS)}")

    def value(key: str) -> str:
        return values.get(key, "")

    return Entry(
        name=account_name(name),
        password=_read("password", check_hash, value("password")) or "",
        scram=_read("scram", read_keys, value("scram")),
        senders=tuple(map(sender, _listed(value("senders")))),
        relay=_yes("relay", value("relay"), True),
        certificates=tuple(map(certificate, _listed(value("certificates")))),
        limits=tuple((key, _number(key, value(key))) for key in LIMITS if value(key)),
        over=_over(value("over")) if value("over") else None,
        disabled=_yes("disabled", value("disabled"), False),
    )


def sender(text: str) -> str:
    """A pattern of what an account may send as, in the form in which it is kept. Raises ValueError with a sentence."""
    wanted = '"user@example.org", "example.org", ".example.org" or "*" is wanted'
    if any(letter.isspace() or letter == "," for letter in text):
        raise ValueError(f'"{text}": a pattern of senders has no blanks and no commas; {wanted}')
    try:
        if text == "*":
            return text
        if "@" in text[1:]:
            return str(parse_mailbox(text))
        if text.startswith("."):
            return "." + parse_domain(text[1:])
        return parse_domain(text.removeprefix("@"))
    except AddressError as error:
        raise ValueError(f'"{text}": {error}; {wanted}') from None


def certificate(text: str) -> str:
    """A certificate's name or SHA-256 fingerprint, in the form in which it is kept. Raises ValueError."""
    text = text.lower()
    digest = text.removeprefix(FINGERPRINT).replace(":", "")
    if _HEX.fullmatch(digest):
        return FINGERPRINT + digest
    if text.startswith(FINGERPRINT):
        raise ValueError(f'"{text}" is no SHA-256 fingerprint: 64 hexadecimal digits are wanted')
    if not text or not text.isprintable() or any(letter.isspace() or letter == "," for letter in text):
        raise ValueError(f'"{text}": a certificate is named without blanks and commas, or by its fingerprint')
    return text


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _read(key: str, read: Callable[[str], T], text: str) -> T | None:
    """None for nothing. What is wrong never quotes the text: it is a secret."""
    if not text:
        return None
    try:
        return read(text)
    except ValueError as error:
        raise ValueError(f"{key} {error}") from None


def _yes(key: str, text: str, default: bool) -> bool:
    if not text:
        return default
    if text not in _YES:
        raise ValueError(f'{key}: "yes" or "no" is wanted, not "{text}"')
    return _YES[text]


def _number(key: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > LIMIT_MOST:
        raise ValueError(f'{key}: a whole number is wanted, 0 for no limit, not "{text}"')
    return int(text)


def _over(text: str) -> Over:
    for over in Over:
        if over.value == text:
            return over
    raise ValueError(f'over: "hold" or "refuse" is wanted, not "{text}"')
