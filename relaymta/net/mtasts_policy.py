"""An MTA-STS policy as a value: its DNS record and its file, read strictly, and which hosts it allows.

RFC 8461 §3.1 (the TXT record), §3.2 (the policy file), §4.1 (MX patterns). Pure: how a policy is fetched is left to
mtasts_fetch, how long it is believed to mtasts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final

from attrs import frozen

MAX_AGE_MAX: Final = 31_557_600  # RFC 8461 §3.2, seconds: a year
LINES_MAX: Final = 500  # ours: the longest that we met has 30; each line goes into reports

_DELIMITER = r"[ \t]*;[ \t]*"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,31}"
_RECORD = re.compile(rf"v=STSv1((?:{_DELIMITER}{_NAME}=[!-:<>-~]+)+)(?:{_DELIMITER})?")
_TERM = re.compile(rf"{_DELIMITER}({_NAME})=([!-:<>-~]+)")
_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_LINE = re.compile(rf"({_NAME}):(.*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_AGE = re.compile(r"[0-9]{1,10}")
_LABEL = r"[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?"
_PATTERN = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})+")


class PolicyError(ValueError):
    """What is no policy of RFC 8461 §3.2; the text is one short sentence."""


class Mode(Enum):
    """What a policy asks of senders (RFC 8461 §5)."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@frozen(slots=True)
class StsPolicy:
    """A policy as it was fetched: `mx` are patterns in lower case, `max_age` seconds, `id` that of the DNS record.

    `text`: the lines of the file, for reports (RFC 8460 §4.4).
    """

    mode: Mode
    mx: tuple[str, ...]
    max_age: int
    id: str
    text: tuple[str, ...]

    def allows(self, host: str) -> bool:
        """Whether the MX host `host` (A-labels) fits a pattern; "*" stands for exactly one label, the leftmost."""
        host = host.rstrip(".").lower()
        # RFC 8461 §4.1: "*.example.com" is neither "example.com" nor "a.b.example.com"
        label, _, rest = host.partition(".")
        return host in self.mx or (bool(label) and f"*.{rest}" in self.mx)


def record_id(records: Iterable[bytes]) -> str:
    """The id of the one MTA-STS record among the TXT records of `_mta-sts.domain`; "" where there is no such one.

    RFC 8461 §3.1: what does not begin with "v=STSv1;" is not looked at; two records, or a broken one, are none.
    """
    found = [record for record in records if re.match(rb"v=STSv1[ \t]*;", record)]
    if len(found) != 1:
        return ""
    try:
        text = found[0].decode("ascii")
    except UnicodeDecodeError:
        return ""
    whole = _RECORD.fullmatch(text)
    if whole is None:
        return ""
    # RFC 8461 §3.2: of a field that stands twice the first one counts; §3.1: unknown ones are ignored
    ident = next((term[2] for term in _TERM.finditer(whole[1]) if term[1] == "id"), "")
    return ident if _ID.fullmatch(ident) else ""


def parse_policy(octets: bytes, ident: str) -> StsPolicy:
    """The policy in a policy file that goes with the record id `ident`. Raises PolicyError."""
    try:
        lines = octets.decode().split("\n")
    except UnicodeDecodeError:
        raise PolicyError("the policy is not UTF-8 text") from None
    text = tuple(line for line in (line.removesuffix("\r") for line in lines) if line.strip(" \t"))
    if len(text) > LINES_MAX:
        raise PolicyError(f"the policy has more than {LINES_MAX} lines")
    known: dict[str, str] = {}
    patterns: list[str] = []
    for line in text:
        term = _LINE.fullmatch(line)
        if term is None or _CONTROL.search(line):
            raise PolicyError(f"{line[:80]!r} is not a key and its value")
        value = term[2].strip(" \t")
        if term[1] == "mx":
            patterns.append(_pattern(value))
        else:
            known.setdefault(term[1], value)  # RFC 8461 §3.2: all but the first are ignored
    if known.get("version") != "STSv1":
        raise PolicyError("the version of the policy is not STSv1")
    mode = _mode(known.get("mode"))
    if not patterns and mode is not Mode.NONE:  # RFC 8461 §3.2
        raise PolicyError(f"the policy has mode {mode.value} and no mx")
    return StsPolicy(mode, tuple(dict.fromkeys(patterns)), _max_age(known.get("max_age")), ident, text)


def _pattern(text: str) -> str:
    lowered = text.lower()
    if len(lowered) > 255 or not _PATTERN.fullmatch(lowered):
        raise PolicyError(f"mx: {text[:80]!r} is not the name of a host, nor such a pattern")
    return lowered


def _mode(text: str | None) -> Mode:
    try:
        return Mode(text)
    except ValueError:
        raise PolicyError("the policy has no mode of enforce, testing and none") from None


def _max_age(text: str | None) -> int:
    if text is None or not _AGE.fullmatch(text):
        raise PolicyError("the policy has no max_age in seconds")
    return min(int(text), MAX_AGE_MAX)  # longer than allowed is meant as "long": cut, rather than no policy at all
