"""relaymta reload and stop: the daemon told what to do."""

from __future__ import annotations

from argparse import Namespace

from relaymta.cli.daemon import Conversation, DaemonError, ask
from relaymta.cli.installation import look
from relaymta.cli.output import age, print_json


def run(arguments: Namespace) -> int:
    """Do one of the commands."""
    path = look(arguments.config).socket
    return _reload(path, arguments) if arguments.command == "reload" else _stop(path, arguments)


def _reload(path: str, arguments: Namespace) -> int:
    rows = list(ask(path, "reload"))
    if arguments.json:
        print_json(rows)
    else:
        print("reloaded: the new configuration is in force")
    return 0


def _stop(path: str, arguments: Namespace) -> int:
    with Conversation(path) as conversation:
        for _ in conversation.ask("stop", {}):
            pass
        if arguments.wait and not conversation.wait_for_end(arguments.wait):
            raise DaemonError(f"relaymta still finishes what it does after {age(arguments.wait)}")
    if arguments.json:
        print_json([{"stopped": bool(arguments.wait)}])
    else:
        print("stopped" if arguments.wait else "stopping")
    return 0
