"""AUTH in the dialogue: every row of RFC 4954, in turn and out of turn, whole and in pieces, and nothing leaks."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from relaymta.directory.account import Account
from relaymta.mail.reply import Reply
from relaymta.smtp import answers
from relaymta.smtp.authing import Channel
from relaymta.smtp.rules import rules_of
from relaymta.smtp.session import Session
from relaymta.smtp.settings import AuthMode, ListenerSettings, TlsMode
from relaymta.smtp.turns import Signal
from tests.smtp.accounts import ALICE, ALL, DOWN, SECRET, TOKEN, Accounts, ScramClient, accounts, b64, plain
from tests.smtp.guests import House, Wire, codes, house

BOB = "bob@example.org"
MAIL = b"MAIL FROM:<a@b.test>\r\n"


def guests(directory: Accounts | None = None, auth: AuthMode = AuthMode.OPTIONAL, **more: Any) -> House:
    """A listener in clear that lets clients log in."""
    answers = {"directory": directory or accounts(), **more.pop("answers", {})}
    return house(answers=answers, auth=auth, auth_in_clear=more.pop("auth_in_clear", True), **more)


def visit(directory: Accounts | None = None, **more: Any) -> Wire:
    """A client that has said EHLO."""
    return guests(directory, **more).connect().hello()


def challenge(reply: bytes) -> bytes:
    """What a 334 holds."""
    assert reply.startswith(b"334 ") and reply.endswith(b"\r\n")
    return base64.b64decode(reply[4:-2], validate=True)


def log_in(wire: Wire) -> Wire:
    """By PLAIN."""
    assert wire.codes(b"AUTH PLAIN " + plain() + b"\r\n") == ["235 2.7.0"]
    return wire


# The mechanisms on the wire


@pytest.mark.parametrize(
    "dialogue",
    [
        [(b"AUTH PLAIN " + plain(), "235 2.7.0")],
        [(b"auth plain " + plain(authzid=ALICE), "235 2.7.0")],
        [(b"AUTH PLAIN", "334"), (plain(), "235 2.7.0")],
        [(b"AUTH LOGIN", "334"), (b64(ALICE), "334"), (b64(SECRET), "235 2.7.0")],
        [(b"AUTH LOGIN " + b64(ALICE), "334"), (b64(SECRET), "235 2.7.0")],
        [(b"AUTH XOAUTH2 " + b64(f"user={ALICE}\x01auth=Bearer {TOKEN}\x01\x01"), "235 2.7.0")],
        [(b"AUTH OAUTHBEARER " + b64(f"n,a={ALICE},\x01auth=Bearer {TOKEN}\x01\x01"), "235 2.7.0")],
        [(b"AUTH PLAIN " + plain(password="wrong"), "535 5.7.8")],
        [(b"AUTH PLAIN " + plain(name=BOB), "535 5.7.8")],
        [(b"AUTH PLAIN " + plain(authzid="root"), "535 5.7.8")],
        [(b"AUTH LOGIN", "334"), (b64(ALICE), "334"), (b64("wrong"), "535 5.7.8")],
        [(b"AUTH XOAUTH2 " + b64("user=x\x01auth=Bearer y\x01\x01"), "334"), (b"", "535 5.7.8")],
        [(b"AUTH OAUTHBEARER " + b64("n,,\x01auth=Bearer y\x01\x01"), "334"), (b"AQ==", "535 5.7.8")],
        # RFC 4954 §4 and §6
        [(b"AUTH", "501 5.5.4")],
        [(b"AUTH ", "501 5.5.4")],
        [(b"AUTH PLAIN  " + plain(), "501 5.5.4")],
        [(b"AUTH PLAIN AAAA BBBB", "501 5.5.4")],
        [(b"AUTH PL@IN", "501 5.5.4")],
        [(b"AUTH CRAM-MD5", "504 5.5.4")],
        [(b"AUTH EXTERNAL =", "504 5.5.4")],  # without a certificate it cannot work
        [(b"AUTH SCRAM-SHA-256-PLUS", "504 5.5.4")],  # nor this without TLS
        [(b"AUTH PLAIN =", "501 5.5.2")],  # an empty initial response, which PLAIN does not know
        [(b"AUTH PLAIN AAAA!", "501 5.5.2")],
        [(b"AUTH PLAIN AAA", "501 5.5.2")],
        [(b"AUTH PLAIN", "334"), (b"not base64", "501 5.5.2")],
        [(b"AUTH PLAIN", "334"), (b"AA==AA==", "501 5.5.2")],
        [(b"AUTH PLAIN", "334"), (b"", "501 5.5.2")],
        [(b"AUTH PLAIN", "334"), (b"*", "501 5.7.0")],
        [(b"AUTH LOGIN", "334"), (b64(ALICE), "334"), (b"*", "501 5.7.0")],
        [(b"AUTH XOAUTH2 " + b64("user=x\x01auth=Bearer y\x01\x01"), "334"), (b"*", "501 5.7.0")],
        [(b"AUTH PLAIN", "334"), (b"A" * 12289, "500 5.5.6")],
        [(b"AUTH PLAIN " + b"A" * 12288, "500 5.5.6")],
        [(b"AUTH PLAIN", "334"), (b"AAAA\0", "500 5.5.2")],
        [(b"AUTH PLAIN", "334"), (b"AA\nAA", "500 5.5.2")],
    ],
    ids=lambda dialogue: dialogue[-1][0][:24].decode("latin-1"),
)
def test_each_reply_of_the_standard(dialogue: list[tuple[bytes, str]]) -> None:
    """RFC 4954 §4 and §6: every way that AUTH can go, and the session lives on after it."""
    wire = visit()
    for line, reply in dialogue:
        assert wire.codes(line + b"\r\n") == [reply]
    assert wire.codes(MAIL) == ["250 2.1.0"]


def test_scram_to_its_end() -> None:
    """RFC 5802 §5: four messages, and both sides have shown that they know the password."""
    wire, client = visit(), ScramClient()
    first = challenge(wire.say(b"AUTH SCRAM-SHA-256 " + b64(client.first) + b"\r\n"))
    final = challenge(wire.say(b64(client.last(first)) + b"\r\n"))
    assert client.knows(final)
    assert wire.codes(b"\r\n") == ["235 2.7.0"]
    assert wire.protocol.peer.account == ALICE


@pytest.mark.parametrize(("line", "reply"), [(b"AA==", "501 5.5.2"), (b"*", "501 5.7.0")])
def test_scram_that_the_client_does_not_end_is_no_login(line: bytes, reply: str) -> None:
    """RFC 4954 §4: who does not like our signature cancels, and nobody is logged in."""
    home = guests()
    wire, client = home.connect().hello(), ScramClient()
    first = challenge(wire.say(b"AUTH SCRAM-SHA-256 " + b64(client.first) + b"\r\n"))
    wire.say(b64(client.last(first)) + b"\r\n")
    assert wire.codes(line + b"\r\n") == [reply]
    assert wire.protocol.peer.account == "" and "authenticated" not in home.notebook.names()
    log_in(wire)


@pytest.mark.parametrize(("name", "password"), [(ALICE, "wrong"), (BOB, "wrong")])
def test_scram_with_a_wrong_password(name: str, password: str) -> None:
    """A wrong password and an unknown name cannot be told apart: both get a salt and then 535."""
    wire, client = visit(), ScramClient(name, password)
    first = challenge(wire.say(b"AUTH SCRAM-SHA-256 " + b64(client.first) + b"\r\n"))
    assert wire.codes(b64(client.last(first)) + b"\r\n") == ["535 5.7.8"]


def test_the_failure_of_a_token_is_told_as_json() -> None:
    """RFC 7628 §3.2.2: a challenge of JSON, an answer that is not looked at, 535."""
    wire = visit()
    said = challenge(wire.say(b"AUTH OAUTHBEARER " + b64("n,,\x01auth=Bearer y\x01\x01") + b"\r\n"))
    assert b'"invalid_token"' in said and b"Bearer y" not in said
    assert wire.codes(b"AQ==\r\n") == ["535 5.7.8"]


def test_a_challenge_without_data_is_334_and_a_blank() -> None:
    """RFC 4954 §4."""
    assert visit().say(b"AUTH PLAIN\r\n") == b"334 \r\n"
    assert visit().say(b"AUTH LOGIN\r\n") == b"334 VXNlcm5hbWU6\r\n"


def test_a_long_token_goes_through() -> None:
    """RFC 4954 §4: lines of AUTH may have 12,288 octets, in the command and after it."""
    token = "x" * 9000
    response = b64(f"user={ALICE}\x01auth=Bearer {token}\x01\x01")
    assert 12000 < len(response) < 12288
    for lines in (b"AUTH XOAUTH2 " + response + b"\r\n", b"AUTH XOAUTH2\r\n" + response + b"\r\n"):
        assert visit(accounts(tokens={token: ALICE})).codes(lines)[-1] == "235 2.7.0"


# Order


def test_auth_comes_after_ehlo() -> None:
    """RFC 4954 §4: before EHLO and after HELO, which knows no extension, it is 503."""
    wire = guests().connect()
    wire.read()
    assert wire.codes(b"AUTH PLAIN " + plain() + b"\r\n") == ["503 5.5.1"]
    assert wire.codes(b"HELO x\r\nAUTH PLAIN " + plain() + b"\r\n") == ["250", "503 5.5.1"]


def test_auth_comes_once() -> None:
    """RFC 4954 §4: after a success it is 503, also after another EHLO and RSET."""
    wire = log_in(visit())
    again = b"AUTH PLAIN " + plain() + b"\r\n"
    assert wire.codes(again + b"RSET\r\nEHLO x\r\n" + again) == ["503 5.5.1", "250 2.0.0", "250", "503 5.5.1"]
    assert wire.protocol.peer.account == ALICE


def test_auth_never_comes_within_a_transaction() -> None:
    """RFC 4954 §4: 503 after MAIL, after RCPT and between chunks; the transaction goes on."""
    wire = visit()
    auth = b"AUTH PLAIN " + plain() + b"\r\n"
    assert wire.codes(MAIL + auth) == ["250 2.1.0", "503 5.5.1"]
    assert wire.codes(b"RCPT TO:<c@d.test>\r\n" + auth) == ["250 2.1.5", "503 5.5.1"]
    assert wire.codes(b"BDAT 3\r\na\r\n" + auth) == ["250 2.0.0", "503 5.5.1"]
    assert wire.codes(b"BDAT 0 LAST\r\n") == ["250 2.0.0"]


def test_a_login_outlives_transactions() -> None:
    """RFC 4954 §4: it counts until the session ends."""
    wire = log_in(visit(auth=AuthMode.REQUIRED))
    letter = MAIL + b"RCPT TO:<c@d.test>\r\nDATA\r\n"
    for _ in range(2):
        assert wire.codes(letter)[-1] == "354" and wire.codes(b"x\r\n.\r\n") == ["250 2.0.0"]


def test_required_means_required() -> None:
    """RFC 4954 §6: MAIL before a log-in is 530, and nothing else is hindered."""
    wire = visit(auth=AuthMode.REQUIRED)
    assert wire.codes(MAIL + b"NOOP\r\nRSET\r\n") == ["530 5.7.0", "250 2.0.0", "250 2.0.0"]
    assert log_in(wire).codes(MAIL) == ["250 2.1.0"]


def test_who_has_no_tls_yet_is_told_what_comes_first() -> None:
    """In clear AUTH is not offered where STARTTLS is, and the 530 says the way in."""
    home = guests(tls=TlsMode.STARTTLS, auth=AuthMode.REQUIRED, auth_in_clear=False, context=object())
    assert home.connect().hello().say(MAIL) == b"530 5.7.0 authentication required, and STARTTLS before it\r\n"


def test_auth_in_clear_is_refused_unless_allowed() -> None:
    """RFC 4954 §4: 538 without TLS, and nobody is asked."""
    home = guests(tls=TlsMode.STARTTLS, auth_in_clear=False, context=object())
    wire = home.connect().hello()
    assert wire.codes(b"AUTH PLAIN " + plain() + b"\r\n") == ["538 5.7.11"]
    assert "auth" not in home.notebook.names()


def test_without_auth_the_verb_is_not_there() -> None:
    """RFC 5321 §4.2.4: a listener without log-ins does not know it, nor one without accounts."""
    for wire in (visit(auth=AuthMode.NONE), visit(accounts(()))):
        assert b"AUTH" not in wire.say(b"EHLO x\r\n")
        assert wire.codes(b"AUTH PLAIN " + plain() + b"\r\n") == ["502 5.5.1"]


def test_auth_of_a_client_that_logged_in_is_kept() -> None:
    """RFC 4954 §5: AUTH= of MAIL is believed of nobody else."""
    home = guests()
    wire = home.connect().hello()
    for _ in range(2):
        assert wire.codes(b"MAIL FROM:<a@b.test> AUTH=e+3Dmc2@example.com\r\nRSET\r\n")[0] == "250 2.1.0"
        if not wire.protocol.peer.account:
            log_in(wire)
    assert [entry[1].auth for entry in home.notebook.log if entry[0] == "mail"] == ["", "e=mc2@example.com"]


# What is offered


def offer(session: Session) -> list[str]:
    """The mechanisms in the answer to EHLO."""
    session.receive(b"EHLO x\r\n")
    session.next_event()
    session.reply(None)
    lines = session.take_output().decode().split("\r\n")[:-1]
    assert all(line[3] == "-" for line in lines[:-1]) and lines[-1][3] == " "
    return [word for line in lines if line[4:].startswith("AUTH ") for word in line[9:].split()]


def session(mechanisms: tuple[str, ...] = ALL, **settings: Any) -> Session:
    """A session that is greeted."""
    made = ListenerSettings(**{"auth": AuthMode.OPTIONAL, "tls": TlsMode.STARTTLS, **settings})
    greeted = Session(rules_of(made, "relay.test", mechanisms))
    greeted.reply(None)
    greeted.take_output()
    return greeted


def test_what_is_offered_can_work_now() -> None:
    """RFC 4954 §3: nothing in clear, -PLUS with a binding, EXTERNAL with a certificate, nothing once logged in."""
    clear = session()
    assert offer(clear) == []
    clear.tls_started(Channel(("tls-exporter",), lambda kind: b"", "ab12", ("tim",)))
    every = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "EXTERNAL", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN"]
    assert offer(clear) == every
    clear.tls_started()
    assert offer(clear) == ["SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN"]
    clear.account = ALICE
    assert offer(clear) == []
    assert offer(session(auth_in_clear=True)) == ["SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN"]
    assert offer(session(("PLAIN", "NEW"), auth_in_clear=True)) == ["PLAIN"]
    assert offer(session(auth=AuthMode.NONE, auth_in_clear=True)) == []


def test_accounts_may_change_what_is_possible() -> None:
    """A file of accounts that is read anew: sessions to come are offered what is possible then."""
    directory = accounts(("PLAIN",))
    home = guests(directory)
    home.connect()
    directory.mechanisms = frozenset(("LOGIN",))
    assert b"AUTH LOGIN\r\n" in home.connect().say(b"EHLO x\r\n")


def test_external_shows_the_certificate() -> None:
    """RFC 4422 appendix A: with "=" the certificate alone says who."""
    tls = session()
    tls.tls_started(Channel((), lambda kind: None, "ab12", ("tim",)))
    offer(tls)
    tls.receive(b"AUTH EXTERNAL =\r\n")
    event: Any = tls.next_event()
    assert (event.shown.credentials.fingerprint, event.shown.credentials.names) == ("ab12", ("tim",))
    tls.reply(Account("tim"))
    assert tls.take_output() == b"235 2.7.0 authentication succeeded\r\n" and tls.account == "tim"


def test_starttls_forgets_who_logged_in() -> None:
    """RFC 3207 §4.2: what was learned in clear does not count under TLS."""
    wire = log_in(visit())
    wire.protocol._session.tls_started()
    assert wire.protocol._session.account == ""


# Waiting, limits, ends


def test_nothing_is_read_while_a_decision_is_awaited() -> None:
    """RFC 2920 §3.2: what is pipelined behind AUTH waits for its reply."""
    directory = accounts(later=True)
    wire = visit(directory)
    assert wire.say(b"AUTH PLAIN " + plain() + b"\r\n" + MAIL) == b""
    directory.release()
    assert codes(wire.read()) == ["235 2.7.0", "250 2.1.0"]


def test_a_client_that_goes_while_a_decision_is_awaited() -> None:
    """An answer that comes too late is nobody's."""
    directory = accounts(later=True)
    home = guests(directory)
    wire = home.connect().hello()
    wire.say(b"AUTH PLAIN " + plain() + b"\r\n")
    wire.protocol.connectionLost(home_lost())
    directory.release()
    assert home.notebook.bugs == [] and home.notebook.names()[-1] == "closed"


def home_lost() -> Any:
    """What Twisted says of a client that closed."""
    from twisted.internet.error import ConnectionDone
    from twisted.python.failure import Failure

    return Failure(ConnectionDone())


def test_a_directory_that_cannot_be_asked() -> None:
    """RFC 4954 §6: 454, for each kind of credentials, and never 535."""
    for line in (
        b"AUTH PLAIN " + plain(),
        b"AUTH SCRAM-SHA-256 " + b64(ScramClient().first),
        b"AUTH OAUTHBEARER " + b64("n,,\x01auth=Bearer y\x01\x01"),
    ):
        assert visit(accounts(down=DOWN)).codes(line + b"\r\n") == ["454 4.7.0"]


def test_an_error_of_ours_is_not_the_clients() -> None:
    """A bug in who decides is 451, and the session lives on."""
    home = guests(answers={"auth": RuntimeError("no")})
    wire = home.connect().hello()
    assert wire.codes(b"AUTH PLAIN " + plain() + b"\r\nNOOP\r\n") == ["451 4.3.0", "250 2.0.0"]
    assert home.notebook.bugs == ["smtp.server auth"]


def test_a_refusal_that_closes_closes() -> None:
    """Who is locked out hears 421 and is gone."""
    out = Reply(421, "4.7.0", "later", close=True)
    wire = visit(answers={"auth": out})
    assert wire.codes(b"AUTH PLAIN " + plain() + b"\r\nNOOP\r\n") == ["421 4.7.0"]
    assert wire.transport.closing


@pytest.mark.parametrize("line", [b"AUTH PLAIN !\r\n", b"AUTH LOGIN\r\n*\r\n", b"AUTH X\r\n", b"AUTH PLAIN AA==\r\n"])
def test_limits_of_errors_hold(line: bytes) -> None:
    """Whoever makes errors in AUTH for ever is shown out."""
    wire = visit(limits={"errors": 5})
    assert [code for code in wire.codes(line * 7) if code != "334"][5:] == ["421 4.7.0"]
    assert wire.transport.closing


def test_limits_of_idle_commands_hold() -> None:
    """Log-ins that cannot be checked move no mail either."""
    wire = visit(accounts(down=DOWN), limits={"idle_commands": 5})
    assert wire.codes((b"AUTH PLAIN " + plain() + b"\r\n") * 6)[-1] == "421 4.7.0"


def test_who_is_silent_in_an_exchange_times_out() -> None:
    """RFC 5321 §4.5.3.2.7 holds for responses too."""
    home = guests(timeouts={"command": 10})
    wire = home.connect().hello()
    wire.say(b"AUTH LOGIN\r\n")
    home.clock.pump([1] * 12)
    assert codes(wire.read()) == ["421 4.4.2"]


def test_a_drain_lets_an_exchange_end() -> None:
    """A reload in the midst of a log-in does not cut it; 421 comes after its end."""
    wire = visit()
    wire.say(b"AUTH PLAIN\r\n")
    wire.protocol.drain()
    assert wire.read() == b""
    assert wire.codes(plain() + b"\r\n") == ["235 2.7.0", "421 4.3.2"]


# Any way that the octets come

LINES = st.sampled_from(
    [
        b"EHLO x", b"HELO x", b"NOOP", b"RSET", MAIL[:-2], b"RCPT TO:<c@d.test>", b"AUTH PLAIN", b"AUTH LOGIN", b"*",
        b"AUTH PLAIN " + plain(), b"AUTH PLAIN " + plain(password="x"), b64(ALICE), b64(SECRET), plain(), b"", b"=",
        b"AUTH SCRAM-SHA-256 " + b64(ScramClient().first), b"AUTH XOAUTH2 " + b64("user=x\x01auth=Bearer y\x01\x01"),
        b"A" * 2049, b"A" * 12289, b"AUTH PLAIN " + b"A" * 12300, b"AUTH", b"auth plain !", b"\0", b"A\nB", b"A\rB",
        b"QUIT",
    ]
)  # fmt: skip


def run(octets: bytes, cuts: list[int], *, later: bool = False) -> tuple[bytes, list[tuple[Any, ...]]]:
    """The replies and what the handler was asked, of a stream cut there."""
    directory = accounts(later=later)
    home = guests(directory, auth=AuthMode.REQUIRED)
    home.factory.rules = evolve(home.factory.rules, nonce=lambda: "server")
    wire = home.connect()
    said = wire.read()
    for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True):
        if not wire.transport.closing:
            said += wire.say(octets[start:end])
        while directory.waiting:
            directory.release()
            said += wire.read()
    return said, home.notebook.log


@given(st.lists(LINES, max_size=12), st.data(), st.booleans())
def test_any_split_gives_the_same_replies(lines: list[bytes], data: st.DataObject, later: bool) -> None:
    """RFC 2920: pipelined equals lockstep, wherever the stream is cut and however long decisions take."""
    octets = b"".join(line + b"\r\n" for line in [b"EHLO x", *lines])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    assert run(octets, cuts, later=later) == run(octets, [])


@given(st.lists(st.one_of(LINES, st.binary(max_size=30)), max_size=12))
def test_garbage_never_breaks_the_session(lines: list[bytes]) -> None:
    """Whatever is sent in and around AUTH, each answer is a reply and nothing is a bug of ours."""
    home = guests()
    wire = home.connect().hello()
    said = wire.say(b"".join(line + b"\r\n" for line in lines))
    assert home.notebook.bugs == []
    assert all(line[:3].isdigit() for line in said.decode().split("\r\n")[:-1])


# Nothing leaks


@pytest.mark.parametrize("auth", list(AuthMode))
@pytest.mark.parametrize("again", [False, True])
def test_what_is_told_holds_no_secret(auth: AuthMode, again: bool) -> None:
    """Not what AUTH carries, and not what a client sends on after it was refused."""
    secrets = [SECRET, b64(SECRET).decode(), plain().decode(), TOKEN, b64(TOKEN).decode()]
    scripts = [
        b"AUTH LOGIN\r\n" + b64(ALICE) + b"\r\n" + b64(SECRET) + b"\r\n",
        b"AUTH PLAIN " + plain() + b"\r\n",
        b"AUTH CRAM-MD5\r\n" + b64(SECRET) + b"\r\n" + b64(SECRET) + b"\nx\r\n" + b64(SECRET) + b"\0\r\n",
        b" AUTH PLAIN " + plain() + b"\r\nXAUTH " + plain() + b"\r\nAUTHPLAIN" + plain() + b"\r\n",
        b"AUTH PLAIN " + plain() + b" x\r\nAUTH PLAIN\t" + plain() + b"\r\nAUTH PLAIN " + plain() + b"\nX\r\n",
        MAIL + b"AUTH LOGIN\r\n" + b64(ALICE) + b"\r\n" + b64(SECRET) + b"\r\n",
        b"AUTH XOAUTH2 " + b64(f"user=x\x01auth=Bearer {TOKEN}\x01\x01") + b"\r\n\r\n",
        b"AUTH PLAIN " + plain() + b"A" * 13000 + b"\r\n",
    ]
    for script in scripts:
        home = guests(auth=auth)
        wire = home.connect().hello()
        said = wire.say(script * (1 + again))
        told = repr(home.notebook.log) + repr(home.notebook.bugs) + said.decode() + wire.protocol._session.reason
        assert [secret for secret in secrets if secret in told] == []


def test_before_the_greeting_nothing_of_auth_is_told() -> None:
    """A client that does not wait for the greeting may have sent its password already."""
    from twisted.internet.defer import Deferred

    greeting: Deferred[Any] = Deferred()
    home = guests(answers={"connect": greeting})
    wire = home.connect()
    wire.say(b"EHLO x\r\nAUTH PLAIN " + plain() + b"\r\n")
    told = [entry for entry in home.notebook.log if entry[0] == "refused"]
    assert told == [("refused", "EHLO x", 554)]


def test_an_event_of_the_session_shows_no_secret() -> None:
    """What goes from the machine to its shell can stand in a traceback."""
    tls = session(auth_in_clear=True)
    offer(tls)
    tls.receive(b"AUTH PLAIN " + plain() + b"\r\n")
    event = tls.next_event()
    assert SECRET not in repr(event) and ALICE in repr(event)
    assert tls.next_event() is Signal.PAUSED
    tls.reply(answers.AUTH_FAILED)
    assert tls.take_output().startswith(b"535 5.7.8 ")
