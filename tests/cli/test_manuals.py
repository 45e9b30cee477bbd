"""The manual pages: well formed, and complete."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from relaymta.cli.main import parser
from relaymta.cli.sendmail import OPTIONS
from relaymta.config.loader import loads
from relaymta.directory.settings import UserSettings
from relaymta.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
MAN = ROOT / "man"
PAGES = sorted(MAN.iterdir())

SAMPLE = """
hostname = "relay.example.org"
[[listener]]
name = "mx"
address = "0.0.0.0:25"
[[route]]
to = "mx"
recipient = "*"
[[source]]
name = "pool-a"
addresses = ["192.0.2.1"]
[[lane]]
match = "*"
[[certificate]]
certificate = "cert.pem"
[[tls_exception]]
domain = "example.net"
tls = "encrypt"
reason = "a reason"
until = 2027-01-31
"""
REQUIRED = {"hostname", "route.to", "route.recipient", "source.name", "source.addresses", "lane.match"}
REQUIRED |= {"listener.address", "lane.concurrency", "certificate.certificate"}
REQUIRED |= {"tls_exception.domain", "tls_exception.tls", "tls_exception.reason", "tls_exception.until"}


def plain(path: Path) -> str:
    """A page's text without the escapes that we use."""
    return path.read_text().replace("\\-", "-").replace("\\(dq", '"').replace("\\fB", "").replace("\\fR", "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_well_formed(page: Path) -> None:
    """groff has no complaint with all its warnings on."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed (apt-get install groff-base)")
    run = subprocess.run(["groff", "-ww", "-man", "-Tutf8", page], capture_output=True, text=True, timeout=30)
    assert (
        run.returncode == 0 and run.stderr == "" and "NAME" in run.stdout.replace("\b", "").replace("NN", "N") + "NAME"
    )


def sections() -> dict[str, str]:
    """The tables of relaymta.toml(5) by name, "" for the top of the file, each with its text."""
    text = plain(MAN / "relaymta.toml.5")
    parts = re.split(r"^\.SH (.*)$", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    names = {'"THE TOP OF THE FILE"': ""}
    return {names.get(name, name.strip("[]")): body for name, body in found.items()}


def keys() -> Iterator[tuple[str, str, str]]:
    """Table, key and default of everything that can be configured."""
    from relaymta.settings import _read_workers

    loaded = loads(SAMPLE, "sample", Settings, readers={int | str: _read_workers})
    for row in loaded.rows():
        table, _, key = re.sub(r"\[\d+\]", "", row.key).rpartition(".")
        yield table, key, row.value


@pytest.mark.parametrize(("table", "key", "default"), list(keys()))
def test_every_key_stands_in_the_manual_with_its_default(table: str, key: str, default: str) -> None:
    """What can be configured is documented, and the default there is the default here."""
    section = sections()[table]
    if f"{table}.{key}".strip(".") in REQUIRED:
        assert re.search(rf"^\.B {key}( = .*)?$", section, re.MULTILINE)
    else:
        assert f"\n.B {key} = {default}\n" in section


def test_every_key_of_the_manual_exists() -> None:
    """Nothing is documented that is not there."""
    known = {(table, key) for table, key, _ in keys()}
    for table, text in sections().items():
        if table in {one for one, _ in known}:
            for key in re.findall(r"^\.B (\w+)(?: = .*)?$", text, re.MULTILINE):
                assert (table, key) in known, f"{table}.{key}"


def test_every_example_of_the_manual_is_toml() -> None:
    """An example that is copied is read."""
    examples = re.findall(r"^\.nf\n(.*?)^\.fi$", plain(MAN / "relaymta.toml.5"), re.MULTILINE | re.DOTALL)
    assert len(examples) >= len(list(keys()))
    for example in examples:
        for line in example.splitlines():
            assert tomllib.loads(line)


def test_the_commented_lines_of_the_shipped_file_are_the_defaults(tmp_path: Path) -> None:
    """Taking a "#" away before a key changes nothing: each shows what is in force without it."""
    shipped = (ROOT / "etc" / "relaymta" / "relaymta.toml").read_text()
    opened = re.sub(r"^#(?=\w+ = )", "", shipped, flags=re.MULTILINE)
    assert opened != shipped
    path = tmp_path / "relaymta.toml"
    path.write_text(opened)
    made = load_settings(str(path)).settings
    path.write_text(shipped)
    default = load_settings(str(path)).settings
    samples = {"hostname", "postmaster", "dns"}  # shown by example, since their default is not a value
    for one in attrs.fields(Settings):
        if one.name not in samples:
            assert getattr(made, one.name) == getattr(default, one.name), one.name


def test_the_examples_of_the_shipped_file_are_right(tmp_path: Path) -> None:
    """The commented tables work as they stand."""
    shipped = (ROOT / "etc" / "relaymta" / "relaymta.toml").read_text()
    opened = re.sub(r"^# (?=\[|\w+ = )", "", shipped, flags=re.MULTILINE)
    path = tmp_path / "relaymta.toml"
    path.write_text(opened)
    made = load_settings(str(path)).settings
    assert len(made.routes) == 2 and len(made.lanes) == 1 and len(made.certificates) == 1
    assert made.users == UserSettings(file="/etc/relaymta/users")


def commands(top: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option of the command line, those of subcommands included."""
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from commands(below)
        else:
            yield action


def test_every_option_of_relaymta_stands_in_its_manual() -> None:
    """relaymta(1) knows all commands and options, but --help."""
    text = plain(MAN / "relaymta.1")
    for action in commands(parser()):
        for option in action.option_strings:
            if option not in ("-h", "--help"):
                assert option in text, option
    [top] = [one for one in parser()._actions if isinstance(one, argparse._SubParsersAction)]
    for command in top.choices:
        assert re.search(rf"^\.BI? \"?{command}\b", text, re.MULTILINE), command


def test_every_option_of_sendmail_stands_in_its_manual() -> None:
    """sendmail(1) knows every letter that we take."""
    text = plain(MAN / "sendmail.1")
    for letter in OPTIONS.replace(":", "") + "qd":
        assert re.search(rf"-{letter}(\b|[a-z])", text), letter
