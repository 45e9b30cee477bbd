"""The arithmetic and the messages of SCRAM-SHA-256, for whoever speaks it.

RFC 5802 §3 (Hi, HMAC, the keys), §5 (attributes) and §7 (grammar), RFC 7677 (SHA-256). All are pure functions over
bytes; the order in which the messages come is left to the two sides.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re

ITERATIONS_LEAST = 4096  # RFC 7677 §4
_NAME = re.compile(r"(?:[^,=]|=2C|=3D)+")
_ATTRIBUTE = re.compile(r"([A-Za-z])=(.*)", re.DOTALL)
NONCE = re.compile(r"[!-+\--~]+")  # RFC 5802 §7: printable, without the comma


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC(key, str)."""
    return hmac.digest(key, message, "sha256")


def salted_password(password: bytes, salt: bytes, iterations: int) -> bytes:
    """Hi(password, salt, i): slow by intent; `password` is prepared with SASLprep, in UTF-8."""
    return hashlib.pbkdf2_hmac("sha256", password, salt, iterations)


def keys(salted: bytes) -> tuple[bytes, bytes]:
    """StoredKey and ServerKey of a salted password."""
    return hashlib.sha256(hmac_sha256(salted, b"Client Key")).digest(), hmac_sha256(salted, b"Server Key")


def client_proof(salted: bytes, auth_message: bytes) -> bytes:
    """ClientProof: what the client shows."""
    key = hmac_sha256(salted, b"Client Key")
    return xor(key, hmac_sha256(hashlib.sha256(key).digest(), auth_message))


def proves(stored_key: bytes, auth_message: bytes, proof: bytes) -> bool:
    """Whether the proof is that of who knows the password; takes the same time for each wrong one."""
    if len(proof) != len(stored_key):
        return False
    client_key = xor(proof, hmac_sha256(stored_key, auth_message))
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), stored_key)


def server_signature(server_key: bytes, auth_message: bytes) -> bytes:
    """ServerSignature: by which the client knows us."""
    return hmac_sha256(server_key, auth_message)


def xor(one: bytes, other: bytes) -> bytes:
    """Octet by octet, of equal lengths."""
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


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
