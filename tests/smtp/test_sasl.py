"""PLAIN, LOGIN, EXTERNAL, OAUTHBEARER and XOAUTH2: bytes in, credentials out."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.credentials import UsernamePassword

from relaymta.directory.credentials import BearerToken, Certificate
from relaymta.smtp.grammar import RefusalError
from relaymta.smtp.sasl import Challenge, External, Login, Mechanism, Plain, Shown, Step
from relaymta.smtp.sasl_oauth import OAuthBearer, XOAuth2

BEARER = b"n,a=user@example.com,\x01host=server.example.com\x01port=587\x01auth=Bearer vF9dft4qmT=\x01\x01"
XOAUTH = b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmT\x01\x01"


def password(step: Step) -> tuple[bytes, bytes]:
    """What a step shows."""
    assert isinstance(step, Shown) and isinstance(step.credentials, UsernamePassword)
    assert step.name.encode() == step.credentials.username
    return step.credentials.username, step.credentials.password


def code(mechanism: Mechanism, response: bytes) -> int:
    """The reply that a response, initial or not, is refused with."""
    with pytest.raises(RefusalError) as raised:
        mechanism.respond(response)
    return raised.value.reply.code


@pytest.mark.parametrize("letter", ["\ufdfa", "\u0345\u0301", "\u0627"])
def test_a_long_name_costs_no_more_than_a_short_one(letter: str) -> None:
    """A name of 9 KB was prepared for 120 ms before it was too long: a few clients could hold up a whole worker."""
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        assert code(Plain(), b"\0" + letter.encode() * (9000 // len(letter.encode())) + b"\0p") == 535
        best = min(best, time.perf_counter() - start)
    assert best < 0.005


def test_plain() -> None:
    """RFC 4616 §4, with the name to act as empty or the name itself; the name is prepared."""
    assert password(Plain().start(b"\0tim\0tanstaaftanstaaf")) == (b"tim", b"tanstaaftanstaaf")
    assert password(Plain().start(b"tim\0tim\0x")) == (b"tim", b"x")
    asis = "a\u00a0b\x07".encode()  # how a password is prepared is its keeper's business
    assert password(Plain().start("\0u\u0308\0".encode() + asis)) == ("ü".encode(), asis)
    assert Plain().start(None) == Challenge(b"")


@pytest.mark.parametrize(
    ("response", "reply"),
    [
        (b"", 501), (b"\0tim", 501), (b"\0a\0b\0c", 501), (b"\0\xff\0x", 501), (b"\0tim\0", 535), (b"\0\0x", 535),
        (b"Ursel\0Kurt\0xipj3plmq", 535), (b"\0ti\x07m\0a", 535), (b"\0" + b"a" * 256 + b"\0x", 535),
    ],
)  # fmt: skip
def test_what_plain_does_not_take(response: bytes, reply: int) -> None:
    """RFC 4616 §2: three parts in UTF-8, none of the last two empty; nobody acts as somebody else."""
    assert code(Plain(), response) == reply


def test_login() -> None:
    """The name is asked for, or comes at once; then the password."""
    asked, quick = Login(), Login()
    assert asked.start(None) == Challenge(b"Username:")
    assert asked.respond(b"tim") == quick.start(b"tim") == Challenge(b"Password:")
    assert password(asked.respond(b"x\xc3\xa4")) == password(quick.respond(b"x\xc3\xa4")) == (b"tim", b"x\xc3\xa4")
    assert code(Login(), b"\xff") == 501
    nul = Login()
    nul.start(b"tim")
    assert code(nul, b"a\0b") == 535


def test_external() -> None:
    """RFC 4422 appendix A: the certificate says who, the response whom to act as."""
    for response, name in ((b"", ""), (b"tim", "tim")):
        step = External(("tim@example.org",), "ab12").start(response)
        assert step == Shown(name, Certificate(name, ("tim@example.org",), "ab12"))
    assert External((), "ab12").start(None) == Challenge(b"")
    assert code(External((), "ab12"), b"\xff") == 501


def test_oauthbearer() -> None:
    """RFC 7628 §4.1, and the failure of §3.2.2."""
    step = OAuthBearer().start(BEARER)
    assert step == Shown("user@example.com", BearerToken("user@example.com", "vF9dft4qmT="))
    assert OAuthBearer().start(b"n,,\x01auth=bearer  x\x01\x01") == Shown("", BearerToken("", "x"))
    assert json.loads(OAuthBearer().refuse().octets) == {"status": "invalid_token", "schemes": "bearer"}


@pytest.mark.parametrize(
    "response",
    [
        b"", b"\x01", BEARER[:-1], BEARER + b"x", BEARER.replace(b"n,", b"p=tls-exporter,"), b"n,,\x01\x01",
        BEARER.replace(b"a=", b"b="), BEARER.replace(b"Bearer", b"Basic"), BEARER.replace(b"vF9", b"v\xc3\xa4"),
        b"n,,\x01auth=\x01\x01", b"n,,\x01auth=Bearer x\x01auth=Bearer y\x01\x01", b"n,,\x01auth\x01\x01",
        b"n,\x01\x01", b"n,a=x=,\x01auth=Bearer x\x01\x01",
    ],
)  # fmt: skip
def test_what_oauthbearer_does_not_take(response: bytes) -> None:
    """RFC 7628 §3.1 and RFC 6750 §2.1: the form, to the last octet."""
    assert code(OAuthBearer(), response) == 501


def test_xoauth2() -> None:
    """Google's form, and its failure."""
    name = "someuser@example.com"
    assert XOAuth2().start(XOAUTH) == Shown(name, BearerToken(name, "ya29.vF9dft4qmT"))
    assert json.loads(XOAuth2().refuse().octets)["status"] == "401"
    assert code(XOAuth2(), XOAUTH[:-2]) == code(XOAuth2(), b"user=x\x01\x01") == 501


@given(st.binary(max_size=80))
def test_whatever_comes_is_answered(response: bytes) -> None:
    """Garbage becomes a refusal and nothing else."""
    codes = []
    for mechanism in (Plain(), Login(), External((), "ab"), OAuthBearer(), XOAuth2()):
        try:
            mechanism.start(response)
        except RefusalError as error:
            codes.append(error.reply.code)
    assert set(codes) <= {501, 535}


def test_no_secret_is_shown() -> None:
    """What a step or its credentials look like in a traceback holds nothing of what was shown."""
    steps = [Plain().start(b"\0tim\0hidden-thing"), OAuthBearer().start(BEARER), XOAuth2().start(XOAUTH)]
    for step in steps:
        assert isinstance(step, Shown)
        for text in (repr(step), repr(step.credentials)):
            assert "hidden" not in text and "vF9" not in text
