"""Words that may begin a line and are no command of ours, and how a line is shown in a log.

RFC 5321 §4.2.4 (502 for what is known and not there). What a password may be a part of is never shown.
"""

from __future__ import annotations

SHOWN_MAX = 200  # characters of a command in a log; ours

NOT_OURS = frozenset((b"EXPN", b"ETRN", b"ATRN", b"TURN", b"SEND", b"SOML", b"SAML", b"LHLO"))
HTTP = frozenset((b"GET", b"POST", b"HEAD", b"PUT", b"CONNECT", b"OPTIONS", b"DELETE", b"PATCH", b"TRACE"))


def shown(line: bytes, *, known: bool, secretive: bool) -> str:
    """A line for a log: short, printable, and without what AUTH carries.

    `known`: it begins with a word of SMTP. `secretive`: AUTH was said before, and a client that was refused it may
    send the rest of its exchange all the same.
    """
    if line[:4].upper() == b"AUTH":
        return "AUTH"
    if not known and (secretive or b"AUTH" in line[:SHOWN_MAX].upper()):
        return "(not shown)"
    text = line[:SHOWN_MAX].decode("utf-8", "backslashreplace")
    return text if text.isprintable() else repr(text)[1:-1]
