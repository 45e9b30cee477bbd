"""XCLIENT and XFORWARD: the commands by which a named host says for whom it speaks.

Postfix's XCLIENT_README and XFORWARD_README; values are xtext (RFC 3461 §4), of UTF-8. XCLIENT puts the session back to
the greeting, as somebody else's: EHLO is to be said again, whether HELO was among the attributes or not. XFORWARD says
where a message came from, and is believed by the log and the trace alone. Who may say them, and who the client is then,
is left to smtp.whose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from attrs import evolve

from relaymta.mail.reply import Reply
from relaymta.smtp.commands import XCLIENT, XFORWARD, XClient, XForward
from relaymta.smtp.grammar import RefusalError
from relaymta.smtp.proxy import plain

VALUE_MAX = 255  # characters, decoded; XFORWARD_README, and ours for XCLIENT
PROTOCOL_MAX = 64  # XFORWARD_README

_UNKNOWN = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2})+")
_HEXCHAR = re.compile(rb"\+([0-9A-Fa-f]{2})")
_HOST = re.compile(r"[A-Za-z0-9._\-]+")
_NOT_HELLO = re.compile(r"[^!-~]")


def xclient(argument: bytes) -> XClient:
    """What follows "XCLIENT ". Raises RefusalError."""
    given = _attributes(argument, XCLIENT)
    _port(given, "DESTPORT")
    protocol = given.get("PROTO")
    if protocol is not None and protocol.upper() not in ("SMTP", "ESMTP", ""):
        raise _bad("PROTO")
    name = given.get("NAME")
    if name and not _HOST.fullmatch(name):
        raise _bad("NAME")
    return XClient(
        _address(given, "ADDR"),
        _port(given, "PORT"),
        _address(given, "DESTADDR"),
        name,
        _hello(given),
        None if protocol is None else protocol.upper() == "ESMTP",
        given.get("LOGIN"),
    )


def xforward(argument: bytes, so_far: XForward | None = None) -> XForward:
    """What follows "XFORWARD ", and what was said `so_far`. Raises RefusalError."""
    given = _attributes(argument, XFORWARD)
    said: dict[str, Any] = {
        "port": _port(given, "PORT"),
        "name": given.get("NAME"),
        "helo": _hello(given),
        "ident": given.get("IDENT"),
    }
    if "ADDR" in given:
        try:
            said["client"] = _address(given, "ADDR")
        except RefusalError:  # XFORWARD_README: it need not be of the Internet
            said["client"] = ""
    protocol, source = given.get("PROTO"), given.get("SOURCE")
    if protocol is not None:
        if len(protocol) > PROTOCOL_MAX:
            raise _bad("PROTO")
        said["protocol"] = protocol.upper()
    if source is not None:
        if source.upper() not in ("LOCAL", "REMOTE", ""):
            raise _bad("SOURCE")
        said["source"] = source.upper()
    return evolve(so_far or XForward(), **{key: value for key, value in said.items() if value is not None})


def _attributes(argument: bytes, known: tuple[str, ...]) -> dict[str, str]:
    """The values by upper-case name, decoded; "" for what is not known to who says it."""
    given: dict[str, str] = {}
    for word in argument.split():
        name, equals, value = word.partition(b"=")
        shown = name.decode("ascii", "replace").upper()
        if shown not in known or not equals:
            raise RefusalError(Reply(501, "5.5.4", f"write: ATTRIBUTE=value, of {' '.join(known)}"))
        if shown in given:
            raise RefusalError(Reply(501, "5.5.4", f"attribute given twice: {shown}"))
        given[shown] = _decoded(shown, value)
    if not given:
        raise RefusalError(Reply(501, "5.5.4", f"write: ATTRIBUTE=value, of {' '.join(known)}"))
    return given


def _decoded(name: str, value: bytes) -> str:
    if not _XTEXT.fullmatch(value):
        raise _bad(name)
    try:
        text = _HEXCHAR.sub(lambda found: bytes((int(found[1], 16),)), value).decode("utf-8")
    except UnicodeDecodeError:
        raise _bad(name) from None
    if len(text) > VALUE_MAX or not text.isprintable():
        raise _bad(name)
    return "" if text.upper() in _UNKNOWN else text


def _address(given: Mapping[str, str], name: str) -> str | None:
    value = given.get(name)
    if not value:
        return value
    try:
        address = ip_address(value[5:] if value[:5].upper() == "IPV6:" else value)
    except ValueError:
        raise _bad(name) from None
    if "%" in value:
        raise _bad(name)
    return plain(address)


def _port(given: Mapping[str, str], name: str) -> int | None:
    value = given.get(name)
    if not value:
        return None if value is None else 0
    if not value.isascii() or not value.isdigit() or len(value) > 5 or int(value) > 65535:
        raise _bad(name)
    return int(value)


def _hello(given: Mapping[str, str]) -> str | None:
    value = given.get("HELO")
    return None if value is None else _NOT_HELLO.sub("?", value)


def _bad(name: str) -> RefusalError:
    return RefusalError(Reply(501, "5.5.4", f"malformed {name}"))
