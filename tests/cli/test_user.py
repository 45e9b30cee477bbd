"""relaymta user: accounts in a file, and passwords that stay out of sight."""

from __future__ import annotations

import getpass
import io
import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from relaymta.cli.main import main
from relaymta.directory.hashes import fits_hash, fits_keys
from relaymta.directory.usersfile import read_users

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a file of accounts that is not there yet."""
    path = tmp_path / "relaymta.toml"
    path.write_text(f'hostname = "host.example"\nuser = ""\n[users]\nfile = "{tmp_path}/users"\n')
    return path


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch):
    """Sets what standard input says."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def user(config: Path, *words: str) -> int:
    """Run one command."""
    return main(["-c", str(config), "user", *words])


def test_an_account_is_added_shown_changed_and_removed(config: Path, typed, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole life of one, without a daemon."""
    typed("pencil\n")
    limits = ["--messages-per-hour", "10", "--recipients-per-day", "0", "--over", "refuse"]
    assert user(config, "add", "Shop", "--sender", "A.example", "--sender", "u@b.example", "--no-relay", *limits) == 0
    assert capsys.readouterr().out == "shop is added: may send as a.example, u@b.example\n"
    entry = read_users(str(config.parent / "users"))[0].entries["shop"]
    assert fits_hash(entry.password, "pencil") and entry.scram and fits_keys(entry.scram, "pencil")
    assert entry.senders == ("a.example", "u@b.example") and not entry.relay
    assert dict(entry.limits) == {"messages_per_hour": 10, "recipients_per_day": 0}

    typed("crayon")
    assert user(config, "passwd", "SHOP") == 0
    changed = read_users(str(config.parent / "users"))[0].entries["shop"]
    assert fits_hash(changed.password, "crayon") and changed.scram != entry.scram
    assert changed.senders == entry.senders and changed.limits == entry.limits
    assert user(config, "show", "shop") == 0
    shown = capsys.readouterr().out
    assert "10 messages per hour, 0 recipients per day" in shown and "nowhere: to relay.domains alone" in shown

    assert user(config, "list") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["shop", "password"]
    assert user(config, "remove", "shop") == 0
    assert user(config, "list", "--json") == 0
    assert capsys.readouterr().out == "shop is removed\n"


def test_who_may_send_as_anybody_is_told_so(config: Path, typed, capsys: pytest.CaptureFixture[str]) -> None:
    """A right that nobody asked for is not given in silence."""
    typed("pencil\n")
    assert user(config, "add", "bob") == 0
    assert capsys.readouterr().out == "bob is added: may send as anybody; limit it with --sender\n"


def test_json_says_everything_but_what_is_secret(config: Path, typed, capsys: pytest.CaptureFixture[str]) -> None:
    """One row an account, of every command."""
    typed("pencil\n")
    digest = "AB:" * 31 + "CD"
    assert user(config, "add", "bob", "--certificate", digest, "--json") == 0
    assert user(config, "show", "bob", "--json") == 0
    assert user(config, "list", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = {
        "name": "bob", "password": True, "scram": True, "senders": [], "relay": True, "limits": {}, "over": None,
        "certificates": ["sha256:" + "ab" * 31 + "cd"], "disabled": False,
    }  # fmt: skip
    assert rows == [expected] * 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "a b"], '"a b": a name has no blanks'),
        (["add", "\x1b[31m"], r'"\x1b[31m": not a name: control characters'),
        (["add", "x", "--sender", "a b"], '"a b": a pattern of senders has no blanks'),
        (["add", "x", "--certificate", "sha256:12"], "64 hexadecimal digits"),
        (["add", "ann"], "ann is there already; `relaymta user passwd`"),
        (["passwd", "nobody"], "there is no nobody in"),
        (["remove", "nobody"], "there is no nobody in"),
        (["show", "nobody"], "there is no nobody in"),
        (["passwd", "ann", "--password-file", "/nonexistent"], "/nonexistent"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    config: Path, typed, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """Exit 1, and the file is as it was."""
    typed("pencil\n")
    file = config.parent / "users"
    file.write_text("ann relay=no\n")
    assert user(config, *words) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("relaymta: ") and said in captured.err and captured.err.count("\n") == 1
    assert file.read_text() == "ann relay=no\n"


@pytest.mark.parametrize("given", ["", "\n", "\u00ad\n", "a\x07b\n"])
def test_an_empty_password_is_none(config: Path, typed, capsys: pytest.CaptureFixture[str], given: str) -> None:
    """Nor is one of which nothing is left (RFC 4013), or that cannot be typed."""
    typed(given)
    assert user(config, "add", "bob") == 1
    assert "password" in capsys.readouterr().err
    assert not (config.parent / "users").exists()


def test_a_password_may_come_from_a_file(config: Path) -> None:
    """Its first line; what follows is the file's own affair."""
    secret = config.parent / "secret"
    secret.write_text("cr\u00e4yon  \nmore\n")
    assert user(config, "add", "bob", "--password-file", str(secret)) == 0
    entry = read_users(str(config.parent / "users"))[0].entries["bob"]
    assert fits_hash(entry.password, "cr\u00e4yon  ")


def test_without_a_password_a_certificate_lets_in(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And without either it is said that only a token does."""
    assert user(config, "add", "bob", "--no-password", "--certificate", "bob.example") == 0
    assert capsys.readouterr().err == ""
    assert user(config, "add", "ann", "--no-password") == 0
    assert "only a token" in capsys.readouterr().err
    assert user(config, "list") == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == ["certificate", "token"]


def test_on_a_terminal_it_is_asked_for_twice_and_not_shown(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that differ change nothing."""
    parent, child = pty.openpty()
    with os.fdopen(child) as terminal, os.fdopen(parent, "rb", 0):
        monkeypatch.setattr(sys, "stdin", terminal)
        for answers, status in ((["pencil", "pencils"], 1), ([""], 1), (["pencil", "pencil"], 0)):
            coming = iter(answers)
            monkeypatch.setattr(getpass, "getpass", lambda prompt, coming=coming: next(coming))
            assert user(config, "add", "bob") == status
            assert next(coming, None) is None


def test_a_configuration_without_a_file_says_what_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the very words."""
    config = tmp_path / "relaymta.toml"
    config.write_text('[users.sql]\nurl = "sqlite:/x"\n')
    assert user(config, "list") == 1
    assert 'write file = "/etc/relaymta/users" in its table [users]' in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_makes_a_file_that_the_daemon_may_read(config: Path, typed) -> None:
    """Its group is that of the daemon's user; nobody else may read it."""
    config.write_text(config.read_text().replace('user = ""', 'user = "nobody"'))
    typed("pencil\n")
    assert user(config, "add", "bob") == 0
    facts = (config.parent / "users").stat()
    assert facts.st_uid == 0 and facts.st_gid != 0 and stat.S_IMODE(facts.st_mode) == 0o640


def test_the_command_itself_takes_a_password_from_a_pipe(config: Path) -> None:
    """As a script would: nothing on the command line, one line on standard input."""
    run = subprocess.run(
        [sys.executable, "-m", "relaymta.cli.main", "-c", str(config), "user", "add", "bob", "--sender", "b.example"],
        input="pencil\n", capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (0, "bob is added: may send as b.example\n", "")
    assert "pencil" not in (config.parent / "users").read_text()
