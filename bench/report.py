"""How results are shown: tables for people, one JSON file for programs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
CONSOLE = Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def machine(directory: Path) -> dict[str, Any]:
    """Where and with what it was measured."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(directory)], capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": model,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "file_system": kind.stdout.strip(),
        "python": platform.python_version(),
        "twisted": version("Twisted"),
    }


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def side_by_side(rows: list[dict[str, Any]], names: list[str]) -> None:
    """The table of ratios; one server alone has no ratio."""
    table = Table(title="letters per second, end to end, both on disk before 250 (medians)")
    table.add_column("scenario")
    table.add_column("letters/s  " + " | ".join(names), justify="right")
    if len(names) == 2:
        table.add_column("ratio", justify="right")
        table.add_column("goal", justify="right")
    table.add_column("spread %", justify="right")
    table.add_column("CPU s per 1,000", justify="right")
    table.add_column("peak MB", justify="right")
    for row in rows:
        if "error" in row:
            table.add_row(row["title"], f"[red]{row['error'].splitlines()[0]}[/red]")
            continue
        medians = [row["servers"][name]["median"] for name in names]
        cells = [row["title"], " | ".join(number(each["rate"]) for each in medians)]
        if len(names) == 2:
            met = "[green]" if row["ratio"] >= row["goal"] else "[red]"
            cells += [f"{met if row['goal'] else ''}{row['ratio']:.2f}", f"{row['goal']:g}" if row["goal"] else ""]
        cells.append(" | ".join(f"{each['spread'] * 100:.0f}" for each in medians))
        cells.append(" | ".join(number(each["cpu"]) for each in medians))
        cells.append(" | ".join(number(each["memory"]) for each in medians))
        table.add_row(*cells)
    CONSOLE.print(table)


def facts(title: str, rows: list[dict[str, Any]]) -> None:
    """A table of whatever the rows hold."""
    if not rows:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title)
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        values = [row.get(column, "") for column in columns]
        table.add_row(*(number(each) if isinstance(each, int | float) else str(each) for each in values))
    CONSOLE.print(table)


def save(results: dict[str, Any]) -> Path:
    """Write results/DATE.json and results/latest.json."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(results, indent=1) + "\n"
    path = RESULTS / (results["machine"]["date"].replace(":", "") + ".json")
    path.write_text(text)
    (RESULTS / "latest.json").write_text(text)
    return path
