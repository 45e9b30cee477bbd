"""relaymta quota: what each account has sent of late, and to let one begin anew."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from relaymta.cli.daemon import ask
from relaymta.cli.installation import look
from relaymta.cli.output import Column, CommandFailedError, clean, print_json, print_table

LIST = [
    Column("ACCOUNT"),
    Column("MESSAGES/HOUR", right=True),
    Column("RECIPIENTS/HOUR", right=True),
    Column("MESSAGES/DAY", right=True),
    Column("RECIPIENTS/DAY", right=True),
]
_COUNTS = ("messages_hour", "recipients_hour", "messages_day", "recipients_day")


def run(arguments: Namespace) -> int:
    """Do one action."""
    path = look(arguments.config).socket
    if arguments.action == "list":
        return _list(path, arguments)
    [row] = ask(path, "quota.reset", {"account": arguments.account})
    if arguments.json:
        print_json([row])
    elif row["changed"]:
        print(f"{clean(row['account'])} begins anew")
    if not row["changed"]:
        raise CommandFailedError(f"nothing is counted of {clean(row['account'])}")
    return 0


def _list(path: str, arguments: Namespace) -> int:
    rows = ask(path, "quota.list")
    if arguments.json:
        print_json(rows)
        return 0
    if not print_table(LIST, (_listed(row) for row in rows)):
        print("no account with a quota has sent anything in the last day")
    return 0


def _listed(row: dict[str, Any]) -> list[str]:
    return [clean(row["account"]), *(str(row[key]) for key in _COUNTS)]
