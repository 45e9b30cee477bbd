"""Failures of log-ins, counted: one password is one offence, too many are refused, a restart forgets nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from relaymta.policy import bruteforce
from relaymta.policy.bruteforce import Refused, address_of
from tests.policy.counts import SETTINGS, Rig

CLIENT, OTHER = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Counts in a new database."""
    made = Rig(tmp_path / "auth.sqlite")
    yield made
    made.state.close()


def test_one_wrong_password_in_a_loop_is_one_offence(rig: Rig) -> None:
    """fail2ban#779: a phone with last year's password does not lock out its office."""
    for count in range(1, 30):
        tally = rig.fail(CLIENT, "alice", b"summer")
        assert (tally.attempts, tally.offences) == (count, 1)
    assert rig.refused(CLIENT, "alice") is None


def test_each_guess_is_an_offence(rig: Rig) -> None:
    """The pair is refused first, for its time alone, and nobody else is."""
    for guess in (b"a", b"b", b"c"):
        assert rig.refused(CLIENT, "alice") is None
        rig.fail(CLIENT, "alice", guess)
    assert rig.refused(CLIENT, "Alice") == Refused(rig.now + 100.0, False)
    assert rig.refused(CLIENT, "bob") is None and rig.refused(OTHER, "alice") is None
    rig.clock.advance(100.0)
    assert rig.refused(CLIENT, "alice") is None


def test_the_same_password_at_many_accounts_is_many_offences(rig: Rig) -> None:
    """Who sprays one password over all names is refused as an address."""
    for name in "abcdef":
        assert rig.refused(CLIENT, "zoe") is None
        rig.fail(CLIENT, name, b"123456")
    assert rig.refused(CLIENT, "zoe") == Refused(rig.now + 100.0, True)
    assert rig.refused(OTHER, "zoe") is None


def test_behind_a_trusted_address_only_pairs_are_refused(rig: Rig) -> None:
    """mailcow#5242: one address of ours may stand for many people."""
    for number in range(20):
        rig.fail(CLIENT, f"user{number // 3}", b"%d" % number, exempt=True)
    assert rig.refused(CLIENT, "zoe") is None
    assert rig.refused(CLIENT, "user0") == Refused(rig.now + 100.0, False)


def test_failures_that_cannot_be_told_apart_are_offences_each(rig: Rig) -> None:
    """Of SCRAM nothing is known that a repetition could be seen by."""
    assert [rig.fail(CLIENT, "alice", None).offences for _ in range(3)] == [1, 2, 3]


def test_offences_lapse(rig: Rig) -> None:
    """What is older than `within` does not count, and a repetition keeps an offence young."""
    rig.fail(CLIENT, "alice", b"a")
    rig.fail(CLIENT, "alice", b"b")
    rig.clock.advance(59.0)
    rig.fail(CLIENT, "alice", b"b")
    rig.clock.advance(2.0)
    assert rig.fail(CLIENT, "alice", b"c").offences == 2
    assert rig.refused(CLIENT, "alice") is None


def test_a_clock_that_ran_ahead_bars_nobody(tmp_path: Path) -> None:
    """Who was refused while the clock was years ahead was refused until that time came."""
    ahead, right = Rig(tmp_path / "auth.sqlite"), Rig(tmp_path / "auth.sqlite")
    ahead.clock.advance(10 * 365 * 86_400.0)
    for guess in (b"a", b"b", b"c"):
        ahead.fail(CLIENT, "alice", guess)
    assert ahead.refused(CLIENT, "alice") is not None and right.refused(CLIENT, "alice") is None
    assert right.fail(CLIENT, "alice", b"d").offences == 1
    for rig in (ahead, right):
        rig.state.close()


def test_a_success_clears_its_own_account_alone(rig: Rig) -> None:
    """Who guesses at others is not absolved by logging in as himself."""
    for name in "abcde":
        rig.fail(CLIENT, name, b"x")
    rig.done(rig.guard.succeeded(CLIENT, "a"))
    assert rig.fail(CLIENT, "a", b"y").offences == 5
    assert rig.fail(CLIENT, "f", b"y").offences == 6
    assert rig.refused(CLIENT, "zoe") is not None


def test_zero_is_any_number(tmp_path: Path) -> None:
    """Each limit may be left out."""
    rig = Rig(tmp_path / "auth.sqlite", evolve(SETTINGS, offences=0, offences_per_account=0))
    for number in range(20):
        rig.fail(CLIENT, "alice", b"%d" % number)
    assert rig.refused(CLIENT, "alice") is None
    rig.state.close()


def test_counts_outlive_a_restart_and_are_the_hosts(tmp_path: Path) -> None:
    """Two workers and the next daemon see one count, and know a password again by the same key."""
    one, two = Rig(tmp_path / "auth.sqlite"), Rig(tmp_path / "auth.sqlite")
    one.fail(CLIENT, "alice", b"a")
    assert two.fail(CLIENT, "alice", b"a").offences == 1
    assert two.fail(CLIENT, "alice", b"b").offences == 2
    one.state.close()
    two.state.close()
    three = Rig(tmp_path / "auth.sqlite")
    assert three.fail(CLIENT, "alice", b"a").offences == 2
    three.fail(CLIENT, "alice", b"c")
    assert three.refused(CLIENT, "alice") is not None
    three.state.close()


def test_the_database_holds_no_password(tmp_path: Path) -> None:
    """Neither the password nor enough of a hash to find it by is on disk, and others cannot read the file."""
    rig = Rig(tmp_path / "state" / "auth.sqlite")
    rig.fail(CLIENT, "alice", b"correct horse battery staple")
    rig.state.close()
    octets = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir())
    assert b"correct horse" not in octets and b"alice" in octets
    [(mark,)] = sqlite3.connect(tmp_path / "state" / "auth.sqlite").execute("SELECT mark FROM offence").fetchall()
    assert len(mark) == 2
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def test_the_operator_sees_and_unlocks(rig: Rig) -> None:
    """By address, whose /64 is meant, or by account; the rest stays."""
    for guess in (b"a", b"b", b"c"):
        rig.fail(CLIENT, "alice", guess)
        rig.fail("2001:db8::1", "alice", guess)
    for name in "abc":
        rig.fail("2001:db8::2", name, b"x")
    rows = {(row.address, row.account): row for row in rig.done(rig.guard.rows())}
    whole = rows["2001:db8::/64", None]
    pair = rows[CLIENT, "alice"]
    assert (pair.offences, pair.attempts, pair.last, pair.until) == (3, 3, rig.now, rig.now + 100.0)
    assert (whole.offences, whole.until) == (0, rig.now + 100.0) and rows["2001:db8::/64", "a"].until == 0.0
    assert rig.done(rig.guard.unlock("2001:db8::77")) == (2, 6)
    assert rig.refused("2001:db8::1", "alice") is None and rig.refused(CLIENT, "alice") is not None
    assert rig.done(rig.guard.unlock("ALICE")) == (1, 3)
    assert rig.refused(CLIENT, "alice") is None
    assert rig.done(rig.guard.unlock("nobody")) == (0, 0) and rig.done(rig.guard.rows()) == []


def test_the_table_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A botnet does not fill the disk: the oldest offences are forgotten."""
    monkeypatch.setattr(bruteforce, "KEPT", 5)
    for number in range(12):
        rig.fail(f"192.0.2.{number}", "alice", b"x")
    assert len(rig.done(rig.guard.rows())) == 5


@pytest.mark.parametrize(
    ("client", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "local"),
        ("local", "local"),
        ("alice@example.org", "alice@example.org"),
    ],
)
def test_what_stands_for_a_client(client: str, key: str) -> None:
    """An IPv6 client has a whole /64 to come from (RFC 4291 §2.5.1); an IPv4 one is itself, also in a dual socket."""
    assert address_of(client) == key


@given(st.text())
def test_any_text_may_stand_for_a_client(client: str) -> None:
    """What an operator types is never an error."""
    assert address_of(address_of(client)) == address_of(client)
