"""The README tells the truth: its configurations are right, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relaymta.cli.main import parser
from relaymta.settings import load_settings

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^    \S*relaymta (?!-c FILE)(.+)$", README, re.MULTILINE)


@pytest.mark.parametrize("text", EXAMPLES, ids=["null client", "inbound gateway", "internal relay"])
def test_each_configuration_is_accepted_as_it_stands(text: str, tmp_path: Path) -> None:
    """An example that is copied into a file has no problem, contradiction or unknown key in it."""
    file = tmp_path / "relaymta.toml"
    file.write_text(text)
    load_settings(str(file))


@pytest.mark.parametrize("words", COMMANDS)
def test_each_command_is_one_that_exists(words: str) -> None:
    """What the README tells people to type is understood by the command line."""
    parser().parse_args(words.split())


def test_there_are_commands_and_examples_to_look_at() -> None:
    """The patterns above still find what they are about."""
    assert len(EXAMPLES) == 3
    assert "sink" in COMMANDS
