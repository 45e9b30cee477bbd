"""The messages of SCRAM, for whoever speaks it: attributes, names and base64.

RFC 5802 §5 (attributes) and §7 (grammar). The order in which the messages come is left to the two sides, the arithmetic
to directory.scramkeys.
"""

from __future__ import annotations

import base64
import binascii
import re

_NAME = re.compile(r"(?:[^,=]|=2C|=3D)+")
_ATTRIBUTE = re.compile(r"([A-Za-z])=(.*)", re.DOTALL)
NONCE = re.compile(r"[!-+\--~]+")  # RFC 5802 §7: printable, without the comma


def attributes(message: str, order: str) -> list[str]:
    """The values of the attributes that a message must begin with, `order` being their letters (RFC 5802 §5).

    What follows them are extensions, which are ignored; a mandatory one is an error. Raises ValueError.
    """
    parts = message.split(",")
    if len(parts) < len(order):
        raise ValueError("an attribute is missing")
    values = []
    for letter, part in zip(order, parts, strict=False):
        found = _ATTRIBUTE.fullmatch(part)
        if found is None or found[1] != letter:  # RFC 5802 §5.1: "m" is the extension that must be understood
            raise ValueError("an attribute is not where it belongs")
        values.append(found[2])
    return values


def name_of(value: str) -> str:
    """A saslname without its escapes (RFC 5802 §5.1). Raises ValueError."""
    if not _NAME.fullmatch(value):
        raise ValueError("malformed name")
    return value.replace("=2C", ",").replace("=3D", "=")


def saslname(name: str) -> str:
    """A name with its escapes (RFC 5802 §5.1)."""
    return name.replace("=", "=3D").replace(",", "=2C")


def decode(value: str) -> bytes:
    """Strict base64. Raises ValueError."""
    return binascii.a2b_base64(value.encode("ascii"), strict_mode=True)


def encode(octets: bytes) -> str:
    """Base64."""
    return base64.b64encode(octets).decode("ascii")
