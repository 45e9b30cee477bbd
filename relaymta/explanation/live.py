"""`explain` as a command of a running relay, with its caches, its lanes and what it remembers of its peers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from relaymta.admin.control import Arguments, Command, CommandError, Rows
from relaymta.delivery.attempt import Deliveries
from relaymta.delivery.source import Sources
from relaymta.explanation.probe import Probe
from relaymta.explanation.question import Question, QuestionError
from relaymta.explanation.record import record_row
from relaymta.explanation.way import Grounds, Way
from relaymta.queue.lanes import LaneRow
from relaymta.routing.mx import Names
from relaymta.settings import Settings


@attrs.frozen(slots=True)
class Parts:
    """What of a relay is in force now."""

    settings: Settings
    names: Names
    deliveries: Deliveries


class Explainer:
    """Answers for one relay. `parts` gives what is in force; `lanes` the rows of queue.lanes."""

    def __init__(self, reactor: Any, parts: Callable[[], Parts], lanes: Callable[[], Iterable[LaneRow]]) -> None:
        self._reactor = reactor
        self._parts = parts
        self._lanes = lanes

    def table(self) -> dict[str, Command]:
        """The commands by name."""
        return {"explain": self.explain, "explain.lane": self.lane}

    async def explain(self, arguments: Arguments) -> Rows:
        """The whole way, one row a step; with `record` a last row of what was answered."""
        try:
            question = Question.of(arguments)
        except QuestionError as error:
            raise CommandError(str(error)) from None
        way = Way(grounds(self._reactor, self._parts(), self._lane), question)
        rows = [step.row() for step in await way.walk()]
        return [*rows, record_row(way)] if question.record else rows

    def lane(self, arguments: Arguments) -> Rows:
        """The state of one lane, empty where it is not known: for the parent, which asks every worker."""
        return [self._lane(str(arguments.get("lane", "")))]

    def _lane(self, name: str) -> dict[str, Any]:
        return next((attrs.asdict(row) for row in self._lanes() if row.lane == name), {})


def grounds(reactor: Any, parts: Parts, lane: Callable[[str], dict[str, Any]] | None) -> Grounds:
    """What an explanation stands on."""
    settings, deliveries = parts.settings, parts.deliveries
    probe = Probe(
        reactor,
        settings.hostname,
        settings.delivery,
        Sources(settings.sources),
        deliveries.means,
        deliveries.accounts,
    )
    return Grounds(settings, parts.names, deliveries.means, deliveries.accounts, lane, deliveries.means.now, probe)
