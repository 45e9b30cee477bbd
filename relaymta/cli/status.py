"""relaymta stats, trace and version: the daemon looked at."""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from relaymta.cli.daemon import ask
from relaymta.cli.installation import look
from relaymta.cli.output import (
    Column,
    CommandFailedError,
    age,
    amount,
    clean,
    moment,
    print_json,
    print_lines,
    print_table,
)

FACTS = [Column("WHAT"), Column("HOW MANY", right=True)]
LANES = [
    Column("LANE"),
    Column("WAITING", right=True),
    Column("RUNNING", right=True),
    Column("WINDOW", right=True),
    Column("FAILURES", right=True),
    Column("SUSPENDED UNTIL"),
]


def run(arguments: Namespace) -> int:
    """Do one of the commands."""
    if arguments.command == "version":
        return _version(arguments)
    path = look(arguments.config).socket
    return _stats(path, arguments) if arguments.command == "stats" else _trace(path, arguments)


def _version(arguments: Namespace) -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("relaymta")
    except PackageNotFoundError:
        found = "unknown: run from a checkout"
    if arguments.json:
        print_json([{"version": found}])
    else:
        print(f"relaymta {found}")
    return 0


def _stats(path: str, arguments: Namespace) -> int:
    rows = ask(path, "stats")
    if arguments.json:
        print_json(rows)
        return 0
    for row in rows:
        pids = row["pid"] if isinstance(row["pid"], list) else [row["pid"]]
        which = f"process{'es' * (len(pids) != 1)} {', '.join(map(str, pids))}"
        print(f"relaymta {row['version']}, {which}, up {age(row['uptime'])}")
        if row.get("missing"):
            print(f"without {', '.join(row['missing'])}: being started again, ask again")
        print()
        print_table(FACTS, _facts(row))
        lanes = row["lanes"]
        if lanes["fullest"]:
            print()
            print_table(LANES, (_lane(lane) for lane in lanes["fullest"]))
            if lanes["count"] > len(lanes["fullest"]):
                print(f"... and {lanes['count'] - len(lanes['fullest'])} more lanes")
    return 0


def _facts(row: dict[str, Any]) -> Iterator[list[str]]:
    queue = row["queue"]
    for key in ("queued", "waiting", "ready", "held", "active"):
        yield [key, str(queue[key])]
    yield ["in memory", amount(queue["memory"])]
    for key in ("accepted", "adopted", "left", "unreadable"):
        yield [key, str(queue[key])]
    for fate, count in queue["fates"].items():
        yield [f"recipients {fate}", str(count)]
    yield ["ledger difference", str(queue["difference"])]
    yield ["sessions now", str(sum(row.get("sessions", {}).values()))]
    for what, count in row.get("clients", {}).items():
        yield [f"clients {what.replace('_', ' ')}", str(count)]
    for file, facts in row.get("certificates", {}).items():
        yield [f"days left to {clean(file)}", str(facts["days_left"])]


def _lane(lane: dict[str, Any]) -> list[str]:
    until = moment(lane["until"]) if lane["until"] else ""
    waiting = lane["fresh"] + lane["tickets"]
    return [lane["lane"], *(str(one) for one in (waiting, lane["running"], lane["window"], lane["failures"])), until]


def _trace(path: str, arguments: Namespace) -> int:
    rows = ask(path, "trace", {"id": arguments.id})
    found = itertools.count()
    counted = (row for row in rows if next(found) >= 0)
    if arguments.json:
        print_json(counted)
    else:
        print_lines(map(_event, counted))
    if not next(found):
        raise CommandFailedError(
            f"nothing is remembered of {clean(arguments.id)} since the start or the last reload;"
            " older events are in the log, and what waits in `queue show`"
        )
    return 0


def _event(row: dict[str, Any]) -> str:
    facts = [f"{key}={clean(str(value))}" for key, value in row.items() if key not in ("time", "event") and value != ""]
    return f"{moment(row['time'])} {row['event']}  {' '.join(facts)}"
