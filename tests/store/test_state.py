"""State shared by workers: what is put in is there for others, and what fails leaves nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relaymta.store import state as module
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


@define
class Desk:
    """A State whose calls are made on the test's thread; `told` is its trouble."""

    path: Path
    told: list[str] = field(factory=list)
    calls: SimpleQueue[Any] = field(factory=SimpleQueue)
    state: State = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.state = State(str(self.path), SCHEMA, lambda *call: self.calls.put(call), self.told.append)

    def answer(self, waiting: Deferred[Any]) -> Any:
        """What a Deferred fires with, or raises what it fails with."""
        results: list[Any] = []
        waiting.addBoth(results.append)
        while not results:
            call, *facts = self.calls.get(timeout=20)
            call(*facts)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def drain(self) -> None:
        """Hear what else was said."""
        while not self.calls.empty():
            call, *facts = self.calls.get()
            call(*facts)

    def add(self) -> int:
        """Count one more."""
        counted = self.answer(self.state.run(_add))
        self.drain()
        assert isinstance(counted, int)
        return counted


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """One, closed in the end."""
    one = Desk(tmp_path / "state" / "counts.sqlite")
    yield one
    one.state.close()


def _lock(path: Path) -> sqlite3.Connection:
    # As another program would that takes its time.
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


def test_all_who_wait_for_a_lock_wait_together(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another holds the lock for long: each is told within the time from its asking, not one after the other."""
    monkeypatch.setattr(module, "LOCKED_WITHIN", 0.3)
    assert desk.add() == 1
    other = _lock(desk.path)
    began = time.monotonic()
    waiting = [desk.state.run(_add) for _ in range(12)]
    for one in waiting:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            desk.answer(one)
    assert time.monotonic() - began < 1.5
    other.close()
    assert desk.add() == 2
    assert len(desk.told) == 1 and "cannot be used: database is locked" in desk.told[0]


def test_a_lock_that_is_given_up_in_time_is_no_trouble(desk: Desk) -> None:
    """Whoever waits gets its turn as soon as the other is through."""
    assert desk.add() == 1
    other = _lock(desk.path)
    waiting = desk.state.run(_add)
    time.sleep(0.1)
    other.execute("COMMIT")
    assert desk.answer(waiting) == 2
    assert desk.told == []
    other.close()


def test_closing_does_not_wait_for_a_lock(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop is not held up by another program: what cannot be written fails, and everybody hears of it."""
    monkeypatch.setattr(module, "CLOSES_WITHIN", 0.2)
    assert desk.add() == 1
    other = _lock(desk.path)
    waiting = [desk.state.run(_add) for _ in range(50)]
    began = time.monotonic()
    desk.state.close()
    assert time.monotonic() - began < 1.5
    for one in waiting:
        with pytest.raises(sqlite3.OperationalError):
            desk.answer(one)
    other.close()


def test_who_comes_after_the_end_is_told_so(desk: Desk) -> None:
    """A late call is a failure of the database like others, and to close twice is nothing."""
    desk.state.close()
    desk.state.close()
    with pytest.raises(sqlite3.OperationalError, match="closed"):
        desk.add()


def _garbage(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"this was a database once\n" * 400)


def test_a_file_that_is_no_database_is_set_aside_and_told(desk: Desk) -> None:
    """It is kept for the operator, another is made, and whoever asked gets an answer at once."""
    _garbage(desk.path)
    assert desk.add() == 1
    assert desk.add() == 2
    (why,) = desk.told
    assert f"kept as {desk.path}.damaged, and begun anew" in why
    assert Path(f"{desk.path}.damaged").read_bytes().startswith(b"this was a database")


def test_a_database_that_is_damaged_while_it_is_used_is_begun_anew_for_all(desk: Desk) -> None:
    """Who opens it next finds the damage; who had it open goes on in the new one, and each damaged one is kept."""
    for number in (1, 2):
        assert desk.add() == 1
        with closing(sqlite3.connect(desk.path)) as rows:
            rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # or all of it would be in the file beside it
        with desk.path.open("r+b") as file:
            file.write(b"\xff" * 8192)
        other = Desk(desk.path)
        assert (other.add(), desk.add(), other.add()) == (1, 2, 3)
        other.state.close()
        assert len(other.told) == 1 and desk.told == []
        assert len([path for path in desk.path.parent.glob("*.damaged*") if "-" not in path.name]) == number
        assert desk.answer(desk.state.run(lambda rows: rows.execute("DELETE FROM counts").rowcount)) == 1


def test_two_workers_set_a_damaged_file_aside_once(tmp_path: Path) -> None:
    """The second finds a new database in its place, and counts on in it."""
    desks = [Desk(tmp_path / "state" / "counts.sqlite") for _ in range(2)]
    _garbage(desks[0].path)
    waiting = [desk.state.run(_add) for desk in desks]
    assert sorted(desk.answer(one) for desk, one in zip(desks, waiting, strict=True)) == [1, 2]
    for desk in desks:
        desk.drain()
        desk.state.close()
    assert len(desks[0].told + desks[1].told) == 1
    assert len(list((tmp_path / "state").glob("*.damaged*"))) == 1


@pytest.mark.parametrize("take", [Path.unlink, lambda path: shutil.rmtree(path.parent)], ids=["file", "folder"])
def test_a_file_that_was_taken_away_is_made_anew(tmp_path: Path, take: Callable[[Path], None]) -> None:
    """Deleted under two workers: both go on with the same new file, not each with its own ghost."""
    one, other = (Desk(tmp_path / "state" / "counts.sqlite") for _ in range(2))
    assert (one.add(), other.add()) == (1, 2)
    take(one.path)
    assert (one.add(), other.add(), one.add()) == (1, 2, 3)
    one.state.close()
    assert other.add() == 4
    other.state.close()
    assert one.told == other.told == []


def test_a_folder_that_cannot_be_made_is_told_once_and_heals(desk: Desk) -> None:
    """What is in the way is said as a failure of the database; when it is gone, work is done."""
    desk.path.parent.write_bytes(b"in the way")
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError):
            desk.add()
    assert len(desk.told) == 1 and str(desk.path.parent) in desk.told[0]
    desk.path.parent.unlink()
    assert desk.add() == 1


def test_a_full_disk_is_told_and_heals(desk: Desk) -> None:
    """SQLITE_FULL undoes the work; with room again the counts are what they were."""

    def burst(connection: sqlite3.Connection) -> None:
        _add(connection)
        connection.execute("PRAGMA max_page_count = 3")
        connection.execute("INSERT INTO counts VALUES (?, 1)", ("x" * 100_000,))

    assert desk.add() == 1
    with pytest.raises(sqlite3.OperationalError, match="full"):
        desk.answer(desk.state.run(burst))
    assert desk.add() == 2
    assert len(desk.told) == 1 and "full" in desk.told[0]


def test_a_read_only_database_is_told_and_heals() -> None:
    """Once it may be written again it is, without a restart."""
    folder = Path(tempfile.mkdtemp())
    desk = Desk(folder / "state" / "counts.sqlite")
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        assert desk.add() == 1
        desk.state.close()
        again = Desk(desk.path)
        for path in (desk.path, desk.path.parent):
            path.chmod(0o500)
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError):
                again.add()
        for path in (desk.path.parent, desk.path):
            path.chmod(0o700)
        assert again.add() == 2
        again.state.close()
        assert len(again.told) == 1
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)
