"""The arithmetic of SCRAM-SHA-256, for both sides of a log-in and for what is kept of a password.

RFC 5802 §3 (Hi, HMAC, the keys), RFC 7677 (SHA-256). All are pure functions over bytes; the messages are left to
smtp.scram, how keys are kept to hashes.
"""

from __future__ import annotations

import hashlib
import hmac

ITERATIONS_LEAST = 4096  # RFC 7677 §4


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC(key, str)."""
    return hmac.digest(key, message, "sha256")


def salted_password(password: bytes, salt: bytes, iterations: int) -> bytes:
    """Hi(password, salt, i): slow by intent; `password` is prepared with SASLprep, in UTF-8."""
    return hashlib.pbkdf2_hmac("sha256", password, salt, iterations)


def derive(salted: bytes) -> tuple[bytes, bytes]:
    """StoredKey and ServerKey of a salted password."""
    return hashlib.sha256(hmac_sha256(salted, b"Client Key")).digest(), hmac_sha256(salted, b"Server Key")


def client_proof(salted: bytes, auth_message: bytes) -> bytes:
    """ClientProof: what the client shows."""
    key = hmac_sha256(salted, b"Client Key")
    return _xor(key, hmac_sha256(hashlib.sha256(key).digest(), auth_message))


def proves(stored_key: bytes, auth_message: bytes, proof: bytes) -> bool:
    """Whether the proof is that of who knows the password; takes the same time for each wrong one."""
    if len(proof) != len(stored_key):
        return False
    client_key = _xor(proof, hmac_sha256(stored_key, auth_message))
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), stored_key)


def server_signature(server_key: bytes, auth_message: bytes) -> bytes:
    """ServerSignature: by which the client knows the server."""
    return hmac_sha256(server_key, auth_message)


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
