"""Logging in: the accounts are asked, a no is held back and counted, and who fails too often is not asked any more."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from relaymta import events
from relaymta.directory.account import Account
from relaymta.directory.credentials import ScramKeys, ScramProof
from relaymta.mail.reply import Reply
from relaymta.policy import logins as module
from relaymta.policy.logins import Logins
from relaymta.smtp.authing import LoggingIn
from relaymta.smtp.handler import Peer
from relaymta.smtp.sasl import External, Plain, Shown
from relaymta.smtp.sasl_oauth import XOAuth2
from tests.policy.counts import SETTINGS, Rig
from tests.smtp.accounts import ALICE, DOWN, SECRET, Accounts, accounts

CLIENT, TRUSTED = "192.0.2.1", "127.0.0.1"
NO = Reply(535, "5.7.8", "authentication credentials invalid")


class Porch(Rig):
    """Log-ins over accounts in memory and counts on disk. `told` are the events."""

    def __init__(self, path: Path, directory: Accounts | None = None, **settings: Any) -> None:
        super().__init__(path, evolve(SETTINGS, **settings))
        self.directory = directory or accounts(certificates={"ab12": ALICE})
        self.told: list[Any] = []
        self.logins = Logins(
            self.directory, self.guard, self.clock, self.told.append, lambda client: client == TRUSTED
        )

    def begin(self, password: str = SECRET, name: str = ALICE, client: str = CLIENT) -> Deferred[Any]:
        """A log-in by PLAIN; not waited for."""
        shown = Plain().start(f"\0{name}\0{password}".encode())
        assert isinstance(shown, Shown)
        return self.show("PLAIN", shown, client)

    def show(self, mechanism: str, shown: Any, client: str = CLIENT) -> Deferred[Any]:
        attempt = LoggingIn(mechanism, shown)
        asked = Deferred.fromCoroutine(self.logins.login(Peer("s1", "mx", client, 1, ""), attempt))
        self.state.settle()
        return asked

    def try_(self, *facts: str, **more: str) -> tuple[Any, float]:
        """The answer, and after how many seconds it came."""
        return self.answer(self.begin(*facts, **more))

    def answer(self, asked: Deferred[Any]) -> tuple[Any, float]:
        found: list[Any] = []
        asked.addBoth(found.append)
        began = self.now
        while not found:
            self.clock.advance(0.5)
        return found[0], self.now - began

    def reasons(self) -> list[str]:
        return [event.reason for event in self.told]


@pytest.fixture
def porch(tmp_path: Path) -> Iterator[Porch]:
    """Log-ins that nobody has tried yet."""
    made = Porch(tmp_path / "auth.sqlite")
    yield made
    made.state.close()


def test_who_knows_the_password_is_in_at_once(porch: Porch) -> None:
    """The answer is the account; nothing is told, since the session does that at its end."""
    assert porch.try_() == (Account(ALICE), 0.0)
    assert porch.told == []


def test_a_no_is_told_and_held_back(porch: Porch) -> None:
    """535 after a delay that doubles to its cap; each is told at once, with what counts so far."""
    waits = []
    for number in range(7):
        asked = porch.begin("same wrong one")
        event = porch.told[number]
        assert isinstance(event, events.AuthenticationFailed)
        assert (event.session, event.client, event.name, event.mechanism) == ("s1", CLIENT, ALICE, "PLAIN")
        assert (event.reason, event.failures) == ("wrong credentials", 1)
        reply, wait = porch.answer(asked)
        assert reply == NO
        waits.append(wait)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0]


def test_an_unknown_name_is_treated_as_a_known_one(porch: Porch) -> None:
    """The same reply, the same delay, the same count, the same refusal."""
    for guess in ("a", "b", "c", "d"):
        one = porch.try_(guess, name=ALICE, client="192.0.2.8")
        other = porch.try_(guess, name="nobody", client="192.0.2.9")
        assert one == other
    facts = [(event.client, event.reason, event.failures) for event in porch.told]
    assert [fact[1:] for fact in facts[::2]] == [fact[1:] for fact in facts[1::2]]


def test_who_guesses_is_refused_without_being_asked(porch: Porch) -> None:
    """454 for the pair, even with the right password, which costs the accounts nothing; 421 for the address."""
    for guess in ("a", "b", "c"):
        assert porch.try_(guess)[0] == NO
    asked = porch.directory.asked
    assert porch.try_(SECRET) == (module.LOCKED, 0.0)
    assert porch.directory.asked == asked and porch.reasons()[-1] == "too many failures at this account"
    assert porch.try_("x", name="u1")[0] == porch.try_("x", name="u2")[0] == porch.try_("x", name="u3")[0] == NO
    reply, wait = porch.try_("x", name="u4")
    assert (reply, wait) == (module.LOCKED_OUT, 0.0) and reply.close
    assert porch.reasons()[-1] == "too many failures"
    assert porch.try_(client="192.0.2.77")[0] == Account(ALICE)
    porch.clock.advance(100.0)
    assert porch.try_()[0] == Account(ALICE)


def test_behind_a_trusted_address_others_go_on(porch: Porch) -> None:
    """A web mailer that all users come from is never refused as a whole."""
    for number in range(9):
        porch.try_("x", name=f"u{number}", client=TRUSTED)
    assert porch.try_(client=TRUSTED)[0] == Account(ALICE)
    assert porch.try_("x", name="u9", client=TRUSTED) == (NO, 1.0)


def test_a_success_clears(porch: Porch) -> None:
    """Two slips and the right one: the next slip is the first again."""
    porch.try_("a")
    porch.try_("b")
    porch.try_()
    assert porch.try_("c") == (NO, 1.0)


def test_scram_is_counted_and_refused_at_its_begin(porch: Porch) -> None:
    """Each failed proof is an offence; who is refused gets no salt."""
    peer = Peer("s1", "mx", CLIENT, 1, "")

    def keys() -> Any:
        return porch.done(Deferred.fromCoroutine(porch.logins.keys(peer, ALICE)))

    found = keys()
    assert isinstance(found, ScramKeys)
    for _ in range(3):
        shown = Shown(ALICE, ScramProof(ALICE, b"message", bytes(32), found))
        assert porch.answer(porch.show("SCRAM-SHA-256", shown))[0] == NO
    assert keys() == module.LOCKED


@pytest.mark.parametrize(
    ("mechanism", "machine", "response"),
    [
        ("XOAUTH2", XOAuth2(), f"user={ALICE}\x01auth=Bearer old\x01\x01"),
        ("EXTERNAL", External((), "ffff"), ""),
    ],
)
def test_what_cannot_be_guessed_is_no_offence(porch: Porch, mechanism: str, machine: Any, response: str) -> None:
    """Every token expires, and a program shows it once more: it is held back, and nobody is locked out."""
    for _ in range(9):
        assert porch.answer(porch.show(mechanism, machine.start(response.encode()))) == (NO, 1.0)
    assert porch.try_()[0] == Account(ALICE)


def test_accounts_that_cannot_be_asked(porch: Porch) -> None:
    """454 at once, told with its reason, and nobody's offence; for the keys too."""
    porch.directory.down = DOWN
    assert porch.try_("x") == (module.answers.AUTH_UNAVAILABLE, 0.0)
    peer = Peer("s1", "mx", CLIENT, 1, "")
    asked = Deferred.fromCoroutine(porch.logins.keys(peer, ALICE))
    assert porch.done(asked) == module.answers.AUTH_UNAVAILABLE
    assert porch.reasons() == ["accounts unavailable: the server is away"] * 2
    assert porch.done(porch.guard.rows()) == []


def test_a_bug_among_the_accounts_tells_no_secret(porch: Porch) -> None:
    """What another's exception says may hold the password: its place is told, its text is not."""
    porch.directory.down = RuntimeError(f"could not bind with {SECRET}")
    assert porch.try_()[0] == module.answers.AUTH_UNAVAILABLE
    [bug] = porch.told
    assert isinstance(bug, events.BugCaught) and "RuntimeError" in bug.trace and SECRET not in repr(bug)


def test_failures_that_cannot_be_counted_are_not_tried(porch: Porch) -> None:
    """When unsure, later: without counts there would be no end of guesses."""
    porch.state.broken = sqlite3.OperationalError("disk I/O error")
    assert porch.try_("x")[0] == porch.try_()[0] == module.answers.AUTH_UNAVAILABLE
    assert porch.directory.asked == 0
    assert porch.reasons() == ["failures cannot be counted: disk I/O error"] * 2


def test_who_leaves_early_has_failed_all_the_same(porch: Porch) -> None:
    """A guess is counted although the client was gone before its answer; nothing is left behind."""
    porch.directory.later = True
    for guess in ("a", "b", "c"):
        asked = porch.begin(guess)
        asked.addErrback(lambda _: None)
        asked.cancel()
        porch.directory.release()
        porch.state.settle()
    assert porch.refused(CLIENT, ALICE) is not None
    assert porch.clock.getDelayedCalls() == []


def test_who_leaves_while_held_back_frees_the_place(tmp_path: Path) -> None:
    """Sessions that wait are bounded: one more than may gets 421 at once; a place that is left is free again."""
    porch = Porch(tmp_path / "auth.sqlite", delayed=2, offences=0, offences_per_account=0)
    waiting = [porch.begin("x"), porch.begin("y")]
    reply, wait = porch.try_("z")
    assert (reply, wait) == (module.HURRIED, 0.0) and reply.close
    waiting[0].addErrback(lambda _: None)
    waiting[0].cancel()
    assert porch.try_("z")[0] == NO
    porch.state.close()


def test_guesses_at_the_same_time_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs ahead of the count is refused with 454, by address and in all, and asks nobody."""
    monkeypatch.setattr(module, "AT_ONCE_PER_ADDRESS", 2)
    monkeypatch.setattr(module, "AT_ONCE_MAX", 3)
    porch = Porch(tmp_path / "auth.sqlite", accounts(later=True))
    waiting = [porch.begin(), porch.begin(), porch.begin(client="192.0.2.2")]
    assert porch.try_()[0] == porch.try_(client="192.0.2.3")[0] == module.answers.AUTH_UNAVAILABLE
    assert porch.directory.asked == 3 and porch.reasons() == ["too many at once"] * 2
    porch.directory.release()
    porch.state.settle()
    found: list[Any] = []
    for one in waiting:
        one.addCallback(found.append)
    assert found == [Account(ALICE)] * 3
    porch.begin()
    assert porch.directory.asked == 4
    porch.state.close()
