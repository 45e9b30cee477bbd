"""relaymta sts: the MTA-STS policy in force for a domain, as the daemon sees it."""

from __future__ import annotations

from argparse import Namespace

from relaymta.cli.daemon import ask
from relaymta.cli.installation import look
from relaymta.cli.output import age, clean, print_json, print_lines


def run(arguments: Namespace) -> int:
    """Show it; 1 where there is none."""
    rows = list(ask(look(arguments.config).socket, "sts", {"domain": arguments.domain}))
    if arguments.json:
        print_json(rows)
        return 0
    found = False
    for row in rows:
        if row["mode"] is None:
            print(f"no MTA-STS policy is in force for {row['domain']}")
            continue
        found = True
        print(f"{row['domain']}: {row['mode']}, for {age(row['max_age'])} from when it was fetched, {row['version']}")
        print_lines(f"    {clean(line)}" for line in row["text"])
    return 0 if found else 1
