"""What is kept of a password, and what fits it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymta.directory.credentials import ScramKeys
from relaymta.directory.hashes import (
    DUMMY,
    ITERATIONS,
    check_hash,
    dummy_like,
    fake_keys,
    fits_hash,
    fits_keys,
    make_hash,
    make_keys,
    proves,
    read_keys,
    show_keys,
)
from relaymta.directory.scramkeys import ITERATIONS_LEAST

octets = st.binary(min_size=32, max_size=32)
keys = st.builds(ScramKeys, st.binary(min_size=1, max_size=32), st.integers(ITERATIONS_LEAST, 10**6), octets, octets)


def test_a_hash_is_argon2id_and_fits_its_password_alone() -> None:
    """RFC 9106: a salt of its own each time."""
    made = make_hash("pencil")
    assert made.startswith("$argon2id$v=19$m=19456,t=2,p=1$") and made != make_hash("pencil")
    assert check_hash(made) == made
    assert fits_hash(made, "pencil") and not fits_hash(made, "Pencil") and not fits_hash(made, "")


def test_a_dummy_costs_the_same_and_fits_nothing() -> None:
    """Its parameters are those of the hash that it is like."""
    other = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$" + "A" * 43
    assert re.match(r"\$argon2id\$v=19\$m=64,t=1,p=1\$", dummy_like(other))
    assert check_hash(dummy_like(other)) and not fits_hash(dummy_like(other), "")
    assert not fits_hash(DUMMY, "nobody's")


@pytest.mark.parametrize("text", ["", "secret", "$2b$12$abc", "$argon2id$v=19$m=1,t=1,p=1$!$!", "$argon2id$"])
def test_what_is_no_hash_is_refused_without_being_told(text: str) -> None:
    """It may be the password itself, written into the file by hand."""
    with pytest.raises(ValueError, match="argon2id") as caught:
        check_hash(text)
    assert not text or text == "$argon2id$" or text not in str(caught.value)


def test_the_example_of_rfc_7677_is_proved() -> None:
    """RFC 7677 §3: user, pencil."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    made = make_keys("pencil", salt, 4096)
    message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert proves(made, message, proof)
    assert hmac.digest(made.server_key, message, "sha256") == base64.b64decode(
        "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    )
    assert not proves(made, message + b"x", proof)
    assert not proves(made, message, proof[:-1]) and not proves(made, message, b"")


@given(keys)
def test_keys_survive_being_written(made: ScramKeys) -> None:
    """read(show(keys)) == keys."""
    assert read_keys(show_keys(made)) == made


@pytest.mark.parametrize(
    "text",
    [
        "SCRAM-SHA-1$4096:c2FsdA==$c2FsdA==:c2FsdA==",
        "SCRAM-SHA-256$4096:c2FsdA==$c2FsdA==:c2FsdA==",
        f"SCRAM-SHA-256$4095:c2FsdA==${base64.b64encode(bytes(32)).decode()}:{base64.b64encode(bytes(32)).decode()}",
        "SCRAM-SHA-256$4096:a$a:a",
        "x",
    ],
)
def test_what_are_no_keys_is_refused(text: str) -> None:
    """Another hash, keys of another length, fewer rounds than RFC 7677 §4 allows."""
    with pytest.raises(ValueError, match="SCRAM keys"):
        read_keys(text)


def test_keys_fit_their_password_alone() -> None:
    """For accounts that have nothing else."""
    made = make_keys("pencil", iterations=ITERATIONS_LEAST)
    assert fits_keys(made, "pencil") and not fits_keys(made, "pencils")


@settings(max_examples=25)
@given(st.text(min_size=1), st.text(min_size=1))
def test_the_fake_of_a_name_is_steady_and_its_own(one: str, other: str) -> None:
    """Who asks twice sees the same salt, as for a real name; nobody can prove anything by it."""
    if not (one + other).isascii():
        one, other = hashlib.md5(one.encode("utf-8", "replace")).hexdigest(), other.encode("utf-8", "replace").hex()
    fake = fake_keys(b"s" * 32, one)
    assert fake == fake_keys(b"s" * 32, one) != fake_keys(b"t" * 32, one)
    assert (fake == fake_keys(b"s" * 32, other)) is (one == other)
    assert len(fake.salt) == 16 and len(fake.stored_key) == 32 and fake.iterations == ITERATIONS
