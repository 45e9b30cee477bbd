"""relaymta explain as a command: without a daemon, from a record, for people and for programs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define

from relaymta.cli.main import main

ROOT = Path(__file__).resolve().parents[2]

CONFIGURATION = """\
hostname = "relay.example.org"
user = ""
[[route]]
recipient = "none.test"
to = "discard"
[[route]]
recipient = "no.test"
to = "error:550 5.1.1 no such user"
[[route]]
recipient = "host.test"
to = "[127.0.0.1]:{port}"
[admin]
socket = "{folder}/control.sock"
"""


@define
class Said:
    """What the command said."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, object]]:
        """Its JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


@define
class Hand:
    """The command with a configuration file."""

    file: Path

    def __call__(self, *words: str) -> Said:
        command = [sys.executable, "-m", "relaymta.cli.main", "explain", "-c", str(self.file), *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
        return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def hand(tmp_path: Path) -> Hand:
    """No daemon runs."""
    file = tmp_path / "relaymta.toml"
    file.write_text(CONFIGURATION.format(folder=tmp_path, port=1))
    return Hand(file)


def test_a_numbered_list_for_people(hand: Hand) -> None:
    """One step a line, with its number, its name, its result and its reason."""
    said = hand("bob@none.test", "--client", "127.0.0.9")
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0].split() == ["1.", "recipient", "ok", "bob@none.test"]
    assert lines[1].startswith(" 2. relay      ok    127.0.0.9 may relay to anywhere")
    assert lines[-1].split(None, 3)[1:] == ["verdict", "ok", "accepted, and thrown away by the route"]


def test_rows_for_programs(hand: Hand) -> None:
    """Stable names, one object a step."""
    said = hand("bob@host.test", "--json")
    assert [row["step"] for row in said.rows] == [
        "recipient", "relay", "rewrite", "route", "account", "source", "host", "tls", "lane", "retry", "verdict",
    ]  # fmt: skip
    assert said.rows[3]["number"] == 3 and said.status == 0
    assert "relaymta is not running" in str(said.rows[8]["text"])


@pytest.mark.parametrize(
    "words",
    [("bob@no.test",), ("nobody",), ("bob@none.test", "--client", "203.0.113.1")],
    ids=["route", "bad", "relay"],
)
def test_mail_that_would_be_refused_is_exit_one(hand: Hand, words: tuple[str, ...]) -> None:
    """The verdict is the exit status; the reason is on standard output with the steps."""
    said = hand(*words)
    assert said.status == 1 and said.err == "" and " verdict " in said.out and " no " in said.out.splitlines()[-1]


def test_a_record_is_kept_and_read(hand: Hand, tmp_path: Path) -> None:
    """--record writes the answers, --offline explains from them."""
    record = tmp_path / "record.json"
    said = hand("bob@host.test", "--record", str(record), "--json")
    assert json.loads(record.read_text())["question"]["address"] == "bob@host.test"
    again = hand("bob@host.test", "--offline", str(record), "--json")
    assert [row for row in again.rows if row["step"] != "retry"] == [row for row in said.rows if row["step"] != "retry"]


@pytest.mark.parametrize(
    ("words", "matter"),
    [
        (("a@b.test", "--offline", "/nowhere/record"), "/nowhere/record cannot be read"),
        (("a@b.test", "--offline", "{file}"), "{file} Expecting value"),
        (("a@b.test", "--offline", "x", "--probe"), "--offline goes with neither"),
        (("a@host.test", "--client", "here"), '"here" is not an IP address'),
        (("a@host.test", "--sender", "x y"), 'sender "x y"'),
    ],
)
def test_what_cannot_be_done_is_one_line(
    hand: Hand, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], matter: str
) -> None:
    """On standard error, with exit 1."""
    file = str(hand.file)
    assert main(["explain", "-c", file, *(word.format(file=file) for word in words)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and matter.format(file=file) in said.err and said.err.count("\n") == 1


def test_a_configuration_that_is_wrong_is_said(hand: Hand, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a daemon the file must be right."""
    hand.file.write_text("nonsense = 1\n")
    assert main(["explain", "-c", str(hand.file), "a@host.test"]) == 1
    assert "nonsense" in capsys.readouterr().err


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Hand]:
    """A server that says what terminals must not see, behind host.test."""
    server = socket.create_server(("127.0.0.1", 0))
    file = tmp_path / "relaymta.toml"
    file.write_text(CONFIGURATION.format(folder=tmp_path, port=server.getsockname()[1]))

    def serve() -> None:
        link, _ = server.accept()
        with link, link.makefile("rb") as stream:
            link.sendall(b"220 hello\r\n")
            for line in stream:
                verb = line.split()[0]
                link.sendall(b"250 \x1b[31mred\r\n" if verb == b"RCPT" else b"250 ok\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    yield Hand(file)
    thread.join(10)
    server.close()


def test_a_probe_without_a_daemon(peer: Hand) -> None:
    """The transcript stands below its step, and what a peer sends cannot steer the terminal."""
    said = peer("bob@host.test", "--probe")
    assert said.status == 0, said
    assert "C: RCPT TO:<bob@host.test>" in said.out and "DATA" not in said.out
    assert "\x1b" not in said.out and "\\x1b[31mred" in said.out
