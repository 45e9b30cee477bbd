"""OAUTHBEARER and XOAUTH2, the server's side: an access token in place of a password.

RFC 7628 (OAUTHBEARER), RFC 6750 §2.1 (the form of a token); XOAUTH2 is Google's, its predecessor. Whether a token is
good is left to the directory.
"""

from __future__ import annotations

import json
import re
from typing import ClassVar

from relaymta.directory.credentials import BearerToken
from relaymta.smtp import scram
from relaymta.smtp.sasl import Challenge, Mechanism, Shown, Step, malformed, prepared, text

_TOKEN = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)")  # RFC 6750 §2.1
_PAIR = re.compile(r"([A-Za-z]+)=([\t\n\r -~]*)")  # RFC 7628 §3.1


class OAuthBearer(Mechanism):
    """RFC 7628."""

    name = "OAUTHBEARER"

    def respond(self, response: bytes) -> Step:
        """The one message: gs2-header kvsep *kvpair kvsep."""
        header, _, rest = text(response).partition("\x01")
        flag, _, authzid = header.partition(",")
        if flag not in ("n", "y") or not authzid.endswith(","):  # RFC 7628 §3.1: nothing is bound to the channel
            raise malformed()
        authzid = authzid[:-1]
        if authzid and not authzid.startswith("a="):
            raise malformed()
        try:
            name = scram.name_of(authzid[2:]) if authzid else ""
        except ValueError:
            raise malformed() from None
        return shown(name, _pairs(rest).get("auth", ""))

    def refuse(self) -> Challenge:
        """RFC 7628 §3.2.2: the failure as JSON, to which the client answers with kvsep."""
        return Challenge(json.dumps({"status": "invalid_token", "schemes": "bearer"}).encode())


class XOAuth2(Mechanism):
    """Google's and Microsoft's: "user=" name ^A "auth=Bearer " token ^A ^A."""

    name: ClassVar[str] = "XOAUTH2"

    def respond(self, response: bytes) -> Step:
        """The one message."""
        pairs = _pairs(text(response), utf8=True)
        return shown(pairs.get("user", ""), pairs.get("auth", ""))

    def refuse(self) -> Challenge:
        """The failure as JSON, to which the client answers with nothing."""
        return Challenge(json.dumps({"status": "401", "schemes": "bearer"}).encode())


def shown(name: str, auth: str) -> Shown:
    """The credentials of an "auth" value."""
    found = _TOKEN.fullmatch(auth)
    if found is None:
        raise malformed()
    name = prepared(name) if name else ""
    return Shown(name, BearerToken(name, found[1]))


def _pairs(message: str, *, utf8: bool = False) -> dict[str, str]:
    """key=value pairs, each ended by ^A, and one more ^A. Raises RefusalError."""
    *parts, last, end = message.split("\x01") if message.count("\x01") >= 2 else ("", "?", "?")
    if last or end:
        raise malformed()
    pairs: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or key in pairs or not (utf8 or _PAIR.fullmatch(part)):
            raise malformed()
        pairs[key] = value
    return pairs
