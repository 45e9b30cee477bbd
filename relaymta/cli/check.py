"""relaymta check and config: the configuration read as the daemon reads it, without the daemon."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator

import attrs

from relaymta.cli.output import Column, clean, print_json, print_table
from relaymta.config import ConfigError, Problem
from relaymta.config.loader import Loaded
from relaymta.settings import Settings, doubts, load_settings, refusals

COLUMNS = [Column("KEY"), Column("VALUE"), Column("FROM")]


def run(arguments: Namespace) -> int:
    """Do one of the commands."""
    try:
        loaded = load_settings(arguments.config)
    except ConfigError as error:
        return _complain(arguments, error.problems)
    if arguments.command == "config":
        return _config(arguments, loaded)
    return _check(arguments, loaded)


def _check(arguments: Namespace, loaded: Loaded[Settings]) -> int:
    problems = tuple(placed(loaded, refusals(loaded.settings)))
    if problems:
        return _complain(arguments, problems)
    warnings = tuple(placed(loaded, doubts(loaded.settings)))
    if arguments.json:
        print_json([{**attrs.asdict(one), "severity": "warning"} for one in warnings])
        return 0
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{arguments.config} is right")
    return 0


def placed(loaded: Loaded[Settings], said: Iterator[tuple[str, str]]) -> Iterator[Problem]:
    """Sentences about keys, with the line of each key where it stands in the file."""
    for key, text in said:
        yield loaded.problem(key, text)


def _complain(arguments: Namespace, problems: tuple[Problem, ...]) -> int:
    if arguments.json:
        print_json([{**attrs.asdict(one), "severity": "error"} for one in problems])
        return 1
    for problem in problems:
        print(clean(str(problem)), file=sys.stderr)
    count = len(problems)
    print(f"relaymta: {count} problem{'s' * (count != 1)} in {arguments.config}", file=sys.stderr)
    return 1


def _config(arguments: Namespace, loaded: Loaded[Settings]) -> int:
    rows = loaded.rows()
    if arguments.json:
        print_json(attrs.asdict(row) for row in rows)
    else:
        print_table(COLUMNS, ((row.key, clean(row.value), row.origin) for row in rows))
    return 0
