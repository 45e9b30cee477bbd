"""Logging in as a client: mechanisms by their vectors, the choice among them, and no secret where it may be seen."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import pytest

from relaymta.smtp.sasl_client import (
    BY_TOKEN,
    CHALLENGES_MAX,
    ITERATIONS_MAX,
    Exchange,
    Login,
    LoginError,
    Mechanism,
    new_nonce,
    prepared,
)

SECRET = "s3cret-pencil"


def login(mechanism: Mechanism = Mechanism.PLAIN, secret: str = SECRET, **more: object) -> Login:
    """Who logs in."""
    return Login("smarthost", "user", secret, (mechanism,), **more)  # type: ignore[arg-type]


def exchange(mechanism: Mechanism, **more: Any) -> Exchange:
    """A log-in by that mechanism."""
    return Exchange(login(mechanism, **more), mechanism)


def said(line: bytes) -> bytes:
    """The response in the last word of a line."""
    return b64decode(line.split()[-1], validate=True)


def test_scram_by_the_vector_of_its_rfc() -> None:
    """RFC 7677 §3, octet for octet, and the server's signature is checked."""
    talk = exchange(Mechanism.SCRAM_SHA_256, secret="pencil", nonce=lambda: "rOprNGfwEbeRWgbNEkqO")
    assert said(talk.begin()) == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    first = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    assert said(talk.respond(b64encode(first))) == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    with pytest.raises(LoginError, match="did not prove"):
        talk.succeed()
    assert talk.respond(b64encode(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")) == b""
    talk.succeed()
    with pytest.raises(LoginError, match="more than the mechanism has"):
        talk.respond(b"")


FIRST = b"r=abcXYZ,s=QUJD,i=4096"


@pytest.mark.parametrize(
    ("first", "final", "matter"),
    [
        (b"r=other,s=QUJD,i=4096", b"", "nonce does not continue ours"),
        (b"r=abc,s=QUJD,i=4096", b"", "nonce does not continue ours"),
        (b"m=new,r=abcXYZ,s=QUJD,i=4096", b"", "extension"),
        (b"r=abcXYZ,s=,i=4096", b"", "not one of SCRAM"),
        (b"r=abcXYZ,s=QUJD,i=many", b"", "not one of SCRAM"),
        (b"r=abcXYZ,s=%%%%,i=4096", b"", "not one of SCRAM"),
        (b"hello", b"", "not one of SCRAM"),
        (b"\xff", b"", "not UTF-8"),
        (b"r=abcXYZ,s=QUJD,i=4095", b"", "4095 iterations"),  # RFC 7677 §4
        (b"r=abcXYZ,s=QUJD,i=%d" % (ITERATIONS_MAX + 1), b"", "iterations"),
        (FIRST, b"e=invalid-proof", "refuses the proof"),
        (FIRST, b"v=AAAA", "does not know the password"),
        (FIRST, b"x=AAAA", "does not know the password"),
    ],
)
def test_a_server_that_lies_in_scram_is_not_believed(first: bytes, final: bytes, matter: str) -> None:
    """RFC 5802 §5.1: each attribute is looked at, and a wrong one ends the log-in."""
    talk = exchange(Mechanism.SCRAM_SHA_256, nonce=lambda: "abc")
    talk.begin()
    if final:
        talk.respond(b64encode(first))
    with pytest.raises(LoginError, match=matter):
        talk.respond(b64encode(final or first))


def test_scram_derives_a_key_once_for_each_salt() -> None:
    """RFC 5802 §5.1: what is costly is kept with the Login."""
    who = login(Mechanism.SCRAM_SHA_256, nonce=lambda: "abc")
    for _ in range(2):
        talk = Exchange(who, Mechanism.SCRAM_SHA_256)
        talk.begin()
        talk.respond(b64encode(FIRST))
        assert list(who.salted) == [(b"ABC", 4096)]


def test_scram_escapes_a_name() -> None:
    """RFC 5802 §5.1: "," and "=" in a name are written as =2C and =3D."""
    who = Login("a", "x=y,z", SECRET, nonce=lambda: "abc")
    assert said(Exchange(who, Mechanism.SCRAM_SHA_256).begin()) == b"n,,n=x=3Dy=2Cz,r=abc"


def test_plain_in_one_line() -> None:
    """RFC 4616 §2 in the initial response of RFC 4954 §4."""
    assert exchange(Mechanism.PLAIN).begin() == b"AUTH PLAIN " + b64encode(b"\0user\0" + SECRET.encode())


def test_a_long_response_waits_for_the_challenge() -> None:
    """RFC 4954 §4: a command line has at most 512 octets."""
    talk = exchange(Mechanism.XOAUTH2, secret="t" * 2000)
    assert talk.begin() == b"AUTH XOAUTH2"
    assert said(talk.respond(b"")) == b"user=user\x01auth=Bearer " + b"t" * 2000 + b"\x01\x01"
    short = exchange(Mechanism.XOAUTH2, secret="t" * 300)
    assert len(short.begin()) <= 510 and short.begin() != b"AUTH XOAUTH2"


def test_login_says_name_and_password_whatever_the_prompts_are() -> None:
    """Some servers prompt in clear, or with nothing."""
    talk = exchange(Mechanism.LOGIN)
    assert talk.begin() == b"AUTH LOGIN"
    assert [said(talk.respond(prompt)) for prompt in (b"VXNlcm5hbWU6", b"Password:")] == [b"user", SECRET.encode()]
    talk.succeed()
    with pytest.raises(LoginError, match="more than"):
        talk.respond(b"")


@pytest.mark.parametrize(
    ("mechanism", "message", "goodbye"),
    [
        (Mechanism.XOAUTH2, b"user=user\x01auth=Bearer tok\x01\x01", b""),
        (Mechanism.OAUTHBEARER, b"n,a=user,\x01auth=Bearer tok\x01\x01", b"\x01"),  # RFC 7628 §3.2.3
    ],
)
def test_a_token_is_shown_and_its_refusal_heard_out(mechanism: Mechanism, message: bytes, goodbye: bytes) -> None:
    """The error in the challenge is answered, so that the refusal comes."""
    talk = exchange(mechanism, secret="tok")
    assert said(talk.begin()) == message
    assert talk.respond(b64encode(b'{"status":"invalid_token"}')) == b64encode(goodbye)


def test_a_challenge_that_is_no_base64_ends_the_log_in() -> None:
    """RFC 4954 §4: 334 is followed by base64."""
    with pytest.raises(LoginError, match="not base64"):
        exchange(Mechanism.SCRAM_SHA_256).respond(b"!!")


def test_a_peer_that_asks_for_ever_is_left() -> None:
    """A log-in has a handful of challenges."""
    talk = exchange(Mechanism.XOAUTH2)
    talk.begin()
    for _ in range(CHALLENGES_MAX):
        talk.respond(b"")
    with pytest.raises(LoginError, match="goes on asking"):
        talk.respond(b"")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("PLAIN LOGIN SCRAM-SHA-256", Mechanism.SCRAM_SHA_256),
        ("login plain", Mechanism.PLAIN),
        ("LOGIN", Mechanism.LOGIN),
        ("XOAUTH2 LOGIN", Mechanism.LOGIN),
    ],
)
def test_the_strongest_mechanism_of_both_is_taken(offered: str, chosen: Mechanism) -> None:
    """What hides the password comes before what shows it; tokens are no passwords."""
    assert Login("a", "user", SECRET).choose(offered) is chosen
    assert Login("a", "user", SECRET, BY_TOKEN).choose("PLAIN XOAUTH2 OAUTHBEARER") is Mechanism.OAUTHBEARER


@pytest.mark.parametrize(("offered", "matter"), [("", "offers no AUTH"), ("GSSAPI CRAM-MD5", "in common")])
def test_nothing_in_common_is_said(offered: str, matter: str) -> None:
    """The reason names what is offered."""
    with pytest.raises(LoginError, match=matter):
        Login("a", "user", SECRET).choose(offered)


def test_a_login_hides_its_secret() -> None:
    """Neither repr nor str show it, nor what a peer says back, in any form that it was told in."""
    who = login()
    assert SECRET not in repr(who) and SECRET not in str(who)
    for form in (SECRET, b64encode(SECRET.encode()).decode(), exchange(Mechanism.PLAIN).begin().decode()):
        assert who.conceal(f"535 bad: {form}").count("***") == 1
        assert SECRET not in who.conceal(f"535 bad: {form}")


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("user", "user"),
        ("I\u00adX", "IX"),  # RFC 4013 §3, its examples
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
def test_names_and_passwords_are_prepared(text: str, made: str) -> None:
    """RFC 4013 §3."""
    assert prepared(text) == made


@pytest.mark.parametrize("text", ["\u0007", "a\u0007", "\u0627\u0031", "\ue000"])
def test_what_may_not_be_in_a_password_is_told_without_it(text: str) -> None:
    """RFC 4013 §2.3, §2.4."""
    with pytest.raises(LoginError) as caught:
        prepared(text)
    assert text not in str(caught.value)


def test_nonces_differ() -> None:
    """RFC 5802 §5.1: printable, no comma, never the same."""
    made = {new_nonce() for _ in range(100)}
    assert len(made) == 100 and all(one.isprintable() and "," not in one and len(one) >= 24 for one in made)
