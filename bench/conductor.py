"""The conductor of a round: generator, server under test and sink, from the first connection to the last letter."""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from typing import Protocol

from attrs import asdict, evolve, field, frozen

from bench.generator import Load, send
from bench.ledger import CONNECTIONS, WRONG, Ledger
from bench.letter import Letter
from bench.processes import Watch
from bench.sink import listening, receive

FORK = multiprocessing.get_context("fork")
SETTLE = 0.5  # seconds after a round in which a server may tidy up; its CPU time counts, the clock does not


class Server(Protocol):
    """What is measured: Postfix or Relay."""

    name: str
    port: int
    pid: int

    def cpu(self) -> float: ...
    def log(self) -> str: ...


class RoundError(Exception):
    """A round that is worth no figure: a refusal, a letter lost, changed or doubled, or too slow."""


@frozen
class Round:
    """One measurement. `rate`: letters a second end to end; `intake`: until the generator had its last 250."""

    messages: int
    seconds: float
    rate: float
    intake: float
    cpu: float  # seconds of CPU per 1,000 letters, all processes of the server
    memory: float  # peak, millions of octets
    connections: int  # that the sink saw
    latency: tuple[float, ...] = field(default=(), repr=False)  # ms from 250 to arrival, sorted, where asked for


class Sinks:
    """Sink processes for one kind of letter, and their ledger."""

    def __init__(
        self, letter: Letter, capacity: int, addresses: Sequence[tuple[str, int]], processes: int, defers: bool = False
    ) -> None:
        self.ledger = Ledger(capacity)
        self._sockets: list[socket.socket] = listening(addresses)
        self.port = int(self._sockets[0].getsockname()[1])
        self._processes: list[BaseProcess] = [
            FORK.Process(target=receive, args=(self._sockets, letter, self.ledger, slot, defers), daemon=True)
            for slot in range(processes)
        ]
        for process in self._processes:
            process.start()

    def stop(self) -> None:
        """End the processes and close the doors."""
        for process in self._processes:
            process.kill()
            process.join()
        for sock in self._sockets:
            sock.close()


def measure(
    server: Server, load: Load, ledger: Ledger, generators: int, latency: bool = False, patience: float = 60.0
) -> Round:
    """Send one load through `server` and wait for its last letter. RoundError when anything is not as it must be."""
    ledger.open_round()
    parts = max(1, min(generators, load.sessions))
    cpu = server.cpu()
    watch = Watch(server.pid)
    processes = [FORK.Process(target=send, args=(load, ledger, part, parts), daemon=True) for part in range(parts)]
    try:
        for process in processes:
            process.start()
        _wait(load, ledger, processes, patience)
    except RoundError as error:
        raise RoundError(f"{server.name}: {error}\n{server.log()}") from None
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
        peak = watch.stop()
    time.sleep(SETTLE)
    _audit(server, load, ledger)
    seconds = ledger.ended - ledger.started
    accepted = max(ledger.accepted[: load.messages])
    delays: tuple[float, ...] = ()
    if latency:
        pairs = zip(ledger.arrived[: load.messages], ledger.accepted[: load.messages], strict=True)
        delays = tuple(sorted(max(arrived - taken, 0.0) * 1000 for arrived, taken in pairs))
    return Round(
        messages=load.messages,
        seconds=seconds,
        rate=load.messages / seconds,
        intake=load.messages / (accepted - ledger.started),
        cpu=(server.cpu() - cpu) / load.messages * 1000,
        memory=peak / 1e6,
        connections=int(ledger.total(ledger.sinks, CONNECTIONS)),
        latency=delays,
    )


def _wait(load: Load, ledger: Ledger, generators: Sequence[BaseProcess], patience: float) -> None:
    """Until everything has arrived; RoundError after `patience` seconds in which nothing moved."""
    wanted = load.messages * load.recipients
    seen, since = -1, time.monotonic()
    while (arrivals := ledger.arrivals) < wanted:
        if ledger.trouble:
            raise RoundError(ledger.trouble)
        if any(process.exitcode not in (None, 0) for process in generators):
            raise RoundError("a generator ended before its time")
        if arrivals != seen:
            seen, since = arrivals, time.monotonic()
        elif time.monotonic() - since > patience:
            raise RoundError(f"{arrivals} of {wanted} arrived, then nothing for {patience:.0f} s")
        time.sleep(0.005)
    for process in generators:
        process.join(patience)


def _audit(server: Server, load: Load, ledger: Ledger) -> None:
    wrong = int(ledger.total(ledger.sinks, WRONG))
    copies = ledger.copies[: load.messages]
    doubled = sum(1 for count in copies if count > load.recipients)
    missing = sum(1 for count in copies if count < load.recipients)
    if wrong or doubled or missing:
        raise RoundError(f"{server.name}: {missing} letters missing, {doubled} doubled, {wrong} changed")


def calibrate(server: Server, load: Load, ledger: Ledger, seconds: float, most: int, generators: int) -> int:
    """How many letters keep `server` busy for about `seconds`; also its warm-up."""
    count = max(load.sessions * 2, min(most // 15, 500), 10)
    for share in (0.25, 1.0):  # the first one is cold, and says how large the second may be
        rate = measure(server, evolve(load, messages=count), ledger, generators).rate
        count = max(count, min(most, int(rate * seconds * share)))
    return count


def median(rounds: Sequence[Round]) -> dict[str, float]:
    """Medians of what rounds measured, and the spread of the rate as (most - least) / median."""
    names = ("rate", "intake", "cpu", "memory", "seconds", "connections")
    middle = {name: statistics.median(getattr(one, name) for one in rounds) for name in names}
    rates = [one.rate for one in rounds]
    middle["spread"] = (max(rates) - min(rates)) / middle["rate"]
    return middle


def plain(one: Round) -> dict[str, object]:
    """A round for JSON, without its thousands of latencies."""
    return {name: value for name, value in asdict(one).items() if name != "latency"}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of an ordered sequence lies."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
