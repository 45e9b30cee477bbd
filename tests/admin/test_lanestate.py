"""A lane as all workers together have it."""

from __future__ import annotations

from typing import Any

from relaymta.admin.lanestate import lane_step


def state(**more: Any) -> dict[str, Any]:
    """What one worker says."""
    usual = {"lane": "smtp:b.test", "running": 1, "window": 5, "fresh": 1, "tickets": 2, "failures": 0, "until": 0.0}
    return {**usual, **more}


def test_numbers_are_those_of_the_host() -> None:
    """Under way, window and waiting are added up, and each worker's part stands beside."""
    row = lane_step("smtp:b.test", {"worker 0": state(), "worker 1": state(running=3), "worker 2": {}})
    assert (row["running"], row["window"], row["waiting"], row["result"]) == (4, 10, 6, "info")
    assert row["text"] == "smtp:b.test: open; 4 under way, window 10, 6 waiting"
    assert row["details"] == [
        "worker 0: open, 1 under way, window 5, 3 waiting",
        "worker 1: open, 3 under way, window 5, 3 waiting",
    ]
    assert row["workers"]["worker 2"] == {}


def test_a_lane_is_suspended_where_all_who_know_it_say_so() -> None:
    """One worker's trouble is not the host's: others still try."""
    some = lane_step("x", {"worker 0": state(until=2e9), "worker 1": state()})
    assert some["result"] == "info" and "suspended in some workers until" in some["text"]
    both = lane_step("x", {"worker 0": state(until=2e9), "worker 1": state(until=2e9 + 60), "worker 2": {}})
    assert both["result"] == "waits" and both["suspended_until"] == 2e9 + 60 and "suspended until" in both["text"]


def test_what_nobody_knows_is_said() -> None:
    """No daemon, or no mail lately: two answers."""
    assert lane_step("x", {})["known"] is False and "is not running" in lane_step("x", {})["text"]
    assert lane_step("x", {"worker 0": {}})["known"] is True and "no mail" in lane_step("x", {"worker 0": {}})["text"]
