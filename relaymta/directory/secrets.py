"""Secrets in files: those that the operator wrote, and the one that we make ourselves.

The latter is what SCRAM's fakes are made of (hashes.fake_keys). It is linked into its place when it is whole, so that
of several workers that start at once all read the same.
"""

from __future__ import annotations

import contextlib
import os

SECRET_MAX = 64 * 1024  # octets; ours
STEADY_OCTETS = 32


def read_secret(path: str) -> str:
    """The first line of the file. Raises OSError, or ValueError where there is none."""
    with open(path, "rb") as stream:
        line = stream.read(SECRET_MAX).split(b"\n", 1)[0].rstrip(b"\r")
    if not line:
        raise ValueError(f"{path}: the first line is empty")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text") from None


def steady_secret(path: str) -> bytes:
    """Our own secret, made when it is not there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return _read(path)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    fresh = f"{path}.{os.getpid()}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(os.urandom(STEADY_OCTETS))
            stream.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):  # another worker was first
            os.link(fresh, path)
    finally:
        os.unlink(fresh)
    return _read(path)


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        secret = stream.read(STEADY_OCTETS)
    if len(secret) < STEADY_OCTETS:
        raise OSError(f"{path}: is too short; remove it, and another is made")
    return secret
