"""The log-in within a session: its place, its ends, and what it never does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.smtp.actions import Stage, Tls, Trouble
from relaymta.smtp.dialogue import Dialogue
from relaymta.smtp.sasl_client import BY_TOKEN, Login, Mechanism
from tests.smtp.auth_server import AuthServer
from tests.smtp.scripted import DROP, Server, Wire, parcel, told

PASSWORD = "pässword"


def login(*mechanisms: Mechanism, secret: str = PASSWORD, insecure: bool = True) -> Login:
    """Who logs in."""
    return Login("smarthost", "relay", secret, mechanisms or Login("", "", "").mechanisms, insecure)


def wire(server: Server, who: Login | None = None, tls: Tls = Tls.NEVER, verified: bool = False) -> Wire:
    """A session with that server, opened as far as it goes."""
    dialogue = Dialogue(b"us.test", login=who or login(), tls=tls, verified=verified)
    return Wire(dialogue, server).open()


@pytest.mark.parametrize("name", ["SCRAM-SHA-256", "PLAIN", "LOGIN"])
def test_a_session_is_logged_in_before_its_first_message(name: str) -> None:
    """RFC 4954 §4: AUTH comes after EHLO and before MAIL, by each mechanism."""
    server = AuthServer(mechanisms=name)
    session = wire(server)
    assert session.opened and server.logins == [(name, "relay")]
    assert told(session.send(parcel("a@b.test"))) == [("DOT", 250)]
    assert told(session.send(parcel("a@b.test"))) == [("DOT", 250)] and len(server.logins) == 1


@pytest.mark.parametrize("name", ["XOAUTH2", "OAUTHBEARER"])
def test_a_token_opens_a_session(name: str) -> None:
    """Both words for it; and a wrong one is refused with the server's own words."""
    server = AuthServer(mechanisms=name, token="t" * 1500)
    assert wire(server, login(*BY_TOKEN, secret="t" * 1500)).opened
    session = wire(AuthServer(mechanisms=name), login(*BY_TOKEN, secret="old"))
    assert session.refused is not None and session.refused.reply is not None
    assert (session.refused.stage, session.refused.reply.code) == (Stage.AUTH, 535)


def test_the_strongest_mechanism_is_used_and_nothing_weaker_after_it() -> None:
    """A refused SCRAM does not show the password by PLAIN."""
    server = AuthServer(password="another")
    session = wire(server)
    assert server.tries == ["SCRAM-SHA-256"] and not session.opened
    assert server.commands[-1] == "QUIT"


def test_the_log_in_happens_under_tls_with_the_offers_of_then() -> None:
    """RFC 3207 §4.2: what was offered in clear is forgotten."""
    server = AuthServer(mechanisms="PLAIN")
    server.offers = [*server.offers, "STARTTLS"]
    session = wire(server, login(insecure=False), Tls.MUST, verified=True)
    assert session.opened and server.logins
    assert [line.split()[0] for line in server.commands] == ["EHLO", "STARTTLS", "EHLO", "AUTH"]


@pytest.mark.parametrize(("tls", "verified"), [(Tls.NEVER, True), (Tls.NEVER, False), (Tls.MUST, False)])
def test_no_secret_goes_over_a_channel_that_is_not_verified(tls: Tls, verified: bool) -> None:
    """Neither in clear nor to whoever shows any certificate; also SCRAM, whose proof can be guessed at."""
    server = AuthServer()
    server.offers = [*server.offers, "STARTTLS"]
    session = wire(server, login(insecure=False), tls, verified)
    assert session.refused is not None and session.refused.trouble is Trouble.NO_AUTH
    assert session.refused.status == "4.7.0" and "not verified" in session.refused.text
    assert not server.tries and PASSWORD not in server.transcript.decode()
    assert server.commands[-1] == "QUIT"


@pytest.mark.parametrize("offers", ["", "GSSAPI NTLM"])
def test_a_peer_without_a_mechanism_of_ours_is_left(offers: str) -> None:
    """The reason says what is offered; nothing is said to the peer."""
    session = wire(AuthServer(mechanisms=offers))
    assert session.refused is not None and session.refused.trouble is Trouble.NO_AUTH
    assert offers in session.refused.text


@pytest.mark.parametrize("lie", ["signature", "unsigned", "early", "nonce", "base64"])
def test_a_server_that_proves_nothing_gets_no_mail(lie: str) -> None:
    """RFC 5802 §5: 235 is believed with the server's signature only."""
    server = AuthServer(lies=lie)
    session = wire(server)
    assert not session.opened and session.closed
    cancelled = lie in ("signature", "nonce", "base64")  # RFC 4954 §4: "*" is the answer to a challenge like that
    assert (server.commands[-1] == "*") is cancelled
    assert session.refused is not None
    assert (session.refused.stage, session.refused.trouble) == (Stage.AUTH, Trouble.NO_AUTH)


def test_an_error_of_scram_is_told() -> None:
    """RFC 5802 §7: e=."""
    session = wire(AuthServer(lies="e", password="another"))
    assert session.refused is not None and "invalid-proof" in session.refused.text


def test_a_peer_that_says_the_password_back_is_not_quoted() -> None:
    """No secret in an Answer, from where it would go to the log and into notices."""
    server = AuthServer(mechanisms="PLAIN", password="right", lies="tells")
    session = wire(server)
    assert session.refused is not None and session.refused.reply is not None
    assert PASSWORD not in repr(session.refused) and session.refused.reply.text == "not ***"


@pytest.mark.parametrize("said", [b"454 4.7.0 later\r\n", b"250 what?\r\n", b"534 5.7.9 too weak\r\n"])
def test_any_other_reply_is_a_refusal(said: bytes) -> None:
    """RFC 4954 §6."""
    session = wire(AuthServer(answers=lambda verb, _: said if verb == "AUTH" else None))
    assert session.refused is not None and session.refused.reply is not None
    assert (session.refused.stage, session.refused.reply.code) == (Stage.AUTH, int(said[:3]))


def test_a_reply_before_its_turn_is_no_log_in() -> None:
    """An injected 235 behind the answer to EHLO is caught."""
    injected = b"250-peer.test\r\n250 AUTH PLAIN\r\n235 ok\r\n"
    server = AuthServer(answers=lambda verb, _: injected if verb == "EHLO" else None)
    session = wire(server)
    assert session.refused is not None and session.refused.trouble is Trouble.GARBLED and not session.opened


def test_replies_behind_the_235_are_out_of_turn() -> None:
    """Nothing is in flight after AUTH, so that nothing may come."""
    server = AuthServer(answers=lambda verb, _: b"235 ok\r\n250 ok\r\n" if verb == "AUTH" else None)
    session = wire(server, login(Mechanism.PLAIN))
    assert session.closed and not session.dialogue.usable


def test_a_drop_or_a_silence_in_the_log_in_is_the_connections_end() -> None:
    """LOST and TIMEOUT keep their stage."""
    session = wire(AuthServer(answers=lambda verb, _: DROP if verb == "AUTH" else None))
    assert session.refused is not None
    assert (session.refused.stage, session.refused.trouble) == (Stage.AUTH, Trouble.LOST)
    waiting = Dialogue(b"us.test", login=login(Mechanism.PLAIN), tls=Tls.NEVER)
    waiting.receive(b"220 hi\r\n")
    waiting.receive(b"250-hi\r\n250 AUTH PLAIN\r\n")
    assert waiting.stage is Stage.AUTH
    [refused, _] = waiting.expired()
    assert refused.answer.trouble is Trouble.TIMEOUT  # type: ignore[union-attr]


def test_a_session_without_an_account_says_no_auth() -> None:
    """AUTH is said by routes that name an account alone."""
    server = Server(offers=["AUTH PLAIN"])
    Wire(Dialogue(b"us.test", tls=Tls.NEVER), server).open()
    assert server.commands == ["EHLO us.test"]


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=400),
    st.sampled_from(["SCRAM-SHA-256", "PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"]),
    st.integers(1, 7),
)
def test_any_secret_opens_a_session_however_the_stream_is_cut(secret: str, name: str, size: int) -> None:
    """By each mechanism; a wrong one opens none, and is in no answer."""
    mechanism = Mechanism(name)

    def cut(octets: bytes) -> list[bytes]:
        return [octets[at : at + size] for at in range(0, len(octets), size)]

    for known in (secret, secret + "x"):
        server = AuthServer(mechanisms=name, password=known, token=known)
        session = Wire(Dialogue(b"us.test", login=login(mechanism, secret=secret), tls=Tls.NEVER), server, cut).open()
        assert session.opened is (known == secret)
        assert session.refused is None or repr(secret) not in repr(session.refused)
