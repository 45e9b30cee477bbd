"""The arithmetic of SCRAM-SHA-256."""

from __future__ import annotations

from base64 import b64decode

from hypothesis import given
from hypothesis import strategies as st

from relaymta.directory import scramkeys

SALT = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")


def test_the_example_of_rfc_7677() -> None:
    """RFC 7677 §3: what the client proves, and what the server signs."""
    nonce = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    first = b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=" + nonce + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    message = first + b",c=biws,r=" + nonce
    salted = scramkeys.salted_password(b"pencil", SALT, 4096)
    stored, server = scramkeys.derive(salted)
    proof = scramkeys.client_proof(salted, message)
    assert proof == b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert scramkeys.proves(stored, message, proof) and not scramkeys.proves(stored, message + b"x", proof)
    assert scramkeys.server_signature(server, message) == b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


@given(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=20))
def test_only_who_knows_the_password_proves_it(password: bytes, other: bytes) -> None:
    """Proofs of two passwords differ, and a proof of another length is none."""
    stored, _ = scramkeys.derive(scramkeys.salted_password(password, SALT, 2))
    proof = scramkeys.client_proof(scramkeys.salted_password(other, SALT, 2), b"message")
    assert scramkeys.proves(stored, b"message", proof) is (password.rstrip(b"\0") == other.rstrip(b"\0"))
    assert not scramkeys.proves(stored, b"message", proof[:-1])
