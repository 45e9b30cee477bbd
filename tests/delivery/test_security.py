"""Which TLS is asked of a host, and when clear text is allowed."""

from __future__ import annotations

import pytest

from relaymta.delivery.security import CLEAR, Need, Security, Unauthenticated
from relaymta.routing.route import TlsLevel
from relaymta.smtp.actions import Answer, Stage, Tls, Trouble

HANDSHAKE = Answer(Stage.HANDSHAKE, trouble=Trouble.TLS, text="bad certificate")


def security(now: list[float] | None = None) -> Security:
    """A judge with a clock of ours."""
    clock = now or [0.0]
    return Security(lambda: clock[0], 600.0)


def need(level: TlsLevel, judge: Security | None = None) -> Need:
    """What is asked of mx.test."""
    found = (judge or security()).need(level, "mx.test", "192.0.2.1", 25)
    assert isinstance(found, Need)
    return found


def test_each_level_asks_for_its_own() -> None:
    """none, opportunistic, encrypt, verify; connections of different levels are never shared."""
    levels = (TlsLevel.NONE, TlsLevel.OPPORTUNISTIC, TlsLevel.ENCRYPT, TlsLevel.VERIFY)
    needs = [need(level) for level in levels]
    assert [one.tls for one in needs] == [Tls.NEVER, Tls.MAY, Tls.MUST, Tls.MUST]
    assert needs[0] == CLEAR and len({one.mark for one in needs}) == 4
    assert isinstance(needs[2].creator, Unauthenticated) and not isinstance(needs[3].creator, Unauthenticated)


def test_verify_is_for_one_name() -> None:
    """A connection verified for one name serves no other."""
    judge = security()
    other = judge.need(TlsLevel.VERIFY, "other.test", "192.0.2.1", 25)
    assert isinstance(other, Need) and other.mark != need(TlsLevel.VERIFY, judge).mark


def test_verify_of_a_name_that_no_certificate_can_bear() -> None:
    """A host name that is no name defers and is not a bug."""
    assert isinstance(security().need(TlsLevel.VERIFY, "a" * 300 + "..test", "192.0.2.1", 25), Answer)


def test_dane_is_not_taken_for_less() -> None:
    """Until DANE can be verified nothing is sent where it is demanded."""
    answer = security().need(TlsLevel.DANE, "mx.test", "192.0.2.1", 25)
    assert isinstance(answer, Answer) and answer.trouble is Trouble.NO_TLS


def test_opportunistic_falls_back_and_remembers_for_minutes() -> None:
    """A failed handshake is retried in clear and remembered for minutes, not for a week (Haraka issue 2944)."""
    now = [0.0]
    judge = security(now)
    clear = judge.in_clear(need(TlsLevel.OPPORTUNISTIC, judge), HANDSHAKE, "192.0.2.1", 25)
    assert clear is not None and clear.tls is Tls.NEVER
    assert need(TlsLevel.OPPORTUNISTIC, judge).tls is Tls.NEVER
    other = judge.need(TlsLevel.OPPORTUNISTIC, "mx.test", "192.0.2.2", 25)
    assert isinstance(other, Need) and other.tls is Tls.MAY
    assert need(TlsLevel.ENCRYPT, judge).tls is Tls.MUST
    now[0] = 601.0
    assert need(TlsLevel.OPPORTUNISTIC, judge).tls is Tls.MAY


@pytest.mark.parametrize("level", [TlsLevel.ENCRYPT, TlsLevel.VERIFY])
def test_demanded_tls_never_falls_back(level: TlsLevel) -> None:
    """Clear text is for the opportunistic level alone."""
    assert security().in_clear(need(level), HANDSHAKE, "192.0.2.1", 25) is None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(Stage.CONNECT, trouble=Trouble.UNREACHABLE),
        Answer(Stage.BANNER, trouble=Trouble.LOST),
        Answer(Stage.STARTTLS, trouble=Trouble.GARBLED),
    ],
)
def test_other_trouble_is_no_reason_for_clear_text(answer: Answer) -> None:
    """Only STARTTLS and the handshake are TLS's trouble; a peer that injects text is not rewarded."""
    assert security().in_clear(need(TlsLevel.OPPORTUNISTIC), answer, "192.0.2.1", 25) is None
