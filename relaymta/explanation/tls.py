"""The TLS that a host must show, as delivery.security decides it, with its reasons.

RFC 7672 (DANE), RFC 8461 (MTA-STS) and the rest are delivery's; here is only how they are told.
"""

from __future__ import annotations

from typing import Any

from relaymta.delivery import classify
from relaymta.delivery.dial import Place, verifies
from relaymta.delivery.policy import Ask, Decision
from relaymta.delivery.walk import Means
from relaymta.explanation.steps import Result, Step
from relaymta.routing.mx import Host
from relaymta.routing.route import Hop, Route
from relaymta.smtp.actions import Tls


async def needed(means: Means, hop: Hop, route: Route, host: Host, place: Place) -> Decision:
    """What a connection to this address of the host must be, for a message without wishes of its own."""
    decision = await means.security.decide(Ask(hop, route.tls), host)
    return means.security.at(decision, place.host, place.address, place.port)


async def security_steps(means: Means, hop: Hop, route: Route, host: Host, place: Place) -> list[Step]:
    """The same, told with its reasons."""
    decision = await needed(means, hop, route, host, place)
    facts: dict[str, Any] = {"host": host.name, "address": place.address, "level": route.tls.value}
    facts["reasons"] = list(decision.reasons)
    if decision.refusal is not None:
        text = f"{host.name}: {classify.reason(decision.refusal)}"
        return [Step("tls", Result.WAITS, text, facts, decision.reasons)]
    facts |= {
        "demanded": decision.tls is Tls.MUST,
        "verified": verifies(decision),
        "policy": decision.watch.policy if decision.watch is not None else "",
        "mark": decision.mark,
    }
    text = f"{host.name} at {place.address}: {_said(decision, host)}"
    return [Step("tls", Result.OK, text, facts, decision.reasons)]


def _said(decision: Decision, host: Host) -> str:
    if decision.tls is Tls.MUST:
        return f"TLS, and {host.name} must prove who it is" if decision.verified else "TLS, with any certificate"
    if decision.tls is Tls.MAY:
        return "TLS where it is offered, with any certificate; in clear otherwise"
    if decision.result:
        return "in clear for now: its TLS failed a short while ago"
    return "in clear, as the route says"
