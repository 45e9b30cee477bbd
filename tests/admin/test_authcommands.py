"""The operator's commands over failed log-ins."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relaymta.admin.authcommands import AuthCommands
from relaymta.admin.control import CommandError
from tests.policy.counts import NOW, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Counts in which alice at 192.0.2.1 is refused."""
    made = Rig(tmp_path / "auth.sqlite")
    for guess in (b"a", b"b", b"c"):
        made.fail("192.0.2.1", "alice", guess)
    yield made
    made.state.close()


def test_list_tells_what_counts(rig: Rig) -> None:
    """One row for each address and account, as JSON can be."""
    commands = AuthCommands(lambda: rig.guard).table()
    answer: Any = commands["auth.list"]({})
    assert rig.done(answer) == [
        {"address": "192.0.2.1", "account": "alice", "offences": 3, "attempts": 3, "last": NOW, "until": NOW + 100.0}
    ]


def test_unlock_says_what_it_forgot(rig: Rig) -> None:
    """Counts of both; nothing named is an error."""
    commands = AuthCommands(lambda: rig.guard).table()
    answer: Any = commands["auth.unlock"]({"what": "192.0.2.1"})
    assert rig.done(answer) == [{"unlocked": "192.0.2.1", "refusals": 1, "offences": 3}]
    assert rig.refused("192.0.2.1", "alice") is None
    for arguments in ({}, {"what": ""}, {"what": 7}):
        with pytest.raises(CommandError):
            commands["auth.unlock"](arguments)


def test_without_logins_there_is_nothing() -> None:
    """An empty list; and nothing that could be unlocked."""
    commands = AuthCommands(lambda: None).table()
    assert commands["auth.list"]({}) == []
    with pytest.raises(CommandError, match="no listener lets clients log in"):
        commands["auth.unlock"]({"what": "x"})


def test_a_database_that_cannot_be_read_is_said(rig: Rig) -> None:
    """An error of the disk is one line for the operator."""
    rig.state.broken = sqlite3.OperationalError("disk I/O error")
    commands = AuthCommands(lambda: rig.guard).table()
    for name in ("auth.list", "auth.unlock"):
        answer: Any = commands[name]({"what": "x"})
        with pytest.raises(CommandError, match="disk I/O error"):
            rig.done(answer)
