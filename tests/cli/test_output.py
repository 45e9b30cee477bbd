"""Printing for people and for programs."""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Iterator

import pytest

from relaymta.cli.output import PAGE, Column, age, amount, clean, print_json, print_lines, print_table

COLUMNS = [Column("NAME"), Column("COUNT", right=True)]


class Terminal(io.StringIO):
    """A terminal that remembers how much it had been shown at each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.flushes: list[int] = []

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        self.flushes.append(len(self.getvalue()))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3720, "1h02m"), (90000, "1d1h"), (-90, "-1m")],
)
def test_an_age_is_two_units_at_most(seconds: float, text: str) -> None:
    """What a person reads at a glance."""
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("octets", "text"), [(0, "0 B"), (812, "812 B"), (4096, "4.1 kB"), (25e6, "25 MB"), (1e15, "1000 TB")]
)
def test_an_amount_has_three_digits_at_most(octets: float, text: str) -> None:
    """Sizes in thousands."""
    assert amount(octets) == text


def test_what_a_peer_wrote_cannot_steer_a_terminal() -> None:
    """Escape sequences, line ends and direction marks are shown, not obeyed."""
    assert clean("plain ü") == "plain ü"
    assert clean("a\x1b[2J\r\nb\u202ec") == "a\\x1b[2J\\r\\nb\\u202ec"


def test_plain_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody watches, a table is text with a title line."""
    assert print_table(COLUMNS, [["a", "1"], ["long name", "200"]]) == 2
    assert capsys.readouterr().out == "NAME       COUNT\na              1\nlong name    200\n"


def test_an_empty_table_is_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    """No rows is no fault."""
    assert print_table(COLUMNS, []) == 0
    assert capsys.readouterr().out == "NAME  COUNT\n"


def test_a_narrow_terminal_shows_the_last_column_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why a message waits stands last in `queue list`: a terminal wraps it, and nothing cuts it off."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    print_table([Column("ID"), Column("SENDER"), Column("REASON")], [["1", "s" * 70, "the reason at the end"]])
    assert "the reason at the end\n" in terminal.getvalue() and "REASON" in terminal.getvalue()


def test_a_table_on_a_terminal_comes_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long listing starts when its first page is there, and what a peer wrote is no markup."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    seen: list[int] = []

    def rows() -> Iterator[list[str]]:
        for number in range(PAGE * 2 + 1):
            if number == PAGE:
                seen.append(len(terminal.getvalue()))
            yield [f"[red]{number}[/red]", str(number)]

    assert print_table(COLUMNS, rows()) == PAGE * 2 + 1
    assert seen == [0] or seen[0] > 0
    text = terminal.getvalue()
    assert "[red]0[/red]" in text and f"[red]{PAGE * 2}[/red]" in text and text.count("NAME") == 1


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What a program reads line by line."""
    print_json([{"a": "ü\n"}, {"b": 1}])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"a": "ü\n"}, {"b": 1}]


def test_json_holds_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    """C1 controls, DEL and bidirectional marks; nor what a locale without it turns into an escape that JSON lacks."""
    rows = [{"sender": "a\x9b2J\x7f\u202e\u2028\U0001f600\udcff@x.example"}]
    print_json(rows)
    said = capsys.readouterr().out
    assert said.isascii() and said.strip().isprintable() and json.loads(said) == rows[0]


def test_the_first_line_is_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`head` must not wait for a buffer to fill."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    lines = (str(number) for number in itertools.count())
    print_lines(itertools.islice(lines, 1))
    assert terminal.flushes[0] == 2
