"""relaymta sts: the MTA-STS policy in force for a domain, as the daemon sees it."""

from __future__ import annotations

from argparse import Namespace

from relaymta.cli.daemon import ask
from relaymta.cli.installation import look
from relaymta.cli.output import CommandFailedError, age, clean, print_json, print_lines


def run(arguments: Namespace) -> int:
    """Show it; 1 where there is none."""
    rows = list(ask(look(arguments.config).socket, "sts", {"domain": arguments.domain}))
    found = [row for row in rows if row["mode"] is not None]
    if arguments.json:
        print_json(rows)
    else:
        for row in found:
            age_of = age(row["max_age"])
            print(f"{row['domain']}: {row['mode']}, for {age_of} from when it was fetched, {row['version']}")
            print_lines(f"    {clean(line)}" for line in row["text"])
    if not found:
        raise CommandFailedError(f"no MTA-STS policy is in force for {clean(arguments.domain)}")
    return 0
