"""relaymta(1): the command line, and what it says when it cannot."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from relaymta.cli.installation import DEFAULT, ENVIRONMENT, QUICKSTART, connectable, find_file, look
from relaymta.cli.main import MODULES, main, parser
from relaymta.cli.output import CommandFailedError
from relaymta.cli.queue import chosen

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose daemon is down."""
    path = tmp_path / "relaymta.toml"
    path.write_text(
        f'hostname = "host.example"\nuser = ""\nspool = "{tmp_path}/spool"\nephemeral_spool = true\n'
        f'[admin]\nsocket = "{tmp_path}/control"\n'
    )
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["queue", "list"],
        ["queue", "show", "Q"],
        ["queue", "retry", "--all"],
        ["stats"],
        ["trace", "Q"],
        ["reload"],
        ["stop"],
    ],
)
def test_a_daemon_that_is_down_is_one_clear_line(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Exit 1, and the line says where nobody answered."""
    assert main(["-c", str(config), *words]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"relaymta: relaymta is not running (no answer at {config.parent}/control)\n"
    assert captured.out == ""


@pytest.mark.skipif(os.getuid() == 0, reason="root may connect to everything")
def test_a_socket_that_is_not_ours_says_who_may(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No right is not the same as no daemon."""
    import socket

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(config.parent / "control"))
        os.chmod(config.parent / "control", 0)
        assert main(["-c", str(config), "stats"]) == 1
    assert "you may not use" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["queue"],
        ["queue", "nonsense"],
        ["trace"],
        ["send"],
        ["queue", "list", "--older", "4"],
        ["stats", "-x"],
    ],
)
def test_wrong_usage_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With the usage on standard error."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2 and "usage: relaymta" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["retry", "hold", "release", "delete"])
def test_a_command_that_changes_mail_wants_to_know_which(
    config: Path, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    """No filter is wrong usage, before anybody is asked."""
    assert main(["-c", str(config), "queue", action]) == 2
    assert capsys.readouterr().err == f"relaymta: {action} which messages? Name ids, a filter, or --all\n"


def test_options_may_stand_before_and_behind_the_command(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was said before the command is not undone by its defaults."""
    for words in (["-c", str(config), "--json", "config"], ["config", "-c", str(config), "--json"]):
        assert main(words) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {"key": "hostname", "value": '"host.example"', "origin": f"{config}:1"} in rows


def test_a_time_without_a_unit_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """As in the configuration."""
    with pytest.raises(SystemExit):
        main(["queue", "list", "--older", "4"])
    assert 'write "4s" for seconds or "4m" for minutes' in capsys.readouterr().err


def test_filters_are_passed_as_they_are_given() -> None:
    """Each flag is an argument of the daemon's command, and what is not given is not said."""
    words = ["queue", "hold", "Q1", "--id", "Q2", "--sender", "<>", "--domain", "x.example", "--lane", "l", "--held",
             "--older", "4h", "--younger", "5d", "--recipient", "r@x.example"]  # fmt: skip
    assert chosen(parser().parse_args(words)) == {
        "ids": ["Q1", "Q2"], "sender": "<>", "domain": "x.example", "lane": "l", "held": True,
        "older": 14400.0, "younger": 432000.0, "recipient": "r@x.example",
    }  # fmt: skip
    assert chosen(parser().parse_args(["queue", "list"])) == {}


def test_check_says_everything_at_once(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each problem with file and line, how many there are, and exit 1."""
    config.write_text(config.read_text() + 'sockt = "x"\n[queue]\nretry = "5m"\n')
    assert main(["check", "-c", str(config)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f'{config}:7: admin.sockt: there is no such key here; did you mean "socket"?',
        f'{config}:9: queue.retry: a list is wanted, not the string "5m"; write ["5m"]',
        f"relaymta: 2 problems in {config}",
    ]


def test_check_for_programs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as rows."""
    config.write_text("nonsense = 1\n" + config.read_text())
    assert main(["check", "-c", str(config), "--json"]) == 1
    [row] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["file"], row["line"], row["key"], row["severity"]) == (str(config), 1, "nonsense", "error")


def test_check_of_a_good_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0 and a friendly word."""
    assert main(["check", "-c", str(config)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{config} is right\n" and captured.err == ""


def test_check_warns_and_still_says_yes(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What will be regretted is said with its line, and is no reason not to start."""
    config.write_text(config.read_text().replace("host.example", "host"))
    assert main(["check", "-c", str(config)]) == 0
    assert capsys.readouterr().err.startswith(f'warning: {config}:1: hostname: "host" is not a fully qualified name')


def test_check_says_where_a_warning_is_about(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning about one of several tables names it and its line."""
    text = config.read_text()
    table = '[[tls_exception]]\nhost = "mx.test"\ntls = "encrypt"\nreason = "why"\nuntil = 2020-01-31\n'
    config.write_text(f"{text}\n{table}")
    assert main(["check", "-c", str(config)]) == 0
    line = len(text.splitlines()) + 6
    told = f"warning: {config}:{line}: tls_exception[1].until: the exception for mx.test ended on 2020-01-31"
    assert told in capsys.readouterr().err


def test_check_says_what_this_machine_lacks(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A group that is not there is a problem with its line."""
    config.write_text(config.read_text() + 'group = "no-such-group"\n')
    assert main(["check", "-c", str(config)]) == 1
    assert f'{config}:7: admin.group: there is no group "no-such-group"' in capsys.readouterr().err


def test_a_configuration_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said, and exit 1."""
    assert main(["check", "-c", str(tmp_path / "none")]) == 1
    assert "cannot be read: No such file or directory" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """One line."""
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("relaymta ")


def test_asking_the_daemon_starts_without_twisted_or_cattrs(config: Path) -> None:
    """An operator's question takes no longer than starting Python."""
    source = "import sys; from relaymta.cli.main import main; main(['-c', sys.argv[1], 'stats']); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", source, str(config)], capture_output=True, text=True, timeout=30)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert loaded & {"twisted", "cattrs", "rich", "cryptography"} == set() and "relaymta" in loaded


def test_the_configuration_is_looked_for_in_its_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """-c, the environment, the system's, and in a checkout the quick start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    if not os.path.exists(DEFAULT):
        assert find_file() == DEFAULT
        (tmp_path / "etc" / "relaymta").mkdir(parents=True)
        (tmp_path / QUICKSTART).write_text("")
        assert find_file() == DEFAULT  # root in a folder of somebody's did what a file there said
        monkeypatch.setattr("relaymta.cli.installation.CHECKOUT", str(tmp_path))
        assert find_file() == QUICKSTART
    monkeypatch.setenv(ENVIRONMENT, "elsewhere")
    assert find_file() == "elsewhere" and find_file("named") == "named"


def test_places_are_found_in_a_file_that_is_being_edited(tmp_path: Path) -> None:
    """A slip in one table does not keep an operator from asking the daemon."""
    path = tmp_path / "x.toml"
    path.write_text('nonsense = 1\nspool = 7\nlistener = "x"\n[admin]\nsocket = "/s"\n')
    found = look(str(path))
    assert (found.socket, found.spool, found.listeners) == ("/s", "/var/spool/relaymta", ("0.0.0.0:25",))
    assert found.message_max == 25_000_000
    path.write_text("not toml")
    assert look(str(path)).socket == look(str(tmp_path / "none")).socket == "/run/relaymta/control.sock"
    assert look(str(path)).message_max == 0  # the daemon knows better


def test_programs_hand_mail_to_a_listener_that_takes_it_as_it_is(tmp_path: Path) -> None:
    """`send` and `sendmail -bs` cannot log in, begin with TLS, speak LMTP or write a PROXY header."""
    path = tmp_path / "x.toml"
    lines = ('profile = "submission"', 'profile = "lmtp"', 'tls = "required"', 'tls = "implicit"', 'auth = "required"',
             'proxy = ["127.0.0.1/32"]', 'tls = "starttls"', 'auth = "optional"', "")  # fmt: skip
    path.write_text("".join(f'[[listener]]\naddress = "127.0.0.1:{n}"\n{line}\n' for n, line in enumerate(lines)))
    assert look(str(path)).listeners == ("127.0.0.1:6", "127.0.0.1:7", "127.0.0.1:8")
    path.write_text('[[listener]]\naddress = "127.0.0.1:587"\nprofile = "submission"\n')
    assert look(str(path)).listeners == ()


def test_defaults_of_places_are_those_of_the_settings() -> None:
    """What is said twice is the same."""
    from relaymta.settings import SOCKET, SPOOL, Settings

    found = look("/nonexistent")
    assert (found.socket, found.spool) == (SOCKET, SPOOL)
    settings = Settings(hostname="x.example")
    assert found.drop == settings.drop and found.listeners[0] == str(settings.listeners[0].address)


def test_where_to_connect_to_reach_a_listener() -> None:
    """A wildcard is reached by loopback."""
    assert connectable("0.0.0.0:25") == ("127.0.0.1", 25) and connectable("[::]:25") == ("::1", 25)
    assert connectable("[2001:db8::1]:587") == ("2001:db8::1", 587) and connectable("unix:/x") == "/x"
    for wrong in ("nothing", "host:port", ":25"):
        with pytest.raises(ValueError):
            connectable(wrong)


def test_every_command_has_a_module() -> None:
    """A command of the parser is run by somebody."""
    [commands] = [action.choices for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert set(commands) == set(MODULES)


def test_an_error_holds_nothing_that_a_terminal_obeys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the daemon says may quote a peer; its lines stay lines."""

    def run(_: object) -> int:
        raise CommandFailedError("first\x1b[2J\nsecond\x9b\u202e")

    monkeypatch.setattr("relaymta.cli.status.run", run)
    assert main(["version"]) == 1
    assert capsys.readouterr().err == "relaymta: first\\x1b[2J\nsecond\\x9b\\u202e\n"
