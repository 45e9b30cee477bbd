"""The door for the command line where no daemon is asked: from the configuration file alone, or from a record.

Lanes, and what a daemon remembers of its peers, are unknown then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, react
from twisted.python.failure import Failure

from relaymta.delivery.attempt import Deliveries
from relaymta.delivery.sts import Sts
from relaymta.events import Event
from relaymta.explanation.live import Parts, grounds
from relaymta.explanation.question import Question
from relaymta.explanation.record import Record, record_row
from relaymta.explanation.way import Grounds, Way
from relaymta.net.dns import Resolver
from relaymta.routing.mx import HostFinder, Names
from relaymta.settings import Settings, load_settings

Row = dict[str, Any]


def explain(file: str, arguments: Mapping[str, Any]) -> list[Row]:
    """The rows of the command, by the configuration in `file`. Raises ConfigError and QuestionError."""
    settings = load_settings(file).settings
    question = Question.of(arguments)
    rows: list[Row] = []
    failed: list[Failure] = []

    def begin(reactor: Any) -> Deferred[None]:
        resolver = Resolver(reactor, settings.dns)
        # What the daemon has fetched is the daemon's: nothing is to be written there as somebody else.
        sts = Sts(reactor, folder, random=Random().random, tell=_unheard)
        sts.configure(resolver, settings.mta_sts)
        deliveries = deliveries_of(reactor, settings, resolver, sts)
        way = Way(grounds(reactor, Parts(settings, resolver, deliveries), None), question)

        def end(result: Any) -> Any:
            sts.close()
            resolver.close()
            if isinstance(result, Failure):
                failed.append(result)
            else:
                rows.extend(step.row() for step in result)
                if question.record:
                    rows.append(record_row(way))

        return Deferred.fromCoroutine(way.walk()).addBoth(end)

    with TemporaryDirectory() as folder:
        try:
            react(begin)
        except SystemExit:
            pass  # how react ends, whatever came of it
    if failed:
        failed[0].raiseException()
    return rows


def explain_offline(file: str, recorded: str, arguments: Mapping[str, Any]) -> list[Row]:
    """The same from a record, given as its text, without a network.

    Raises ConfigError, QuestionError, and ValueError where it is no record.
    """
    settings = load_settings(file).settings
    question = Question.of(arguments)
    try:
        record = Record.of(json.loads(recorded))
    except RecursionError:
        raise ValueError("is nested too deep for a record") from None
    clock = Clock()
    deliveries = deliveries_of(clock, settings, record.names)
    means = deliveries.means
    way = Way(
        Grounds(settings, record.names, means, deliveries.accounts, None, means.now, None, record.verdicts), question
    )
    told: list[Any] = []
    Deferred.fromCoroutine(way.walk()).addBoth(told.append)
    [result] = told  # everything is known already, so nothing was waited for
    if isinstance(result, Failure):
        result.raiseException()
    return [step.row() for step in result]


def deliveries_of(reactor: Any, settings: Settings, names: Names, sts: Sts | None = None) -> Deliveries:
    """The way out of a relay with these settings, through which nothing is sent."""
    return Deliveries(
        reactor,
        HostFinder(names, settings.mx, settings.ourselves),
        settings.delivery,
        hostname=settings.hostname,
        tell=_unheard,
        sources=settings.sources,
        accounts=settings.accounts,
        tlsa=names if settings.dns.trust_ad and isinstance(names, Resolver) else None,
        sts=sts,
        exemptions=settings.tls_exceptions,
    )


def _unheard(_: Event) -> None:
    """What would be an event is a step here."""
