"""What is asked of relaymta by itself: more workers, latency, growth over time, and a deep queue."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench.conductor import FORK, Round, RoundError, Sinks, calibrate, measure, median, percentile
from bench.generator import Load, send
from bench.ledger import DEFERRED, Ledger
from bench.letter import Letter
from bench.names import RESOLVER, Names
from bench.processes import Watch
from bench.relay import Relay

LOOPBACK = [("127.0.0.1", 0)]
LETTER = Letter(4096)


def scaling(directory: Path, seconds: float, rounds: int, processes: int) -> list[dict[str, Any]]:
    """Letters per second with 1, 2 and 4 workers, new connections and reused."""
    rows = []
    for reuse in (False, True):
        for workers in ("1", "2", "4"):
            sinks = Sinks(LETTER, 60_000, LOOPBACK, processes)
            relay = Relay(directory / f"scaling-{workers}-{reuse}", sinks.port, workers=workers)
            try:
                relay.start()
                load = Load("127.0.0.1", relay.port, LETTER, 0, 20, reuse)
                count = calibrate(relay, load, sinks.ledger, seconds, 60_000, processes)
                load = Load("127.0.0.1", relay.port, LETTER, count, 20, reuse)
                found = median([measure(relay, load, sinks.ledger, processes) for _ in range(rounds)])
            finally:
                relay.stop()
                sinks.stop()
            rows.append(
                {
                    "connections": "reused" if reuse else "new each",
                    "workers": workers,
                    "letters_per_second": found["rate"],
                    "cpu_seconds_per_1000": found["cpu"],
                    "peak_megabytes": found["memory"],
                }
            )
    return rows


def latency(directory: Path, seconds: float, processes: int) -> list[dict[str, Any]]:
    """Milliseconds from our 250 to the sink's, at half of what the relay can do and at a tenth."""
    sinks = Sinks(LETTER, 400_000, LOOPBACK, processes)
    relay = Relay(directory / "latency", sinks.port)
    rows = []
    try:
        relay.start()
        load = Load("127.0.0.1", relay.port, LETTER, 0, 20, True)
        count = calibrate(relay, load, sinks.ledger, seconds, 60_000, processes)
        full = measure(relay, Load("127.0.0.1", relay.port, LETTER, count, 20, True), sinks.ledger, processes).rate
        for share in (0.5, 0.1):
            rate = full * share
            paced = Load("127.0.0.1", relay.port, LETTER, int(rate * 2 * seconds), 20, True, rate=rate)
            one = measure(relay, paced, sinks.ledger, processes, latency=True)
            rows.append(
                {
                    "load": f"{share:.0%} of {full:,.0f}/s",
                    "letters": one.messages,
                    "p50_ms": percentile(one.latency, 0.5),
                    "p90_ms": percentile(one.latency, 0.9),
                    "p99_ms": percentile(one.latency, 0.99),
                    "most_ms": one.latency[-1],
                }
            )
    finally:
        relay.stop()
        sinks.stop()
    return rows


def growth(directory: Path, messages: int, processes: int) -> list[dict[str, Any]]:
    """Memory of all its processes over many letters: a curve that must lie flat."""
    step = max(messages // 10, 1000)
    sinks = Sinks(LETTER, step, LOOPBACK, processes)
    relay = Relay(directory / "growth", sinks.port)
    rows: list[dict[str, Any]] = []
    try:
        relay.start()
        rows.append({"letters": 0, "megabytes": relay.memory() / 1e6, "letters_per_second": 0})
        for number in range(messages // step):
            load = Load("127.0.0.1", relay.port, LETTER, step, 20, True)
            one: Round = measure(relay, load, sinks.ledger, processes)
            rows.append(
                {
                    "letters": (number + 1) * step,
                    "megabytes": relay.memory() / 1e6,
                    "peak_megabytes": one.memory,
                    "letters_per_second": one.rate,
                }
            )
    finally:
        relay.stop()
        sinks.stop()
    return rows


def deep(directory: Path, messages: int, domains: int, processes: int) -> list[dict[str, Any]]:
    """A queue of deferred mail to many domains: how it starts, answers, and lets new mail through."""
    names = Names(directory / "names", domains=1)
    refusing = Sinks(LETTER, 1, [(names.refusing, 25)], processes, defers=True)
    healthy = Sinks(LETTER, 1000, LOOPBACK, 1)
    route = f'\n[[route]]\nrecipient = ["bench.test"]\nto = ["[127.0.0.1]:{healthy.port}"]\ntls = "none"\n'
    relay = Relay(
        directory / "deep", None, resolver=RESOLVER, extra=route + '\n[queue]\nretry = ["1h"]\nwarn_after = "4d"\n'
    )
    facts: dict[str, Any] = {"messages": messages, "domains": domains}
    try:
        names.start()
        relay.start()
        watch = Watch(relay.pid, 1.0)
        facts["intake_per_second"] = _fill(relay, healthy, messages, domains, processes)
        facts["attempted"] = _deferred(refusing, messages)
        facts["peak_megabytes_filling"] = watch.stop() / 1e6
        begun = time.monotonic()
        relay.stop()
        facts["stop_seconds"] = time.monotonic() - begun
        facts["start_to_220_seconds"] = relay.start()
        watch = Watch(relay.pid, 0.5)
        facts["first_letter_ms"] = _one_healthy(relay, healthy)
        time.sleep(10)
        facts["stats_seconds"], _ = relay.ask("stats")
        facts["first_row_seconds"], _ = relay.first_row("queue", "list")
        facts["healthy_letter_ms"] = _one_healthy(relay, healthy)
        facts["peak_megabytes_after_start"] = watch.stop() / 1e6
    finally:
        relay.stop()
        refusing.stop()
        healthy.stop()
        names.stop()
    return [{"fact": name, "value": value} for name, value in facts.items()]


def _fill(relay: Relay, sinks: Sinks, messages: int, domains: int, processes: int) -> float:
    """Put the messages in; nothing of it arrives anywhere, so only the intake is timed."""
    ledger = Ledger(messages)
    ledger.open_round()
    load = Load("127.0.0.1", relay.port, LETTER, messages, 40, True, domains=domains, zone=b"deep.test")
    crew = [FORK.Process(target=send, args=(load, ledger, part, processes), daemon=True) for part in range(processes)]
    begun = time.monotonic()
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    if ledger.trouble:
        raise RoundError(f"{ledger.trouble}\n{relay.log()}")
    return messages / (time.monotonic() - begun)


def _deferred(sinks: Sinks, messages: int) -> int:
    """Wait until every message was tried once, or nothing has moved for fifteen seconds."""
    seen, since = -1, time.monotonic()
    while seen < messages and time.monotonic() - since < 15:
        now = int(sinks.ledger.total(sinks.ledger.sinks, DEFERRED))
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.2)
    return seen


def _one_healthy(relay: Relay, sinks: Sinks) -> float:
    """Milliseconds that one letter to a healthy destination takes beside the deep queue."""
    load = Load("127.0.0.1", relay.port, LETTER, 1, 1, False)
    return measure(relay, load, sinks.ledger, 1, latency=True).latency[0]
