"""An explanation without a network: names in memory, a clock, and a relay's parts made from a configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from relaymta.delivery.attempt import Deliveries
from relaymta.explanation.alone import deliveries_of
from relaymta.explanation.question import Question
from relaymta.explanation.record import record_row
from relaymta.explanation.way import Grounds, Way
from relaymta.settings import Settings, load_settings
from tests.routing.zone import Zone

NOW = 1_800_000_000.0


@define
class Rig:
    """One configuration over one zone."""

    settings: Settings
    zone: Zone
    lane: Callable[[str], Any] | None = None
    deliveries: Deliveries = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.deliveries = deliveries_of(Clock(), self.settings, self.zone)

    def explain(self, address: str, **more: Any) -> list[dict[str, Any]]:
        """The rows of an explanation, the record behind them where it is asked for."""
        question = Question.of({"address": address, **more})
        grounds = Grounds(
            self.settings, self.zone, self.deliveries.means, self.deliveries.accounts, self.lane, lambda: NOW
        )
        way = Way(grounds, question)
        told: list[Any] = []
        Deferred.fromCoroutine(way.walk()).addCallbacks(told.append, lambda failure: failure.raiseException())
        rows = [step.row() for step in told[0]]
        return [*rows, record_row(way)] if question.record else rows


def rig(folder: Path, text: str = "", zone: Zone | None = None, **more: Any) -> Rig:
    """With this text in the file, behind a hostname and one listener."""
    file = folder / "relaymta.toml"
    listener = '[[listener]]\nname = "mx"\naddress = "192.0.2.25:25"\n'
    file.write_text(f'hostname = "relay.example.org"\nuser = ""\n{listener}{text}')
    return Rig(load_settings(str(file)).settings, zone or Zone(), **more)


def step(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The one row of that step."""
    [found] = [row for row in rows if row["step"] == name]
    return found


def short(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Steps and results."""
    return [(row["step"], row["result"]) for row in rows]
