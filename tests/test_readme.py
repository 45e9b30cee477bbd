"""README and guides tell the truth: their configurations are right, and their commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relaymta.cli.main import parser
from relaymta.settings import doubts, load_settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "submission.md").read_text()
TOML, TYPED = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL), r"^    \S*relaymta (?!-c )([a-z].+)$"
PARTS = TOML.findall(GUIDE)
EXAMPLES = [*TOML.findall(README), PARTS[0], "".join(PARTS)]
COMMANDS = re.findall(TYPED, README + GUIDE, re.MULTILINE)
NAMES = ["null client", "inbound gateway", "internal relay", "submission", "guide", "guide, all of it"]


@pytest.mark.parametrize("text", EXAMPLES, ids=NAMES)
def test_each_configuration_is_accepted_as_it_stands(text: str, tmp_path: Path) -> None:
    """An example that is copied into a file has no problem, contradiction or unknown key in it."""
    file = tmp_path / "relaymta.toml"
    file.write_text(text)
    loaded = load_settings(str(file))
    here = ("hostname", "queue.min_free", "users.file")  # what this machine lacks, and not the example
    assert [one for one in doubts(loaded.settings) if one[0] not in here] == []


@pytest.mark.parametrize("words", COMMANDS)
def test_each_command_is_one_that_exists(words: str) -> None:
    """What the README tells people to type is understood by the command line."""
    parser().parse_args(words.split())


def test_there_are_commands_and_examples_to_look_at() -> None:
    """The patterns above still find what they are about."""
    assert len(EXAMPLES) == 6
    assert "sink" in COMMANDS and "quota list" in COMMANDS
