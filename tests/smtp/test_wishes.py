"""FUTURERELEASE and REQUIRETLS: offered where they may be, understood, and refused where they are too much."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.config import Duration
from relaymta.smtp import grammar
from relaymta.smtp.commands import MailCommand
from relaymta.smtp.grammar import RefusalError
from relaymta.smtp.rules import Rules, rules_of
from relaymta.smtp.session import Session
from relaymta.smtp.settings import AuthMode, ListenerSettings, Profile
from relaymta.smtp.turns import Hello
from relaymta.smtp.wishes import HOLD_MAX, NO_WISHES, Wishes

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
DAY = 86_400
ALL = Wishes(True, 7 * DAY, NOW.timestamp)
PROFILES = [(Profile.SUBMISSION, "7d"), (Profile.SUBMISSION, "0s"), (Profile.MX, "7d"), (Profile.LMTP, "7d")]


def refused(text: str, wishes: Wishes = ALL) -> str:
    """What a MAIL with these parameters is answered."""
    with pytest.raises(RefusalError) as caught:
        grammar.mail(b"FROM:<a@x.example> " + text.encode(), wishes=wishes)
    return str(caught.value.reply)


def taken(text: str, wishes: Wishes = ALL) -> MailCommand:
    """A MAIL with these parameters."""
    return grammar.mail(b"FROM:<a@x.example> " + text.encode(), wishes=wishes)


@given(st.integers(1, 7 * DAY))
def test_holdfor_is_seconds_from_now(seconds: int) -> None:
    """RFC 4865 §3, future-release-interval."""
    assert taken(f"HoldFor={seconds} SIZE=1").release_at == NOW.timestamp() + seconds


@given(
    st.timedeltas(timedelta(seconds=1), timedelta(days=6, hours=23)),
    st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)),
)
def test_holduntil_is_a_moment_in_any_zone(ahead: timedelta, away: timedelta) -> None:
    """RFC 4865 §3 with erratum 2040: a date of RFC 3339."""
    zone = timezone(timedelta(minutes=away // timedelta(minutes=1)))
    moment = (NOW + ahead).replace(microsecond=0)
    assert taken(f"HOLDUNTIL={moment.astimezone(zone).isoformat()}").release_at == moment.timestamp()


def test_the_request_is_kept_as_it_was_written() -> None:
    """RFC 4865 §5.1.2: notices repeat it with its kind before it."""
    assert taken("HoldFor=600").release_request == "for;600"
    assert taken("HOLDUNTIL=2026-11-24t12:00:00.75z").release_request == "until;2026-11-24t12:00:00.75z"
    assert taken("SIZE=1").release_request == taken("REQUIRETLS").release_request == ""


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-24T12:00:00Z", NOW + timedelta(days=1)),
        ("2026-11-24t12:00:00.75z", NOW + timedelta(days=1, seconds=0.75)),
        ("2026-11-24T13:30:00+01:30", NOW + timedelta(days=1)),
        ("2026-11-23T23:59:60Z", datetime(2026, 11, 24, tzinfo=UTC)),
    ],
)
def test_dates_are_read_as_rfc_3339_writes_them(text: str, at: datetime) -> None:
    """Small letters, fractions, other zones and leap seconds included; never earlier than asked (RFC 4865 §4.2)."""
    assert taken(f"HOLDUNTIL={text}").release_at == at.timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "HOLDFOR", "HOLDFOR=", "HOLDFOR=0", "HOLDFOR=-1", "HOLDFOR=+1", "HOLDFOR=01", "HOLDFOR=1.5",
        "HOLDFOR=1234567890",
        "HOLDUNTIL", "HOLDUNTIL=1790000000", "HOLDUNTIL=2026-11-24", "HOLDUNTIL=2026-11-24T12:00:00",
        "HOLDUNTIL=2026-11-31T12:00:00Z", "HOLDUNTIL=2026-11-24T24:00:00Z", "HOLDUNTIL=2026-11-24T12:00:61Z",
        "HOLDUNTIL=2026-11-24T12:00:00+24:00", "HOLDUNTIL=2026-11-24T12:00:00+01:60",
        "HOLDUNTIL=0001-01-01T00:00:00+01:00",
        "HOLDUNTIL=2026-11-24T12:00:00.Z", "HOLDFOR=1 HOLDFOR=2", "REQUIRETLS=YES", "REQUIRETLS REQUIRETLS",
    ],
)  # fmt: skip
def test_what_is_malformed_is_501(text: str) -> None:
    """The client's fault, and said so with 5.5.4 (RFC 4865 §4.2)."""
    assert refused(text).startswith("501 5.5.4 ")


@given(st.sampled_from(["HOLDFOR", "HOLDUNTIL"]), st.text("0123456789-:.TZtz+", min_size=1, max_size=30))
def test_any_value_is_taken_or_501(name: str, value: str) -> None:
    """Nothing of a client raises anything else, and what is taken lies ahead, within the limit."""
    said, at = "", NOW.timestamp() + 1
    try:
        at = taken(f"{name}={value}").release_at
    except RefusalError as error:
        said = str(error.reply)
    assert not said or said.startswith("501 5.5.4 ")
    assert NOW.timestamp() < at <= NOW.timestamp() + 7 * DAY


def test_both_at_once_is_501() -> None:
    """RFC 4865 §4.2: one of the two."""
    said = refused("HOLDFOR=60 HOLDUNTIL=2026-11-24T12:00:00Z")
    assert said == "501 5.5.4 HOLDFOR and HOLDUNTIL exclude each other"


@pytest.mark.parametrize(
    "text", [f"HOLDFOR={7 * DAY + 1}", "HOLDUNTIL=2026-11-30T12:00:01Z", "HOLDUNTIL=9999-12-31T23:59:59Z"]
)
def test_too_far_ahead_is_501(text: str) -> None:
    """Beyond what EHLO told."""
    assert refused(text) == "501 5.5.4 the time of release is too far ahead: 604800 seconds at most"


@pytest.mark.parametrize("text", ["2026-11-23T12:00:00Z", "2020-01-01T00:00:00Z", "2026-11-23T12:00:00+00:01"])
def test_what_is_over_is_501(text: str) -> None:
    """A moment that has passed is a mistake that its sender would like to hear of."""
    assert refused(f"HOLDUNTIL={text}") == "501 5.5.4 the time of HOLDUNTIL is over"


@pytest.mark.parametrize("text", ["HOLDFOR=60", "HOLDUNTIL=2026-11-24T12:00:00Z", "REQUIRETLS"])
def test_what_is_not_offered_is_not_known(text: str) -> None:
    """RFC 5321 §4.1.1.11: 555."""
    assert refused(text, NO_WISHES).startswith("555 5.5.4 ")


def test_requiretls_is_a_flag() -> None:
    """RFC 8689 §2: a parameter without a value."""
    assert taken("REQUIRETLS").requiretls and taken("requiretls BODY=8BITMIME").requiretls
    assert not taken("BODY=8BITMIME").requiretls


def rules(profile: Profile, days: str) -> Rules:
    """The rules of a listener."""
    ahead = Duration(7.0 * DAY if days == "7d" else 0.0)
    settings = ListenerSettings(profile=profile, auth=AuthMode.NONE, future_release=ahead)
    return rules_of(settings, "relay.example.org", seconds=NOW.timestamp)


@pytest.mark.parametrize(("profile", "days"), PROFILES)
@pytest.mark.parametrize("tls", [False, True])
def test_ehlo_offers_what_may_be_asked(profile: Profile, days: str, tls: bool) -> None:
    """FUTURERELEASE on submission listeners with its two limits (RFC 4865 §3), REQUIRETLS over TLS (RFC 8689 §2)."""
    said = rules(profile, days).hello(esmtp=True, tls=tls).decode()
    lines = said.removesuffix("\r\n").split("\r\n")
    assert all(line.startswith("250-") for line in lines[:-1]) and lines[-1].startswith("250 ")
    assert lines[0] == "250-relay.example.org"
    offered = {line[4:] for line in lines}
    release = profile is Profile.SUBMISSION and days == "7d"
    assert ("FUTURERELEASE 604800 2026-11-30T12:00:00Z" in offered) == release
    assert ("FUTURERELEASE" in said) == release and ("REQUIRETLS" in offered) == tls
    assert rules(profile, days).hello(esmtp=False, tls=tls) == b"250 relay.example.org\r\n"


def test_the_last_line_of_a_short_answer_stays_the_last() -> None:
    """An answer of one line grows as well as one of many."""
    release = b"250-FUTURERELEASE 604800 2026-11-30T12:00:00Z\r\n"
    assert ALL.announced(b"250 a\r\n") == b"250-a\r\n" + release + b"250 REQUIRETLS\r\n"
    assert NO_WISHES.announced(b"250 a\r\n") == b"250 a\r\n"


@pytest.mark.parametrize(("profile", "days"), PROFILES)
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("parameter", ["HOLDFOR=60", "REQUIRETLS"])
def test_mail_takes_what_ehlo_offered(profile: Profile, days: str, tls: bool, parameter: str) -> None:
    """And nothing else."""
    session = Session(rules(profile, days))
    session.reply(None)
    session.tls = tls
    session.receive(b"LHLO client\r\n" if profile is Profile.LMTP else b"EHLO client\r\n")
    assert isinstance(session.next_event(), Hello)
    session.reply(None)
    offered = session.take_output()
    session.receive(f"MAIL FROM:<a@x.example> {parameter}\r\n".encode())
    known = (b"FUTURERELEASE" if parameter.startswith("HOLD") else b"REQUIRETLS") in offered
    assert isinstance(session.next_event(), MailCommand) == known
    if not known:
        assert session.take_output().startswith(b"555 5.5.4 ")


def test_the_longest_interval_fits_the_grammar() -> None:
    """What may be configured can be asked for (RFC 4865 §3: nine digits)."""
    wishes = Wishes(False, HOLD_MAX, NOW.timestamp)
    assert taken(f"HOLDFOR={HOLD_MAX}", wishes).release_at == NOW.timestamp() + HOLD_MAX
    assert list(ListenerSettings(future_release=Duration(HOLD_MAX + 1.0), endpoint="fd:3").check())
    assert list(ListenerSettings(future_release=Duration(-1.0), endpoint="fd:3").check())
    assert not list(ListenerSettings(future_release=Duration(float(HOLD_MAX)), endpoint="fd:3").check())
