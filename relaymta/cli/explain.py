"""relaymta explain: the way that a message to an address would take, asked of the daemon or found without it."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relaymta.cli.daemon import NotRunningError, ask
from relaymta.cli.installation import look
from relaymta.cli.output import CommandFailedError, clean, print_json, print_lines
from relaymta.config import ConfigError

MARKS = {"ok": "ok", "waits": "wait", "fails": "no", "info": ""}
QUESTION = ("address", "client", "login", "sender", "probe")
RECORD = "record"  # the row behind the steps that carries what was answered
PROBE = "probe"  # the step that may carry a certificate

Row = dict[str, Any]


def run(arguments: Namespace) -> int:
    """Explain; the exit status is 1 where the message would be refused or returned."""
    asked = {key: getattr(arguments, key) for key in QUESTION if getattr(arguments, key)}
    if arguments.record:
        asked["record"] = True
    rows = _offline(arguments, asked) if arguments.offline else _asked(arguments, asked)
    steps = [row for row in rows if row["step"] != RECORD]
    if arguments.record:
        _keep(arguments.record, [row for row in rows if row["step"] == RECORD])
    if arguments.json:
        print_json(steps)
    else:
        print_lines(_lines(steps))
    return 1 if steps and steps[-1]["result"] == "fails" else 0


def _asked(arguments: Namespace, asked: Row) -> list[Row]:
    try:
        return list(ask(look(arguments.config).socket, "explain", asked))
    except NotRunningError:
        pass
    from relaymta.explanation.alone import explain

    return _alone(explain, arguments.config, asked)


def _offline(arguments: Namespace, asked: Row) -> list[Row]:
    if arguments.probe or arguments.record:
        raise CommandFailedError("--offline goes with neither --probe nor --record: it calls nobody")
    from relaymta.explanation.alone import explain_offline

    try:
        recorded = Path(arguments.offline).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailedError(f"{arguments.offline} cannot be read: {error}") from None
    try:
        return _alone(explain_offline, arguments.config, recorded, asked)
    except ValueError as error:
        raise CommandFailedError(f"{arguments.offline} {error}") from None


def _alone(explain: Any, *given: Any) -> list[Row]:
    from relaymta.explanation.question import QuestionError

    try:
        rows: list[Row] = explain(*given)
        return rows
    except ConfigError as error:
        raise CommandFailedError(str(error)) from None
    except QuestionError as error:
        raise CommandFailedError(str(error)) from None


def _keep(file: str, rows: list[Row]) -> None:
    if not rows:
        raise CommandFailedError("nothing was answered that could be recorded")
    kept = {key: value for key, value in rows[0].items() if key != "step"}
    try:
        Path(file).write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n")
    except OSError as error:
        raise CommandFailedError(f"{file} cannot be written: {error.strerror}") from None


def _lines(steps: list[Row]) -> Iterator[str]:
    width = max((len(row["step"]) for row in steps), default=0)
    for number, row in enumerate(steps, 1):
        mark = MARKS.get(row["result"], row["result"])
        yield f"{number:2}. {row['step']:{width}}  {mark:4}  {clean(str(row['text']))}"
        for line in row.get("details", ()):
            yield f"    {'':{width}}        {clean(str(line))}"
        certificate = row.get("certificate")
        if certificate and row["step"] == PROBE:
            yield f"    {'':{width}}        certificate {clean(_certificate(certificate))}"


def _certificate(facts: Row) -> str:
    names = ", ".join(facts["names"]) or facts["subject"]
    return f"for {names}, by {facts['issuer']}, until {facts['not_after']}"
