"""What is asked of relaymta by itself: more workers, latency, and growth over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.conductor import Round, Sinks, calibrate, measure, median, percentile
from bench.generator import Load
from bench.letter import Letter
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
