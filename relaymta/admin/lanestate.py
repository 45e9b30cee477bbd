"""How one lane is, put together from the workers of this host, each of which has its own part of it.

One step of `relaymta explain`; the parent makes it anew when it has asked all of its workers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

STEP = "lane"

State = Mapping[str, Any]  # the fields of queue.lanes.LaneRow; empty where a worker does not know the lane


def lane_step(lane: str, workers: Mapping[str, State]) -> dict[str, Any]:
    """The row of the step. `workers` holds what each has, by its name; none: no daemon runs."""
    known = [state for state in workers.values() if state]
    until = max((state["until"] for state in known), default=0.0)
    asleep = bool(known) and all(state["until"] for state in known)
    row = {
        "step": STEP,
        "result": "waits" if asleep else "info",
        "text": f"{lane}: {_said(workers, known, until, asleep)}",
        "lane": lane,
        "known": bool(workers),
        "suspended_until": until,
        "running": sum(state["running"] for state in known),
        "window": sum(state["window"] for state in known),
        "waiting": sum(state["fresh"] + state["tickets"] for state in known),
        "workers": {name: dict(state) for name, state in workers.items()},
    }
    if len(known) > 1:
        row["details"] = [f"{name}: {_one(state)}" for name, state in workers.items() if state]
    return row


def _said(workers: Mapping[str, State], known: list[State], until: float, asleep: bool) -> str:
    if not workers:
        return "unknown, since relaymta is not running"
    if not known:
        return "open, and nothing is known of it: no mail went there lately"
    total = (
        f"{sum(one['running'] for one in known)} under way, window {sum(one['window'] for one in known)},"
        f" {sum(one['fresh'] + one['tickets'] for one in known)} waiting"
    )
    if asleep:
        return f"suspended until {_moment(until)} after failures of its own; {total}"
    if until:
        return f"suspended in some workers until {_moment(until)}, open in others; {total}"
    return f"open; {total}"


def _one(state: State) -> str:
    how = f"suspended until {_moment(state['until'])}" if state["until"] else "open"
    waiting = state["fresh"] + state["tickets"]
    return f"{how}, {state['running']} under way, window {state['window']}, {waiting} waiting"


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
