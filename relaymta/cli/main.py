"""relaymta(1): the operator's hand. This file knows the words of the command line; what each does is its module's.

Exit status: 0 done, 1 not done (one clear line on standard error), 2 wrong usage. A command imports what it needs
when it runs, so that asking the daemon something takes no longer than starting Python.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from importlib import import_module

from relaymta.cli.installation import DEFAULT, ENVIRONMENT, find_file
from relaymta.cli.output import CommandFailedError, clean

# which module runs a command
MODULES = {
    "check": "relaymta.cli.check",
    "config": "relaymta.cli.check",
    "auth": "relaymta.cli.auth",
    "explain": "relaymta.cli.explain",
    "queue": "relaymta.cli.queue",
    "quota": "relaymta.cli.quota",
    "stats": "relaymta.cli.status",
    "trace": "relaymta.cli.status",
    "version": "relaymta.cli.status",
    "sts": "relaymta.cli.sts",
    "tlsrpt": "relaymta.cli.tlsrpt",
    "reload": "relaymta.cli.steer",
    "stop": "relaymta.cli.steer",
    "send": "relaymta.cli.send",
    "sink": "relaymta.cli.sink",
    "user": "relaymta.cli.user",
}


def main(words: Sequence[str] | None = None) -> int:
    """The console script. `words` are the arguments, those of the process by default."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # an address in UTF-8 on a terminal that is ASCII
    # no defaults in the parser: those of a subcommand would undo what was given before it
    arguments = parser().parse_args(words, Namespace(config="", json=False))
    arguments.config = find_file(arguments.config)
    try:
        status: int = import_module(MODULES[arguments.command]).run(arguments)
        sys.stdout.flush()
        return status
    except CommandFailedError as error:
        said = "\n".join(map(clean, str(error).split("\n")))  # the daemon may quote what a peer has said
        print(f"relaymta: {said}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # whoever read has seen enough, as in `relaymta queue list | head`; nothing is left for Python to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def parser() -> ArgumentParser:
    """The whole command line."""
    common = ArgumentParser(add_help=False)
    common.add_argument(
        "-c", "--config", metavar="FILE", default=SUPPRESS, help=f"configuration ({ENVIRONMENT}, or {DEFAULT})"
    )
    common.add_argument("--json", action="store_true", default=SUPPRESS, help="rows of JSON instead of tables")
    top = ArgumentParser(
        prog="relaymta", description="The operator's hand of the relaymta mail relay.", parents=[common]
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("check", parents=[common], help="say everything that is wrong with the configuration")
    commands.add_parser("config", parents=[common], help="every value in force, and where it comes from")
    _add_explain(commands.add_parser("explain", parents=[common], help="the way that a message would take, and why"))
    _add_queue(commands.add_parser("queue", help="what waits: list, show, retry, hold, release, delete"), common)
    _add_auth(commands.add_parser("auth", help="failed log-ins: list, unlock"), common)
    _add_quota(commands.add_parser("quota", help="what accounts have sent: list, reset"), common)
    commands.add_parser("stats", parents=[common], help="the daemon and its queue in numbers")
    trace = commands.add_parser("trace", parents=[common], help="what happened to one message or session")
    trace.add_argument("id", metavar="ID", help="a queue id or a session id")
    sts = commands.add_parser("sts", parents=[common], help="the MTA-STS policy in force for a domain")
    sts.add_argument("domain", metavar="DOMAIN", help="of recipients")
    _add_tlsrpt(commands.add_parser("tlsrpt", help="results of TLS sessions as they are reported: show"), common)
    commands.add_parser("reload", parents=[common], help="let the daemon read its configuration anew")
    stop = commands.add_parser("stop", parents=[common], help="let the daemon finish what it does, and end")
    stop.add_argument("--wait", metavar="TIME", type=_span, default=60.0, help='how long to wait for it ("60s")')
    _add_send(commands.add_parser("send", parents=[common], help="send one test message"))
    _add_sink(commands.add_parser("sink", parents=[common], help="a server that shows each message and keeps none"))
    _add_user(commands.add_parser("user", help="accounts: add, passwd, remove, list, show"), common)
    commands.add_parser("version", parents=[common], help="the version of this program")
    return top


def _add_explain(explain: ArgumentParser) -> None:
    explain.add_argument("address", metavar="ADDRESS", help="the recipient")
    explain.add_argument("--client", metavar="IP", help="who hands the message in (this host)")
    explain.add_argument("--login", metavar="NAME", help="the account that the client logged in as")
    explain.add_argument("--sender", metavar="ADDRESS", help='the reverse-path; "<>" is the null sender')
    explain.add_argument("--probe", action="store_true", help="connect, up to RCPT; no message is sent")
    explain.add_argument("--record", metavar="FILE", help="keep what the name servers answered")
    explain.add_argument("--offline", metavar="FILE", help="explain from such a file, without a network")


def _add_queue(queue: ArgumentParser, common: ArgumentParser) -> None:
    chosen = ArgumentParser(add_help=False)
    chosen.add_argument("ids", nargs="*", metavar="ID", help="queue ids")
    chosen.add_argument("--id", dest="more_ids", action="append", default=[], metavar="ID", help="a queue id")
    chosen.add_argument("--sender", metavar="ADDRESS", help='"<>" is the null sender')
    chosen.add_argument("--recipient", metavar="ADDRESS", help="one that is still to be delivered")
    chosen.add_argument("--domain", metavar="DOMAIN", help="of such a recipient")
    chosen.add_argument("--lane", metavar="LANE", help='transport and next hop, such as "smtp:example.org"')
    chosen.add_argument("--held", action="store_true", default=None, help="only what is on hold")
    chosen.add_argument("--older", metavar="TIME", type=_span, help='accepted longer ago, such as "4h"')
    chosen.add_argument("--younger", metavar="TIME", type=_span, help="accepted more recently")
    everything = ArgumentParser(add_help=False)
    everything.add_argument("--all", action="store_true", help="the whole queue")

    actions = queue.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", parents=[common, chosen], help="what waits")
    listing.add_argument("--limit", metavar="N", type=int, help="at most so many")
    listing.add_argument("--brief", action="store_true", help="only what needs no file to be opened")
    show = actions.add_parser("show", parents=[common], help="everything about one message")
    show.add_argument("ids", nargs="+", metavar="ID", help="queue ids")
    actions.add_parser("retry", parents=[common, chosen, everything], help="attempt now")
    hold = actions.add_parser("hold", parents=[common, chosen, everything], help="let wait until released")
    hold.add_argument("--reason", metavar="TEXT", help="kept in the message's story")
    actions.add_parser("release", parents=[common, chosen, everything], help="end a hold")
    actions.add_parser("delete", parents=[common, chosen, everything], help="delete; nobody is told")


def _add_auth(auth: ArgumentParser, common: ArgumentParser) -> None:
    actions = auth.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", parents=[common], help="who has failed, and who is refused")
    unlock = actions.add_parser("unlock", parents=[common], help="forget what counts against one")
    unlock.add_argument("what", metavar="WHAT", help="an address or an account")


def _add_quota(quota: ArgumentParser, common: ArgumentParser) -> None:
    actions = quota.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", parents=[common], help="messages and recipients of the last hour and day")
    reset = actions.add_parser("reset", parents=[common], help="forget what an account has sent")
    reset.add_argument("account", metavar="ACCOUNT", help="its name")


def _add_tlsrpt(tlsrpt: ArgumentParser, common: ArgumentParser) -> None:
    actions = tlsrpt.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", parents=[common], help="the reports that would be sent")
    show.add_argument("domain", nargs="?", metavar="DOMAIN", help="of one domain only")
    show.add_argument("--day", metavar="DAY", help='of UTC, such as "2026-11-23"; today by default')


def _add_send(send: ArgumentParser) -> None:
    send.add_argument("--to", required=True, action="append", metavar="ADDRESS", help="may be given several times")
    send.add_argument("--from", dest="sender", metavar="ADDRESS", help="you at this host, by default")
    send.add_argument("--subject", metavar="TEXT", help="of the message")
    send.add_argument("--text", metavar="TEXT", help="its body")
    send.add_argument("--server", metavar="ADDRESS", help="instead of the first listener, such as 127.0.0.1:25")


def _add_sink(sink: ArgumentParser) -> None:
    sink.add_argument("--listen", metavar="ADDRESS", default="127.0.0.1:2526", help="where (127.0.0.1:2526)")
    sink.add_argument("--dump", metavar="DIR", help="keep each message as a file there")
    sink.add_argument("--quiet", action="store_true", help="only count")


def _add_user(user: ArgumentParser, common: ArgumentParser) -> None:
    secret = ArgumentParser(add_help=False)
    secret.add_argument("--password-file", metavar="FILE", help="its first line, in place of asking")
    actions = user.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("add", parents=[common, secret], help="a new account; the password is asked for")
    add.add_argument("name", metavar="NAME", help="with which it logs in")
    add.add_argument("--sender", action="append", default=[], metavar="PATTERN", help="it may send as this")
    add.add_argument("--no-relay", action="store_true", help="only to relay.domains")
    add.add_argument("--certificate", action="append", default=[], metavar="CERT", help="its name, or sha256:DIGEST")
    add.add_argument("--no-password", action="store_true", help="by certificate or token alone")
    for option in ("messages-per-hour", "messages-per-day", "recipients-per-hour", "recipients-per-day"):
        add.add_argument(f"--{option}", metavar="N", type=_limit, help="in place of [users.quota]; 0 is no limit")
    add.add_argument("--over", choices=("hold", "refuse"), help="what becomes of mail beyond that")
    for action, told in (("passwd", "another password"), ("remove", "no account any more"), ("show", "one account")):
        parents = [common, secret] if action == "passwd" else [common]
        actions.add_parser(action, parents=parents, help=told).add_argument("name", metavar="NAME")
    actions.add_parser("list", parents=[common], help="all accounts")


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ArgumentTypeError(f'"{text}" is no whole number from 0 to 999999999')
    return int(text)


def _span(text: str) -> float:
    from relaymta.config.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
