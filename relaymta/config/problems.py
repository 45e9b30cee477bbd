"""What is said when a configuration is wrong: where, which key, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from attrs import frozen


@frozen(slots=True)
class Problem:
    """One thing wrong with a configuration: `line` from 1 (0: the whole file), `key` dotted."""

    file: str
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


class ConfigError(Exception):
    """A configuration that cannot be used; `problems` holds all that is wrong, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def suggestion(word: str, known: Iterable[str]) -> str:
    """A clause that names what was probably meant, or "" (str, starts with "; ")."""
    choices = list(known)
    close = difflib.get_close_matches(word.lower().replace("-", "_"), choices, n=1, cutoff=0.6)
    if not close:
        close = difflib.get_close_matches(word.lower(), choices, n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def described(value: object) -> str:
    """What a TOML value is, in words, for a message that wanted something else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f'the string "{value}"'
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return f"the date {value}"
