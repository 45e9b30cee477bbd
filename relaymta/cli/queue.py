"""relaymta queue: what waits, and what is to become of it. The daemon does it; this asks and prints."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from relaymta.cli.daemon import Conversation, ask
from relaymta.cli.installation import look
from relaymta.cli.output import Column, age, amount, clean, moment, print_json, print_lines, print_table

FILTERS = ("sender", "recipient", "domain", "lane", "held", "older", "younger")
DONE = {"retry": "to be attempted now", "hold": "on hold", "release": "released", "delete": "deleted"}
LIST = [
    Column("ID"),
    Column("STATE"),
    Column("AGE", right=True),
    Column("NEXT", right=True),
    Column("SIZE", right=True),
    Column("SENDER"),
    Column("RECIPIENT"),
    Column("REASON"),
]
BRIEF = [Column("ID"), Column("STATE"), Column("AGE", right=True), Column("NEXT", right=True), Column("LANE")]


def run(arguments: Namespace) -> int:
    """Do one action."""
    path = look(arguments.config).socket
    if arguments.action == "list":
        return _list(path, arguments)
    if arguments.action == "show":
        return _show(path, arguments)
    return _change(path, arguments)


def chosen(arguments: Namespace) -> dict[str, Any]:
    """The filter of a command line as the daemon takes it."""
    asked = {key: getattr(arguments, key) for key in FILTERS if getattr(arguments, key) is not None}
    ids = [*arguments.ids, *arguments.more_ids]
    return {**asked, "ids": ids} if ids else asked


def _list(path: str, arguments: Namespace) -> int:
    asked = chosen(arguments)
    if arguments.limit is not None:
        asked["limit"] = arguments.limit
    if arguments.brief:
        asked["brief"] = True
    if arguments.json:
        with Conversation(path) as conversation:
            print_lines(row.decode() for row in conversation.ask("queue.list", asked))
        return 0
    rows = ask(path, "queue.list", asked)
    if arguments.brief:
        count = print_table(BRIEF, (_brief(row) for row in rows))
    else:
        count = print_table(LIST, (_listed(row) for row in rows))
    print("the queue is empty" if not count and not asked else f"{count} message{'s' * (count != 1)}")
    return 0


def _brief(row: dict[str, Any]) -> list[str]:
    now = time.time()
    due = age(row["due"] - now) if row["due"] and row["state"] == "waiting" else ""
    return [row["id"], row["state"], age(now - row["accepted"]), due, row["lane"]]


def _listed(row: dict[str, Any]) -> list[str]:
    recipients = row["recipients"]
    shown = clean(recipients[0]) if recipients else ""
    if len(recipients) > 1:
        shown += f" +{len(recipients) - 1}"
    return [*_brief(row)[:4], amount(row["size"]), clean(row["sender"]), shown, clean(row["reason"])]


def _show(path: str, arguments: Namespace) -> int:
    rows = ask(path, "queue.show", {"ids": arguments.ids})
    if arguments.json:
        print_json(rows)
    else:
        print_lines(line for row in rows for line in _shown(row))
    return 0


def _shown(row: dict[str, Any]) -> Iterator[str]:
    origin = row["origin"]
    yield f"{row['id']}  {row['state']}, {row['attempts']} attempts, {amount(row['size'])}"
    yield f"  accepted   {moment(row['accepted'])} ({age(time.time() - row['accepted'])} ago)"
    if row["due"]:
        yield f"  next       {moment(row['due'])}"
    yield f"  from       {clean(row['sender'])}"
    came = [f"{key} {clean(value)}" for key, value in origin.items() if value]
    yield f"  came by    {', '.join(came) or 'ourselves'}"
    if row["release"]:
        yield f"  release    {moment(row['release'])}"
    if row["requiretls"] or row["tls_optional"]:
        yield f"  tls        {'required all the way' if row['requiretls'] else 'not required'} by the sender"
    if row["lane"]:
        yield f"  lane       {row['lane']}"
    if row["reason"]:
        yield f"  reason     {clean(row['reason'])}"
    for one in row["all_recipients"]:
        said = f": {clean(one['last'])}" if one["last"] else ""
        yield f"  {'to        ' if one['pending'] else 'final     '} {clean(one['address'])}{said}"
    for entry in row["story"]:
        yield f"  {moment(entry['time'])} {_told(entry)}"
    yield ""
    header = row["header"].rstrip("\r\n").replace("\r\n", "\n")  # no splitlines: U+2028 and others end no line of mail
    yield from (clean(line.expandtabs()) for line in header.split("\n"))


def _told(entry: dict[str, Any]) -> str:
    if entry["event"] == "attempted":
        return "; ".join(f"{one['fate']} {clean(one['recipient'])}: {clean(one['text'])}" for one in entry["outcomes"])
    more = [clean(str(entry[key])) for key in ("reason", "recipients") if entry.get(key)]
    by = f" by {clean(entry['by'])}" if entry.get("by") else ""
    return f"{entry['event']}{by}{': ' if more else ''}{' '.join(more)}"


def _change(path: str, arguments: Namespace) -> int:
    asked = chosen(arguments)
    if arguments.all:
        asked["all"] = True
    elif not asked:
        print(f"relaymta: {arguments.action} which messages? Name ids, a filter, or --all", file=sys.stderr)
        return 2
    if getattr(arguments, "reason", None):
        asked["reason"] = arguments.reason
    rows = ask(path, f"queue.{arguments.action}", asked)
    if arguments.json:
        print_json(rows)
        return 0
    changed, left = 0, []
    for row in rows:
        if row["changed"]:
            changed += 1
        elif "ids" in asked:
            left.append(f"{row['id']}: {row.get('reason', 'nothing to change')}")
    print_lines(left)
    print(f"{changed} message{'s' * (changed != 1)} {DONE[arguments.action]}")
    return 0 if changed or "ids" not in asked else 1
