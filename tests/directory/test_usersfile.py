"""The file of accounts: read whole, changed one line at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relaymta.directory.entry import Entry, parse_line
from relaymta.directory.usersfile import HEADER, Editor, UsersFileError, read_users, stamp_of

HASH = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$" + "A" * 43


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where it is, or will be."""
    return tmp_path / "users"


def put(file: Path, *names: str) -> None:
    """Add accounts."""
    for name in names:
        with Editor(str(file)) as editor:
            editor.put(Entry(name))


def test_a_file_that_is_missing_is_made_private(file: Path) -> None:
    """Mode 0600, and a comment that says whose it is."""
    put(file, "bob")
    assert file.read_text() == HEADER + "bob\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_root_makes_is_the_daemons_to_read(file: Path) -> None:
    """Its owner and group as given, and mode 0640."""
    with Editor(str(file), (0, 4711)) as editor:
        editor.put(Entry("bob"))
    facts = file.stat()
    assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == (0, 4711, 0o640)


def test_a_change_leaves_every_other_line_as_it_was(file: Path) -> None:
    """Comments, empty lines, spacing and order; the name stays where it was."""
    text = f"# ours\n\nann  relay=no   password={HASH}\n  # indented\nbob senders=a.example\ncid disabled=yes\n"
    file.write_text(text)
    with Editor(str(file)) as editor:
        editor.put(Entry("bob", relay=False))
    assert file.read_text() == text.replace("bob senders=a.example", "bob relay=no")
    with Editor(str(file)) as editor:
        editor.remove("bob")
    assert file.read_text() == text.replace("bob senders=a.example\n", "")


@pytest.mark.parametrize("odd", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r", "x\r"])
def test_what_only_python_takes_for_the_end_of_a_line_shifts_no_line(file: Path, odd: str) -> None:
    """A form feed or U+2028 in a comment: another account than the one named was written over, or removed."""
    text = f"# ours{odd}\nann relay=no\nbob relay=no\n"
    file.write_bytes(text.encode())
    put(file, "ann")
    assert file.read_bytes() == text.replace("ann relay=no", "ann").encode()
    with Editor(str(file)) as editor:
        editor.remove("ann")
    assert file.read_bytes() == text.replace("ann relay=no\n", "").encode()


def test_a_last_line_without_its_end_gets_one(file: Path) -> None:
    """As an editor may leave it."""
    file.write_text("ann")
    put(file, "bob")
    assert file.read_text() == "ann\nbob\n"


def test_owner_and_mode_stay(file: Path) -> None:
    """Whoever let the daemon read it meant it; a link stays a link."""
    file.write_text("ann\n")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 4711, 4712)
    link = file.with_name("link")
    link.symlink_to(file)
    put(link, "bob")
    facts = file.stat()
    assert stat.S_IMODE(facts.st_mode) == 0o640
    assert link.is_symlink() and "bob" in read_users(str(file))[0].entries
    if os.geteuid() == 0:
        assert (facts.st_uid, facts.st_gid) == (4711, 4712)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ann\nbob x\n", ":2: every word"),
        ("ann\n\nAnn\n", ":3: ann stands in line 1 too"),
        ("# \xff\n", "is not UTF-8 text"),
    ],
)
def test_what_is_wrong_has_its_line(file: Path, text: str, said: str) -> None:
    """And a file that is wrong is not changed either."""
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsersFileError) as caught:
        read_users(str(file))
    assert str(caught.value).startswith(str(file)) and said in str(caught.value)
    with pytest.raises(UsersFileError):
        put(file, "cid")
    assert file.read_bytes() == text.encode("latin-1")


def test_a_failed_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is said, and the accounts are those from before."""
    put(file, "ann")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsersFileError, match="cannot be written: No space left"):
        put(file, "bob")
    monkeypatch.undo()
    assert list(read_users(str(file))[0].entries) == ["ann"]
    put(file, "bob")  # what the failure left beside it is in nobody's way
    assert sorted(one.name for one in file.parent.iterdir()) == ["users"]


def test_changes_at_the_same_time_wait_for_each_other(file: Path) -> None:
    """Two commands at once: no account is lost, in threads as in processes."""
    script = (
        "import sys; from relaymta.directory.usersfile import Editor; from relaymta.directory.entry import Entry\n"
        "for i in range(5):\n  with Editor(sys.argv[1]) as editor: editor.put(Entry(f'other{i}'))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(file)], cwd=Path(__file__).parents[2]) as other:
        threads = [threading.Thread(target=put, args=(file, f"t{n}", f"u{n}")) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert other.returncode == 0
    assert len(read_users(str(file))[0].entries) == 15


def test_a_change_is_seen_in_the_stamp(file: Path) -> None:
    """Even one within a tick of the clock and of the same length: it is another file."""
    put(file, "ann")
    before = stamp_of(str(file))
    assert read_users(str(file))[1] == before
    with Editor(str(file)) as editor:
        editor.put(Entry("ann"))
    assert stamp_of(str(file)) != before
    assert stamp_of(str(file) + "x") is None


def test_most_accounts_say_what_a_stranger_looks_like(file: Path) -> None:
    """The dummy and the rounds of SCRAM are those that most have; SCRAM is possible where all have keys."""
    keys = "SCRAM-SHA-256$5000:c2FsdA==$" + ":".join(["A" * 43 + "="] * 2)
    file.write_text(f"a password={HASH} scram={keys}\nb password={HASH} scram={keys}\nc\n")
    users = read_users(str(file))[0]
    assert users.dummy.startswith("$argon2id$v=19$m=64,t=1,p=1$") and users.iterations == 5000 and users.has_scram
    file.write_text(f"a password={HASH} scram={keys}\nb password={HASH}\n")
    assert not read_users(str(file))[0].has_scram


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.booleans()), max_size=12),
    st.lists(st.sampled_from(["", "# a comment", "z1 relay=no", "z2  over=hold"]), unique=True),
)
def test_any_order_of_changes_is_what_they_say(
    file: Path, changes: list[tuple[bool, str, bool]], others: list[str]
) -> None:
    """The accounts are those of a plain table; lines that nobody touched are there, in their order."""
    file.write_text("".join(f"{line}\n" for line in others))
    known = {line.split()[0]: parse_line(line) for line in others if line and not line.startswith("#")}
    for adds, name, relay in changes:
        with Editor(str(file)) as editor:
            if adds:
                known[name] = Entry(name, relay=relay)
                editor.put(known[name])
            elif name in known:
                del known[name]
                editor.remove(name)
        assert read_users(str(file))[0].entries == known
    assert [line for line in file.read_text().splitlines() if line in others] == others


def test_accounts_are_found_by_certificate(file: Path) -> None:
    """By each of its names; two accounts may share one."""
    file.write_text("a certificates=x.example,y.example\nb certificates=x.example\n")
    found = read_users(str(file))[0].by_certificate
    assert {key: [entry.name for entry in entries] for key, entries in found.items()} == {
        "x.example": ["a", "b"],
        "y.example": ["a"],
    }
