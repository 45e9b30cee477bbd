"""relaymta auth: who has failed to log in too often, and the end of that."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

from relaymta.cli.daemon import ask
from relaymta.cli.installation import look
from relaymta.cli.output import Column, CommandFailedError, age, clean, print_json, print_table

LIST = [
    Column("ADDRESS"),
    Column("ACCOUNT"),
    Column("OFFENCES", right=True),
    Column("ATTEMPTS", right=True),
    Column("LAST", right=True),
    Column("REFUSED FOR", right=True),
]


def run(arguments: Namespace) -> int:
    """Do one action."""
    path = look(arguments.config).socket
    return _list(path, arguments) if arguments.action == "list" else _unlock(path, arguments)


def _list(path: str, arguments: Namespace) -> int:
    rows = ask(path, "auth.list")
    if arguments.json:
        print_json(rows)
        return 0
    if not print_table(LIST, (_listed(row) for row in rows)):
        print("nobody has failed to log in")
    return 0


def _listed(row: dict[str, Any]) -> list[str]:
    now = time.time()
    account = "(any)" if row["account"] is None else clean(row["account"]) or "(none named)"
    last = age(now - row["last"]) if row["last"] else ""
    refused = age(row["until"] - now) if row["until"] else ""
    return [clean(row["address"]), account, str(row["offences"]), str(row["attempts"]), last, refused]


def _unlock(path: str, arguments: Namespace) -> int:
    [row] = ask(path, "auth.unlock", {"what": arguments.what})
    if arguments.json:
        print_json([row])
    elif row["refusals"] or row["offences"]:
        print(f"unlocked {clean(arguments.what)}")
    if not (row["refusals"] or row["offences"]):
        raise CommandFailedError(f"nothing counts against {clean(arguments.what)}")
    return 0
