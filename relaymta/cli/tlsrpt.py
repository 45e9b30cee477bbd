"""relaymta tlsrpt: the TLS reports (RFC 8460) that would be sent. The daemon composes them; this asks and prints."""

from __future__ import annotations

import json
from argparse import Namespace

from relaymta.cli.daemon import ask
from relaymta.cli.installation import look
from relaymta.cli.output import CommandFailedError, clean, print_json, print_lines


def run(arguments: Namespace) -> int:
    """Show them; 1 where there is none."""
    asked = {"domain": arguments.domain, "day": arguments.day}
    rows = ask(look(arguments.config).socket, "tlsrpt.show", {key: one for key, one in asked.items() if one})
    found = 0
    for row in rows:
        found += 1
        if arguments.json:
            print_json([row])
        else:  # ASCII: a peer chose some of it, and it goes to a terminal
            print_lines(json.dumps(row["report"], indent=2).splitlines())
    if not found:
        raise CommandFailedError("nothing was counted" + (f" of {clean(arguments.domain)}" if arguments.domain else ""))
    return 0
