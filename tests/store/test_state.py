"""State shared by workers: what is put in is there for others, and what fails leaves nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from relaymta.store.state import State

SCHEMA = "CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, number INTEGER NOT NULL)"


def _add(connection: sqlite3.Connection) -> int:
    connection.execute("INSERT INTO counts VALUES ('a', 1) ON CONFLICT DO UPDATE SET number = number + 1")
    return connection.execute("SELECT number FROM counts").fetchone()[0]


def _make(tmp_path: Path) -> State:
    return State(str(tmp_path / "state" / "counts.sqlite"), SCHEMA, lambda call, *args: call(*args))


def test_two_workers_count_together(tmp_path: Path) -> None:
    """What one owner counts, the other sees, and a third after both."""
    one, other = _make(tmp_path), _make(tmp_path)
    results: list[int] = []
    for state in (one, other):
        state.run(_add).addCallback(results.append)
        state.close()
    third = _make(tmp_path)
    third.run(_add).addCallback(results.append)
    third.close()
    assert results == [1, 2, 3]


def test_failed_work_leaves_nothing(tmp_path: Path) -> None:
    """An exception undoes the whole transaction and reaches the caller."""
    state = _make(tmp_path)
    failures: list[object] = []
    results: list[int] = []

    def fail(connection: sqlite3.Connection) -> None:
        _add(connection)
        raise ValueError("no")

    state.run(fail).addErrback(lambda failure: failures.append(failure.value))
    state.run(_add).addCallback(results.append)
    state.close()
    assert results == [1]
    assert len(failures) == 1 and isinstance(failures[0], ValueError)


def test_what_the_database_says_is_told(tmp_path: Path) -> None:
    """A path that cannot be a database is the caller's failure, not a hang."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "counts.sqlite").mkdir()
    state = _make(tmp_path)
    failures: list[object] = []
    state.run(_add).addErrback(lambda failure: failures.append(failure.value))
    state.close()
    assert len(failures) == 1
    with pytest.raises(sqlite3.Error):
        raise failures[0]  # type: ignore[misc]
