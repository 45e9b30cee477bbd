"""Lists of addresses as people and programs write them in header fields and on command lines.

RFC 5322 §3.4 (mailboxes, groups), §3.2.2 (comments), §4.4 (routes, ignored). Strict where the standard library
guesses: what is not wholly an address is refused, since a guess is mail to somebody else. What an address itself
may be is left to mail.address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

COMMENTS_MAX = 20  # nested comments; ours

_TOKEN = re.compile(
    r'(?P<blank>\s+)|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<literal>\[[^\[\]\\]*\])'
    r'|(?P<special>[<>,;:@])|(?P<atom>[^\s()<>@,;:\\"\[\]]+)',
    re.DOTALL,
)
_PAREN = re.compile(r"[()]|\\.", re.DOTALL)


class AddressListError(ValueError):
    """A list in which something is no address; the text names it."""


def mailboxes(text: str) -> list[str]:
    """The addresses of a list, each "local@domain" or a name alone, less what surrounds it.

    Raises AddressListError.
    """
    return [_mailbox(part, shown) for part, shown in _parts(text) if part]


def asides(text: str) -> Iterator[str]:
    """The quoted strings and comments of a list, and whatever else is no part of an address but the words of names.

    What stands in them is nobody's address, and readers that guess find one there. Raises AddressListError.
    """
    at = 0
    while at < len(text):
        start = at
        if text[at] == "(":
            at = _comment_end(text, at)
            yield text[start:at]
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            raise AddressListError(f'"{text.strip()}" is not an address: {text[at]!r} is out of place')
        at = match.end()
        if match.lastgroup == "quoted" or (match.lastgroup == "atom" and "=?" in match[0]):
            yield match[0]


def has_route(text: str) -> bool:
    """Whether an address of a list has a route (RFC 5322 §4.4). Raises AddressListError."""
    angle = False
    for kind, token in _tokens(text):
        if angle and kind != "blank":
            if token == "@":
                return True
            angle = False
        angle = angle or token == "<"
    return False


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each token; comments count as blanks."""
    at = 0
    while at < len(text):
        if text[at] == "(":
            at = _comment_end(text, at)
            yield "blank", " "
            continue
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise AddressListError(f'"{text.strip()}" is not an address: {text[at]!r} is out of place')
        yield match.lastgroup, match[0]
        at = match.end()


def _comment_end(text: str, at: int) -> int:
    depth = 0
    for match in _PAREN.finditer(text, at):
        if match[0] == "(":
            depth += 1
        elif match[0] == ")":
            depth -= 1
        if not depth:
            return match.end()
        if depth > COMMENTS_MAX:
            break
    raise AddressListError(f'"{text.strip()}" is not an address: a comment has no end')


def _parts(text: str) -> Iterator[tuple[list[tuple[str, str]], str]]:
    """The tokens of each member of the list, and its text for an error; groups are opened."""
    part: list[tuple[str, str]] = []
    angle = group = False
    for kind, token in _tokens(text):
        if token == "<":
            angle = True
        elif token == ">":
            angle = False
        elif kind == "special" and not angle:
            if token == ":" and not group:
                _check_phrase(part)
                group, part = True, []  # what stood there was the group's name
                continue
            if token == "," or (token == ";" and group):
                group = group and token == ","
                yield _stripped(part)
                part = []
                continue
        part.append((kind, token))
    if group:
        raise AddressListError(f'"{text.strip()}" is not an address: a group has no end')
    yield _stripped(part)


def _check_phrase(part: list[tuple[str, str]]) -> None:
    """RFC 5322 §3.4: a group's name is words, so that no address can hide in it."""
    if any(kind not in ("blank", "quoted", "atom") for kind, _ in part) or all(kind == "blank" for kind, _ in part):
        shown = "".join(token for _, token in part).strip()
        raise AddressListError(f'"{shown}:" is not an address, nor the name of a group')


def _stripped(part: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], str]:
    shown = "".join(token for _, token in part).strip()
    begin, end = 0, len(part)
    while begin < end and part[begin][0] == "blank":
        begin += 1
    while begin < end and part[end - 1][0] == "blank":
        end -= 1
    return part[begin:end], shown


def _mailbox(part: list[tuple[str, str]], shown: str) -> str:
    tokens = [token for _, token in part]
    if "<" in tokens:
        begin = tokens.index("<")
        if tokens[-1] != ">" or any(kind not in ("blank", "quoted", "atom") for kind, _ in part[:begin]):
            raise AddressListError(f'"{shown}" is not an address')
        part = _without_route(part[begin + 1 : -1])
    if not part or any(kind == "blank" or (kind == "special" and token != "@") for kind, token in part):
        raise AddressListError(f'"{shown}" is not an address')
    return "".join(token for _, token in part)


def _without_route(part: list[tuple[str, str]]) -> list[tuple[str, str]]:
    if part[:1] == [("special", "@")] and ("special", ":") in part:  # RFC 5322 §4.4: obsolete, ignored
        return part[part.index(("special", ":")) + 1 :]
    return part
