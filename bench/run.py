"""`python -m bench.run`: relaymta and Postfix side by side, alternating rounds, medians and ratios.

Without Postfix (or root, which its master needs) relaymta runs alone, and the table says so.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import evolve

from bench import alone, certificate, crowded, names, postfix, report
from bench.conductor import Round, RoundError, Sinks, calibrate, measure, median, plain
from bench.generator import Load
from bench.letter import Letter
from bench.postfix import Postfix
from bench.relay import Relay
from bench.scenarios import ALONE, QUICK, SIDE_BY_SIDE, Scenario


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scenario", nargs="*", help=f"of: {' '.join([*SIDE_BY_SIDE, *ALONE])}; none: the quick set")
    parser.add_argument("--full", action="store_true", help="all scenarios")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each server (3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="about how long a round lasts (4)")
    parser.add_argument("--only", choices=["relaymta", "postfix"], help="measure one server")
    parser.add_argument("--workers", default="auto", help='relaymta\'s workers ("auto")')
    parser.add_argument("--generators", type=int, default=2, help="generator processes (2)")
    parser.add_argument("--sinks", type=int, default=2, help="sink processes (2)")
    parser.add_argument("--growth-messages", type=int, default=500_000)
    parser.add_argument("--deep-messages", type=int, default=1_000_000)
    parser.add_argument("--deep-domains", type=int, default=50_000)
    parser.add_argument("--bulk-messages", type=int, default=100_000)
    parser.add_argument("--dead-domains", type=int, default=500)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="on a real disk (/var/tmp)")
    parser.add_argument("--keep", action="store_true", help="leave queues and logs for a look")
    wanted = parser.parse_args()
    for name in wanted.scenario:
        if name not in SIDE_BY_SIDE and name not in ALONE:
            parser.error(f"no scenario is called {name}")
    return wanted


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def compare(scenario: Scenario, kinds: list[str], wanted: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """One row: both servers up, alternating rounds; an "error" instead of figures where a round went wrong."""
    row: dict[str, Any] = {"scenario": scenario.name, "title": scenario.title, "goal": scenario.goal, "servers": {}}
    letter = Letter(scenario.size)
    by_mx = scenario.domains > 1
    addresses = list(names.hosts(scenario.domains)) if by_mx else [("127.0.0.1", 0)]
    sinks = Sinks(letter, scenario.most, addresses, wanted.sinks)
    resolver = names.Names(directory / f"{scenario.name}-names", scenario.domains) if by_mx else None
    sink = None if by_mx else sinks.port
    address = names.RESOLVER if by_mx else ""
    files = certificate.make(directory / f"{scenario.name}-tls") if scenario.tls else None
    makers: dict[str, Callable[[Path], Postfix | Relay]] = {
        "relaymta": lambda place: Relay(place, sink, resolver=address, workers=wanted.workers, tls=files),
        "postfix": lambda place: Postfix(place, sink, resolver=address, tls=files),
    }
    servers = [makers[kind](directory / f"{scenario.name}-{kind}") for kind in kinds]
    try:
        if resolver is not None:
            resolver.start()
        loads: list[Load] = []
        for server in servers:
            server.start()
            load = Load(
                "127.0.0.1", server.port, letter, 0, scenario.sessions, scenario.reuse, scenario.recipients,
                scenario.domains, pipelining=scenario.pipelining, tls=scenario.tls,
            )  # fmt: skip
            count = calibrate(server, load, sinks.ledger, wanted.seconds, scenario.most, wanted.generators)
            loads.append(evolve(load, messages=count))
        rounds: list[list[Round]] = [[] for _ in servers]
        for turn in range(wanted.rounds):
            order = range(len(servers)) if turn % 2 == 0 else reversed(range(len(servers)))
            for which in order:
                one = measure(servers[which], loads[which], sinks.ledger, wanted.generators)
                rounds[which].append(one)
                say(f"  {servers[which].name:9} {one.messages:6} letters {one.seconds:6.2f} s {one.rate:9,.0f}/s")
        for server, found in zip(servers, rounds, strict=True):
            row["servers"][server.name] = {"median": median(found), "rounds": [plain(one) for one in found]}
        if len(servers) == 2:
            ours, theirs = (row["servers"][server.name]["median"]["rate"] for server in servers)
            row["ratio"] = ours / theirs
    except (RoundError, RuntimeError, TimeoutError, OSError) as error:
        row["error"] = str(error)
        say(f"  failed: {error}")
    finally:
        for server in servers:
            server.stop()
        sinks.stop()
        if resolver is not None:
            resolver.stop()
    return row


def by_itself(name: str, wanted: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    """One of ALONE."""
    try:
        if name == "scaling":
            return alone.scaling(directory, wanted.seconds, wanted.rounds, wanted.generators)
        if name == "latency":
            return alone.latency(directory, wanted.seconds, wanted.generators)
        if name == "growth":
            return alone.growth(directory, wanted.growth_messages, wanted.generators)
        if name == "fairness":
            return crowded.fairness(directory, wanted.bulk_messages, wanted.dead_domains, wanted.generators)
        return crowded.deep(directory, wanted.deep_messages, wanted.deep_domains)
    except (RoundError, RuntimeError, TimeoutError, OSError) as error:
        say(f"  failed: {error}")
        return [{"error": str(error).splitlines()[0]}]


def main() -> int:
    """Run what was asked for; 1 when a row has no figure."""
    wanted = arguments()
    # 1,000 destinations are 1,000 listening sockets; 200 sessions are nothing beside them.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    chosen = wanted.scenario or ([*SIDE_BY_SIDE, *ALONE] if wanted.full else [one.name for one in QUICK])
    kinds = [wanted.only] if wanted.only else ["relaymta", "postfix"]
    if "postfix" in kinds and (reason := postfix.why_not()):
        say(f"Postfix cannot take part: {reason}. relaymta runs alone.")
        kinds.remove("postfix")
    directory = Path(tempfile.mkdtemp(prefix="relaymta-bench-", dir=wanted.directory))
    directory.chmod(0o755)  # Postfix's processes walk through it
    results: dict[str, Any] = {"machine": report.machine(directory), "side_by_side": [], "alone": {}}
    if results["machine"]["file_system"] in ("tmpfs", "ramfs"):
        say(f"{directory} is in memory: nothing here says anything about durability. Use --directory.")
    try:
        _measure(chosen, kinds, wanted, directory, results)
        return _told(results, kinds)
    finally:  # after the figures are told: to remove a million files takes minutes
        if wanted.keep:
            say(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _measure(
    chosen: list[str], kinds: list[str], wanted: argparse.Namespace, directory: Path, results: dict[str, Any]
) -> None:
    """Fill in the results, one scenario after the other; what there is by then stays when the user stops it."""
    begun = time.monotonic()
    try:
        for name in chosen:
            if name in SIDE_BY_SIDE:
                scenario = SIDE_BY_SIDE[name]
                if scenario.domains > 1 and (reason := names.why_not()):
                    say(f"{name}: left out, {reason}.")
                    continue
                say(f"{name}: {scenario.title}")
                results["side_by_side"].append(compare(scenario, kinds, wanted, directory))
            elif "relaymta" in kinds:
                if name in ("deep", "fairness") and (reason := names.why_not()):
                    say(f"{name}: left out, {reason}.")
                    continue
                say(f"{name}:")
                results["alone"][name] = by_itself(name, wanted, directory)
    except KeyboardInterrupt:
        say("stopped; what was measured so far:")
    results["seconds"] = round(time.monotonic() - begun, 1)


def _told(results: dict[str, Any], kinds: list[str]) -> int:
    """Print and save the results; 1 when a row has no figure."""
    if results["side_by_side"]:
        report.side_by_side(results["side_by_side"], kinds)
    for name, rows in results["alone"].items():
        report.facts(name, rows)
    print(f"{results['machine']['cores']} cores, shared with generator and sink; {results['seconds']} s in all")
    print(f"written to {report.save(results)}")
    sys.stdout.flush()
    failed = any("error" in row for row in results["side_by_side"])
    return int(failed or any("error" in row for rows in results["alone"].values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
