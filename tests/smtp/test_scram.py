"""SCRAM-SHA-256: the messages and the server's machine, by the example of RFC 7677."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.directory import scramkeys
from relaymta.directory.credentials import ScramKeys, ScramProof
from relaymta.smtp import scram
from relaymta.smtp.grammar import RefusalError
from relaymta.smtp.sasl import Challenge, KeysWanted, Shown
from relaymta.smtp.sasl_scram import Scram, ScramPlus

# RFC 7677 §3
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
LAST = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_LAST = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
SALT = scram.decode("W22ZaJ0SNY7soEsUEjb6gQ==")
KEYS = ScramKeys(SALT, 4096, *scramkeys.derive(scramkeys.salted_password(b"pencil", SALT, 4096)))


def machine(*, plus: bool = False) -> Scram:
    """A server whose nonce is the example's."""
    return Scram(lambda: SERVER_NONCE, plus=plus)


def bound(data: bytes | None = b"channel") -> ScramPlus:
    """The same with channel binding."""
    return ScramPlus(lambda: SERVER_NONCE, lambda kind: data if kind == "tls-exporter" else None)


def code(server: Scram, response: bytes) -> int:
    """The reply that a response is refused with."""
    with pytest.raises(RefusalError) as raised:
        server.respond(response)
    assert raised.value.__cause__ is None
    return raised.value.reply.code


def test_the_example_of_the_standard() -> None:
    """RFC 7677 §3, every message of it."""
    server = machine()
    assert server.start(FIRST) == KeysWanted("user")
    assert server.take_keys(KEYS) == Challenge(SERVER_FIRST)
    step = server.respond(LAST)
    assert isinstance(step, Shown) and isinstance(step.credentials, ScramProof)
    shown = step.credentials
    assert scramkeys.proves(KEYS.stored_key, shown.auth_message, shown.proof)
    assert server.accept() == Challenge(SERVER_LAST)
    salted = scramkeys.salted_password(b"pencil", SALT, 4096)
    assert scramkeys.client_proof(salted, shown.auth_message) == shown.proof


def test_names_are_escaped_and_prepared() -> None:
    """RFC 5802 §5.1: "=2C" and "=3D" in a name; RFC 4013 for the rest."""
    assert machine().start("n,,n=a=2Cb=3Dc\u00ad,r=x".encode()) == KeysWanted("a,b=c")
    assert machine().start(b"n,a=user,n=user,r=x") == KeysWanted("user")
    assert scram.name_of(scram.saslname("a,b=c")) == "a,b=c"


@pytest.mark.parametrize(
    "first",
    [
        b"", b"n", b"n,", b"n,,", b"n,,n=user", b"n,,r=x,n=user", b"n,,n=,r=x", b"n,,n=a=2,r=x", b"n,,n=user,r=",
        b"n,,m=must,n=user,r=x", b"n,,n=user,r=a b", b"x,,n=user,r=x", b"n,user,n=user,r=x", b"n,,n=\xff,r=x",
        b"p=tls-exporter,,n=user,r=x", b"n,,n=user,r=" + b"x" * 513, "n,,n=user,r=ä".encode(), b"n,a=,n=user,r=x",
    ],
)  # fmt: skip
def test_a_malformed_first_message(first: bytes) -> None:
    """RFC 5802 §7, and an unknown mandatory extension (§5.1): 501."""
    assert code(machine(), first) == 501


def test_nobody_acts_as_somebody_else() -> None:
    """An authorization identity that is not the name itself: 535."""
    assert code(machine(), b"n,a=root,n=user,r=x") == 535
    assert code(machine(), b"n,,n=a\x07,r=x") == 535  # RFC 4013: no such name can be


@pytest.mark.parametrize(
    ("last", "reply"),
    [
        (LAST.replace(b"c=biws", b"c=eSws"), 535),  # "y,," was not what was said
        (LAST.replace(b"r=rOpr", b"r=rOps"), 535),
        (LAST.replace(b",p=", b",q="), 501),
        (LAST.replace(b"c=biws", b"c=bi\xc3\xa4"), 501),
        (LAST.replace(b"c=biws", b"c=b!ws"), 501),
        (b"", 501),
        (b"c=biws", 501),
        (b"\xff", 501),
    ],
)
def test_a_wrong_last_message(last: bytes, reply: int) -> None:
    """RFC 5802 §5.1: nonce and channel binding are compared, before any proof."""
    server = machine()
    server.start(FIRST)
    server.take_keys(KEYS)
    assert code(server, last) == reply


def test_a_cut_offer_is_found_out() -> None:
    """RFC 5802 §6: "y" says that -PLUS was not offered; where it was, somebody sits between."""
    assert isinstance(machine().start(b"y,,n=user,r=x"), KeysWanted)
    assert code(machine(plus=True), b"y,,n=user,r=x") == 535
    assert isinstance(machine(plus=True).start(b"n,,n=user,r=x"), KeysWanted)


def test_plus_binds_to_the_channel() -> None:
    """RFC 5802 §6: the same data on both sides, or 535."""
    for data, right in ((b"channel", True), (b"another", False)):
        server = bound()
        assert server.start(b"p=tls-exporter,,n=user,r=x") == KeysWanted("user")
        server.take_keys(KEYS)
        value = scram.encode(b"p=tls-exporter,," + data)
        last = f"c={value},r=x{SERVER_NONCE},p={scram.encode(bytes(32))}".encode()
        if right:
            assert isinstance(server.respond(last), Shown)
        else:
            assert code(server, last) == 535


@pytest.mark.parametrize(("first", "reply"), [(b"n,,n=u,r=x", 501), (b"y,,n=u,r=x", 501), (b"p=tls-x,,n=u,r=x", 535)])
def test_plus_wants_a_binding_that_is_there(first: bytes, reply: int) -> None:
    """RFC 5802 §6: with -PLUS "n" and "y" are errors, and so is an unknown kind."""
    assert code(bound(), first) == reply


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_whatever_comes_is_answered(first: bytes, last: bytes) -> None:
    """Garbage becomes a refusal and nothing else."""
    codes = []
    for server in (machine(), bound()):
        try:
            step = server.start(first)
            if isinstance(step, KeysWanted):
                server.take_keys(KEYS)
                server.respond(last)
        except RefusalError as error:
            codes.append(error.reply.code)
    assert set(codes) <= {501, 535}
