"""What the user may read and write whom the daemon becomes."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from relaymta.config.privileges import is_public, may_read, may_run, may_write, to_let_in

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory of root's that everybody may pass through; pytest's own is closed."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        os.chmod(made, 0o755)
        yield Path(made)


def write(path: Path, mode: int, group: int = 0) -> str:
    """A file of root's with that mode and group."""
    path.write_text("x\n")
    os.chown(path, -1, group)
    path.chmod(mode)
    return str(path)


@root
def test_whether_another_user_may_read_a_file(folder: Path) -> None:
    """A file that root can read is of no use to a daemon that becomes somebody else."""
    path = folder / "secret"
    assert may_read(write(path, 0o644), "nobody")
    assert not may_read(write(path, 0o600), "nobody") and may_read(str(path), "root")
    assert may_read(write(path, 0o640, pwd.getpwnam("nobody").pw_gid), "nobody")
    folder.chmod(0o700)
    assert not may_read(str(path), "nobody")


@root
def test_whether_another_user_may_make_files_in_a_folder(folder: Path) -> None:
    """Both to write and to pass through are needed."""
    assert not may_write(str(folder), "nobody") and may_write(str(folder), "root")
    folder.chmod(0o757)
    assert may_write(str(folder), "nobody")
    folder.chmod(0o756)
    assert not may_write(str(folder), "nobody")


@root
def test_whether_another_user_may_run_a_program(folder: Path) -> None:
    """A link to a program in a closed directory, as one user's own Python is, is none that others may run."""
    program, link = folder / "closed" / "program", folder / "link"
    program.parent.mkdir()
    write(program, 0o755)
    link.symlink_to(program)
    assert may_run(str(link), "nobody")
    program.parent.chmod(0o700)
    assert not may_run(str(link), "nobody") and may_run(str(link), "root")


def test_what_cannot_be_asked_is_not_held_against_a_file() -> None:
    """No such user, no such file, nobody to become: who reads it will say so."""
    assert may_read("/etc/shadow", "no-such-user") and may_write("/etc", "no-such-user")
    assert may_read("/nowhere/secret", "nobody") and not is_public("/nowhere/secret")
    assert may_read("/etc/shadow", "")


@root
def test_who_asks_is_root_again(folder: Path) -> None:
    """Whatever the answer was: users and groups are as they were."""
    program = """
import os
os.setgroups([0, 4711])
from relaymta.config.privileges import may_read, may_write
before = os.getresuid(), os.getresgid(), os.getgroups()
may_read("/etc/shadow", "nobody"), may_read("/etc/passwd", "nobody"), may_write("/root", "nobody")
print((os.getresuid(), os.getresgid(), os.getgroups()) == before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "True\n"


@root
def test_a_root_without_its_rights_holds_nothing_against_a_file(folder: Path) -> None:
    """In a container without CAP_SETGID nobody else can be asked, and what can be read is read."""
    path = write(folder / "secret", 0o600)
    program = """
import os, sys
from relaymta.config import privileges
def refused(*arguments): raise PermissionError
os.initgroups = os.setgroups = refused
print(privileges.may_read(sys.argv[1], "nobody"), os.geteuid())
"""
    command = [sys.executable, "-c", program, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "True 0\n"


def test_the_advice_is_the_commands_to_type() -> None:
    """The group is the user's own; where nobody knows the user, that of the same name."""
    assert to_let_in("root", "/etc/relaymta/key") == "chgrp root /etc/relaymta/key; chmod 640 /etc/relaymta/key"
    assert to_let_in("no-such-user", "/k") == "chgrp no-such-user /k; chmod 640 /k"
