"""Printing: tables for people, rows of JSON for programs; a reader that goes away early is no fault.

On a terminal tables are rich's, in pages, so that a long listing starts at once; elsewhere plain columns.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from attrs import frozen

PAGE = 200  # rows whose widths are looked at before a table starts
FLUSH_SECONDS = 0.1


class CommandFailedError(Exception):
    """A command could not do what was asked; the text is the one line that says why."""


@frozen(slots=True)
class Column:
    """One column of a table: its title, and `right` for numbers."""

    title: str
    right: bool = False


def print_json(rows: Iterable[Any]) -> None:
    """One JSON object a line, as they come; in ASCII, for the terminal's sake as well as for a locale's."""
    print_lines(json.dumps(row) for row in rows)


def print_lines(lines: Iterable[str]) -> None:
    """Lines as they come: the first ones at once, then what comes within a moment together."""
    write, flush = sys.stdout.write, sys.stdout.flush
    flushed = 0.0
    for line in lines:
        write(line + "\n")
        now = time.monotonic()
        if now - flushed > FLUSH_SECONDS:
            flush()
            flushed = now
    flush()


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> int:
    """A table; the result is how many rows it had."""
    coming = iter(rows)
    first = list(itertools.islice(coming, PAGE))
    widths = [max(len(column.title), *(len(row[i]) for row in first), 0) for i, column in enumerate(columns)]
    if sys.stdout.isatty():
        return _print_rich(columns, widths, first, coming)
    count = itertools.count()
    print_lines(_plain(columns, widths, itertools.chain(first, coming), count))
    return next(count)


def _plain(
    columns: Sequence[Column], widths: list[int], rows: Iterable[Sequence[str]], count: Iterator[int]
) -> Iterator[str]:
    yield _line(columns, widths, [column.title for column in columns])
    for row in rows:
        next(count)
        yield _line(columns, widths, row)


def _line(columns: Sequence[Column], widths: list[int], row: Sequence[str]) -> str:
    cells = [
        cell.rjust(width) if column.right else cell.ljust(width)
        for column, width, cell in zip(columns, widths, row, strict=True)
    ]
    return "  ".join(cells).rstrip()


def _print_rich(
    columns: Sequence[Column], widths: list[int], first: list[Sequence[str]], rest: Iterator[Sequence[str]]
) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # as wide as its columns: a terminal wraps a long line, where rich would cut off the last columns
    wanted = sum(widths) + 2 * (len(widths) - 1)
    console = Console()
    console.width = max(console.width, wanted)
    count, page = 0, first
    while page or not count:
        table = Table(box=None, show_header=not count, header_style="bold", pad_edge=False)
        for column, width in zip(columns, widths, strict=True):
            table.add_column(column.title, justify="right" if column.right else "left", min_width=width)
        for row in page:
            table.add_row(*(Text(cell) for cell in row))  # Text: what a peer wrote is no markup
        console.print(table)
        count += len(page)
        if not page:
            break
        page = list(itertools.islice(rest, PAGE))
    return count


def clean(text: str) -> str:
    """What came from the network, fit for a terminal: whatever is not printable is shown as escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def age(seconds: float) -> str:
    """A time span for people: "42s", "7m", "3h12m", "2d4h"; a minus for the past."""
    if seconds < 0:
        return f"-{age(-seconds)}"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def amount(octets: float) -> str:
    """A number of octets for people: "812 B", "4.1 kB", "25 MB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if octets < 1000 or unit == "TB":
            return f"{octets:.3g} {unit}" if octets < 1000 else f"{octets:.0f} {unit}"
        octets /= 1000
    return ""


def moment(at: float) -> str:
    """POSIX time as local time for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
