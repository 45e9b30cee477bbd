"""What is asked of relaymta by itself when much waits: a deep queue, and dead destinations beside a bulk sender.

The queue is there before the relay starts (bench.filling), so that its start is measured too. Probes are single
letters to a healthy destination: how long from MAIL to the sink, with all the rest going on.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.conductor import FORK, RoundError, Sinks, percentile
from bench.filling import fill
from bench.generator import Load, send
from bench.letter import Letter
from bench.names import RESOLVER, Names, grave
from bench.processes import Watch
from bench.relay import Relay

LETTER = Letter(4096)
SHARDS = 4
PROBES = 100  # at most, in one run
QUEUE = '\n[queue]\nretry = ["1h"]\nwarn_after = "4d"\n'


def deep(directory: Path, messages: int, domains: int) -> list[dict[str, Any]]:
    """A queue of deferred mail to many domains: how it starts, answers, and lets new mail through."""
    facts: dict[str, Any] = {"messages": messages, "domains": domains}
    with ExitStack() as stack:
        relay, sinks = _relay(stack, directory / "deep", Names(directory / "names", domains=1), 0)
        facts["filling_seconds"] = fill(relay.directory / "spool", SHARDS, messages, domains, "deep.test")
        begun = time.monotonic()
        facts["start_to_220_seconds"] = relay.start()
        prober = _Prober(relay, sinks, 0)
        prober.probe()
        facts["start_to_first_250_seconds"] = prober.accepted - begun
        watch = Watch(relay.pid, 1.0)
        facts["start_to_all_scheduled_seconds"], loading = _until_loaded(relay, prober, messages, begun)
        facts["megabytes_when_scheduled"] = relay.memory() / 1e6
        facts["slowest_probe_meanwhile_ms"] = max(loading, default=0.0)
        facts["stats_seconds"], _ = relay.ask("stats")
        facts["first_row_seconds"], _ = relay.first_row("queue", "list")
        waited = [prober.probe() for _ in range(20)]
        facts["median_probe_ms"], facts["slowest_probe_ms"] = percentile(sorted(waited), 0.5), max(waited)
        facts["peak_megabytes"] = watch.stop() / 1e6
    return [{"fact": name, "value": value} for name, value in facts.items()]


def fairness(directory: Path, messages: int, dead: int, processes: int) -> list[dict[str, Any]]:
    """Dead destinations that swallow connections, all mail of a bulk sender for them, and another to a living one."""
    facts: dict[str, Any] = {"bulk_messages_to_dead_destinations": messages, "dead_destinations": dead}
    with ExitStack() as stack:
        bulk = 100_000
        relay, sinks = _relay(stack, directory / "fairness", Names(directory / "graves", domains=1, dead=dead), bulk)
        _dig(stack, dead)
        fill(relay.directory / "spool", SHARDS, messages, dead, "deep.test", senders=1, after=-1)
        begun = time.monotonic()
        relay.start()
        prober = _Prober(relay, sinks, bulk)
        _, loading = _until_loaded(relay, prober, messages, begun)
        facts["slowest_probe_while_scheduling_ms"] = max(loading, default=0.0)
        quiet = _probes(prober, 15.0)
        facts["median_probe_ms"], facts["slowest_probe_ms"] = percentile(sorted(quiet), 0.5), max(quiet)
        load = Load("127.0.0.1", relay.port, LETTER, bulk, 40, True)
        crew = [
            FORK.Process(target=send, args=(load, sinks.ledger, part, processes), daemon=True)
            for part in range(processes)
        ]
        for process in crew:
            process.start()
        beside = _probes(prober, 60.0, lambda: any(process.is_alive() for process in crew))
        for process in crew:
            process.join(60)
        if sinks.ledger.trouble:
            raise RoundError(f"{sinks.ledger.trouble}\n{relay.log()}")
        facts["bulk_messages_to_the_same_destination"] = bulk
        facts["median_probe_beside_them_ms"] = percentile(sorted(beside), 0.5)
        facts["slowest_probe_beside_them_ms"] = max(beside)
        facts["peak_megabytes"] = relay.memory() / 1e6
    return [{"fact": name, "value": value} for name, value in facts.items()]


def _relay(stack: ExitStack, directory: Path, names: Names, bulk: int) -> tuple[Relay, Sinks]:
    sinks = Sinks(LETTER, bulk + PROBES, [("127.0.0.1", 0)], 1)
    stack.callback(sinks.stop)
    sinks.ledger.open_round()
    stack.callback(names.stop)
    names.start()
    route = f'\n[[route]]\nrecipient = ["bench.test"]\nto = ["[127.0.0.1]:{sinks.port}"]\ntls = "none"\n'
    relay = Relay(directory, None, resolver=RESOLVER, workers=str(SHARDS), extra=route + QUEUE)
    stack.callback(relay.stop)
    return relay, sinks


def _dig(stack: ExitStack, dead: int) -> None:
    """Make graves: listening sockets whose queue is full, so that a connection is neither made nor refused."""
    for which in range(dead):
        door = stack.enter_context(socket.socket())
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((grave(which), 25))
        door.listen(0)
        for _ in range(2):
            visitor = stack.enter_context(socket.socket())
            visitor.setblocking(False)
            visitor.connect_ex((grave(which), 25))


def _until_loaded(relay: Relay, prober: _Prober, messages: int, begun: float) -> tuple[float, list[float]]:
    """Probe until the relay knows all of its queue: seconds since `begun`, and what the probes waited."""
    waited: list[float] = []
    while True:
        waited.append(prober.probe())
        _, said = relay.ask("stats")
        if json.loads(said.splitlines()[0])["queue"]["adopted"] >= messages:
            return time.monotonic() - begun, waited
        if time.monotonic() - begun > 120:
            raise RoundError("the queue is not scheduled after two minutes")
        time.sleep(0.5)


def _probes(prober: _Prober, seconds: float, wanted: Callable[[], bool] = lambda: True) -> list[float]:
    end, waited = time.monotonic() + seconds, []
    while time.monotonic() < end and wanted() and prober.left > 20:
        waited.append(prober.probe())
        time.sleep(0.4)
    return waited


class _Prober:
    """Sends one letter at a time to the healthy destination, numbered from `first` on."""

    def __init__(self, relay: Relay, sinks: Sinks, first: int) -> None:
        self._relay = relay
        self._ledger = sinks.ledger
        self._number = first
        self.left = PROBES
        self.accepted = 0.0

    def probe(self) -> float:
        """Milliseconds from MAIL to the sink's 250. RoundError when it takes longer than 30 s."""
        number, self._number, self.left = self._number, self._number + 1, self.left - 1
        with socket.create_connection(("127.0.0.1", self._relay.port), timeout=30) as sock, sock.makefile("rb") as said:
            said.readline()
            sock.sendall(b"HELO probe.bench.test\r\n")
            said.readline()
            begun = time.monotonic()
            sock.sendall(b"MAIL FROM:<probe@bench.test>\r\nRCPT TO:<r00@bench.test>\r\nDATA\r\n")
            for _ in range(3):
                said.readline()
            sock.sendall(LETTER.wire(int(self._ledger.round[0]), number))
            last = said.readline()
            if not last.startswith(b"250"):
                raise RoundError(f"a probe was refused: {last!r}")
            self.accepted = time.monotonic()
            sock.sendall(b"QUIT\r\n")
        while not self._ledger.arrived[number]:
            if time.monotonic() - begun > 30:
                raise RoundError(f"a probe took longer than 30 s\n{self._relay.log()}")
            time.sleep(0.001)
        return (self._ledger.arrived[number] - begun) * 1000
