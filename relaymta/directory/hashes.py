"""What is kept of a password, and whether a password or a proof fits it: argon2id, and SCRAM's keys.

RFC 9106 (Argon2), RFC 5802 §3 and RFC 7677 (SCRAM-SHA-256). Everything here computes for milliseconds: where it runs is
the caller's business. The text of the keys is PostgreSQL's, "SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER".
"""

from __future__ import annotations

import base64
import hmac
import os
import re

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type, verify_secret

from relaymta.directory import scramkeys
from relaymta.directory.credentials import ScramKeys
from relaymta.directory.scramkeys import ITERATIONS_LEAST, hmac_sha256

# Ours, RFC 9106 §4 leaves it to us: the least that OWASP's cheat sheet has, since every worker checks several at once.
TIME_COST = 2
MEMORY_COST = 19_456  # KiB
PARALLELISM = 1
ITERATIONS = 100_000  # RFC 7677 §4 wants 4,096; more, since whoever steals the file guesses at these
ITERATIONS_MOST = 10_000_000  # ours: a slip of the pen must not keep a thread for a minute
SALT_OCTETS = 16

_HASHER = PasswordHasher(TIME_COST, MEMORY_COST, PARALLELISM, salt_len=SALT_OCTETS, type=Type.ID)
_HASH = re.compile(
    r"\$argon2id\$v=\d{1,3}\$m=\d{1,9},t=\d{1,6},p=\d{1,4}\$[A-Za-z0-9+/]{11,}\$[A-Za-z0-9+/]{16,}", re.ASCII
)
_KEYS = re.compile(r"SCRAM-SHA-256\$(\d{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)", re.ASCII)


def make_hash(password: str) -> str:
    """The argon2id hash of a prepared password, in PHC's form."""
    return _HASHER.hash(password)


def dummy_like(text: str) -> str:
    """A hash that nobody's password fits and that costs as much to look at as `text` does."""
    parameters, _, _ = text.rpartition("$")[0].rpartition("$")
    salt, digest = (base64.b64encode(os.urandom(octets)).decode().rstrip("=") for octets in (SALT_OCTETS, 32))
    return f"{parameters}${salt}${digest}"


# Nobody's password: what an unknown name is compared with.
DUMMY = dummy_like(f"$argon2id$v=19$m={MEMORY_COST},t={TIME_COST},p={PARALLELISM}$$")


def check_hash(text: str) -> str:
    """Raises ValueError where `text` is no argon2id hash."""
    if not _HASH.fullmatch(text):
        raise ValueError("is no argon2id hash; `relaymta user passwd` makes one")
    return text


def fits_hash(text: str, password: str) -> bool:
    """Whether a prepared password is the one that was hashed. Takes tens of milliseconds."""
    try:
        return verify_secret(text.encode(), password.encode(), Type.ID)
    except (VerificationError, InvalidHashError):
        return False


def make_keys(password: str, salt: bytes = b"", iterations: int = ITERATIONS) -> ScramKeys:
    """SCRAM's keys of a prepared password."""
    salt = salt or os.urandom(SALT_OCTETS)
    stored, server = scramkeys.derive(scramkeys.salted_password(password.encode(), salt, iterations))
    return ScramKeys(salt, iterations, stored, server)


def fits_keys(keys: ScramKeys, password: str) -> bool:
    """Whether a prepared password is the one of these keys."""
    return hmac.compare_digest(make_keys(password, keys.salt, keys.iterations).stored_key, keys.stored_key)


def proves(keys: ScramKeys, auth_message: bytes, proof: bytes) -> bool:
    """Whether who made `proof` knows the password of these keys (RFC 5802 §3)."""
    return scramkeys.proves(keys.stored_key, auth_message, proof)


def fake_keys(secret: bytes, name: str, iterations: int = ITERATIONS) -> ScramKeys:
    """Keys for a name that does not exist: each time the same, and nobody's.

    Without them a client that only asks learns which names there are.
    """
    of = name.encode("utf-8", "surrogatepass")
    salt = hmac_sha256(secret, b"salt " + of)[:SALT_OCTETS]
    stored, server = (hmac_sha256(secret, which + of) for which in (b"stored ", b"server "))
    return ScramKeys(salt, iterations, stored, server)


def show_keys(keys: ScramKeys) -> str:
    """Keys as text."""
    salt, stored, server = (
        base64.b64encode(octets).decode() for octets in (keys.salt, keys.stored_key, keys.server_key)
    )
    return f"SCRAM-SHA-256${keys.iterations}:{salt}${stored}:{server}"


def read_keys(text: str) -> ScramKeys:
    """Text as keys. Raises ValueError."""
    match = _KEYS.fullmatch(text)
    if match is None:
        raise ValueError('are no SCRAM keys; they look like "SCRAM-SHA-256$4096:salt$stored:server"')
    try:
        salt, stored, server = (base64.b64decode(part, validate=True) for part in match.groups()[1:])
    except ValueError:
        raise ValueError("are no SCRAM keys: that is not base64") from None
    iterations = int(match[1])
    if not ITERATIONS_LEAST <= iterations <= ITERATIONS_MOST:
        raise ValueError(f"are SCRAM keys of {iterations} iterations; {ITERATIONS_LEAST} are the least")
    if len(stored) != 32 or len(server) != 32:
        raise ValueError("are SCRAM keys of a wrong length")
    return ScramKeys(salt, iterations, stored, server)
