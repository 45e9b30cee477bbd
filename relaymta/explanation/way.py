"""The way that a message would take, walked as scheduler and delivery would walk it, and told step by step.

RFC 5321 §3.6 (who may relay), §4.5.1 (postmaster), §5.1 (hosts), §4.5.4.1 (retries), RFC 7505 (null MX). It asks the
very parts that do the work, so that what it says is what they do: policy.relaying, routing.router, routing.mx,
delivery.security (explanation.tls). Connecting is left to explanation.probe.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from itertools import islice
from random import Random
from typing import Any, Protocol

from attrs import define, field, frozen

from relaymta.admin.lanestate import State as LaneState
from relaymta.admin.lanestate import lane_step
from relaymta.config.secretfile import SecretError, SecretFile
from relaymta.config.units import show_duration
from relaymta.delivery.dial import Place, place_at
from relaymta.delivery.login import Accounts
from relaymta.delivery.walk import Means
from relaymta.explanation.names import Noting
from relaymta.explanation.question import Question
from relaymta.explanation.steps import Result, Step
from relaymta.explanation.tls import security_steps
from relaymta.mail.address import Address, AddressError, parse_mailbox
from relaymta.net.dns import MX, Mx, State
from relaymta.net.dns import Answer as NameAnswer
from relaymta.policy.relaying import Relaying
from relaymta.policy.verdict import Transaction
from relaymta.queue.backoff import SPREAD, timetable
from relaymta.routing.mx import FAILURES_MAX, NAMES_TROUBLE, Host, HostFinder, Names, Refusal
from relaymta.routing.route import Hop, Route, Transport
from relaymta.routing.router import Router
from relaymta.settings import Settings

ATTEMPTS_MAX = 200  # of a schedule, that are told; ours
_NUMBER = re.compile(r"route (\d+)")
_OK, _WAITS, _FAILS, _INFO = Result


@frozen(slots=True)
class Target:
    """One address of a host that an attempt would try."""

    place: Place
    host: Host
    route: Route
    hop: Hop


class Prober(Protocol):
    """Who connects: explanation.probe.probe."""

    def __call__(
        self, targets: Sequence[Target], recipient: Address, question: Question
    ) -> Awaitable[tuple[list[Step], Result]]: ...


@frozen(slots=True)
class Grounds:
    """What an explanation stands on: the live parts of a relay, or others made from the same settings.

    `lane`: the state of a lane in this process, None where no daemon runs. `now` is POSIX time. `verdicts`: recorded
    ones of TLS by host and address, None where they are to be found. `prober`: None where nobody is called.
    """

    settings: Settings
    names: Names
    means: Means
    accounts: Accounts
    lane: Callable[[str], LaneState] | None
    now: Callable[[], float]
    prober: Prober | None = None
    verdicts: Mapping[str, list[dict[str, Any]]] | None = None


@define(eq=False)
class Way:
    """One explanation under way."""

    grounds: Grounds
    question: Question
    steps: list[Step] = field(factory=list)
    notes: dict[str, dict[str, Any]] = field(factory=dict)
    verdicts: dict[str, list[dict[str, Any]]] = field(factory=dict)
    _targets: list[Target] = field(factory=list)
    _trouble: list[tuple[Result, str]] = field(factory=list)  # of next hops that give no host

    async def walk(self) -> list[Step]:
        """All steps, the last one is the verdict."""
        address = self._recipient()
        if address is not None and self._permission(address):
            if not address.domain:
                address = self.grounds.settings.postmaster_address
            self._tell("rewrite", _INFO, "nothing is rewritten: this version has no aliases", address=str(address))
            await self._from(self._route(address), address)
        return self.steps

    async def _from(self, route: Route, address: Address) -> None:
        """What follows from the route."""
        if route.transport is Transport.DISCARD:
            self._verdict(_OK, "accepted, and thrown away by the route")
            return
        if route.transport is Transport.ERROR:
            reply = route.reply
            waits = reply is not None and reply.transient
            self._verdict(_WAITS if waits else _FAILS, f"accepted, and then refused by the route: {reply}")
            return
        self._account(route)
        self._source(route)
        noting = Noting(self.grounds.names)
        settings = self.grounds.settings
        finder = HostFinder(noting, settings.mx, settings.ourselves, Random())
        for hop in route.hops:
            await self._hop(hop, route, finder, noting)
        self.notes = noting.notes
        self._lane(route)
        if self._targets or not self._is_final:
            self._retries()
        await self._conclude(address)

    def _tell(self, name: str, result: Result, text: str, details: Sequence[str] = (), **facts: Any) -> None:
        self.steps.append(Step(name, result, text, facts, tuple(details)))

    def _verdict(self, result: Result, text: str) -> None:
        self._tell("verdict", result, text)

    # Until it is ours

    def _recipient(self) -> Address | None:
        text = self.question.address.strip()
        text = text[1:-1] if text.startswith("<") and text.endswith(">") else text
        if text.lower() == "postmaster":  # RFC 5321 §4.5.1
            meant = self.grounds.settings.postmaster_address
            self._tell("recipient", _OK, f"the postmaster of this host, which is {meant}", address=str(meant))
            return Address("postmaster", "")
        try:
            address = parse_mailbox(text)
        except AddressError as error:
            self._tell("recipient", _FAILS, f"{self.question.address} is no address: {error}")
            self._verdict(_FAILS, "refused at RCPT: the address is malformed")
            return None
        local = ", which needs SMTPUTF8" if address.internationalized else ""
        self._tell("recipient", _OK, f"{address}{local}", address=str(address), domain=address.domain)
        return address

    def _permission(self, address: Address) -> bool:
        question = self.question
        relay = self.grounds.settings.relay
        relaying = Relaying(relay)
        trusted = relaying.trusts(question.client)
        facts = {"client": question.client, "login": question.login, "sender": str(self._sender or "<>")}
        transaction = Transaction(
            question.client, account=question.login, trusted=trusted or bool(question.login), sender=self._sender
        )
        opinion = relaying.rcpt(transaction, address)
        if opinion is not None:
            who = f"{question.client} is in none of relay.networks, and {address.domain} is none of relay.domains"
            if opinion.cause != "neither client nor domain is ours":
                who = opinion.cause
            self._tell("relay", _FAILS, f"{opinion.reply}: {who}", reply=str(opinion.reply), **facts)
            self._verdict(_FAILS, f"refused at RCPT with {opinion.reply}")
            return False
        if not address.domain:
            reason = "the postmaster is refused to nobody"
        elif question.login:
            reason = f"{question.login} is logged in, and may relay as far as its account allows"
        elif trusted:
            within = [str(one) for one in relay.networks if ip_address(question.client) in one]
            reason = f"{question.client} may relay to anywhere, by relay.networks{_named(within)}"
        else:
            reason = f"{address.domain} is one of relay.domains: taken from anybody"
        self._tell("relay", _OK, reason, **facts)
        return True

    @property
    def _sender(self) -> Address | None:
        question = self.question
        return question.sender if question.sender_given else self.grounds.settings.postmaster_address

    # Where it goes

    def _route(self, address: Address) -> Route:
        route = Router(self.grounds.settings.routes).route(address, self._sender, self.question.login)
        number = _NUMBER.match(route.rule)
        to = ", ".join(map(str, route.hops)) or str(route.reply or route.transport.value)
        terms = [f"tls {route.tls.value}"] if route.hops else []
        terms += [f"account {route.account}"] if route.account else []
        terms += [f"source {route.source}"] if route.source else []
        said = f"; {', '.join(terms)}" if terms else ""
        text = f"{route.rule}: {route.transport.value} to {to}{said}" if number else f"{route.rule}{said}"
        self._tell(
            "route",
            _INFO,
            text,
            rule=route.rule,
            number=int(number[1]) if number else None,
            transport=route.transport.value,
            hops=[str(hop) for hop in route.hops],
            tls=route.tls.value,
            account=route.account,
            source=route.source,
            lane=route.lane,
        )
        return route

    def _account(self, route: Route) -> None:
        if not route.account:
            self._tell("account", _INFO, "none: nobody is logged in at the next hop")
            return
        [settings] = [one for one in self.grounds.settings.accounts if one.name == route.account]
        allowed = [one.value for one in settings.allowed]
        how = f"with a token of {settings.oauth.token_url}" if settings.by_token else "with a password"
        facts = {"account": settings.name, "username": settings.username, "mechanisms": allowed}
        try:
            for _, path in settings.files:
                SecretFile(path).read()
        except SecretError as error:
            self._tell("account", _WAITS, f"{settings.name}: {error}", **facts)
            self._trouble.append((_WAITS, str(error)))
            return
        text = f"{settings.name}: {settings.username}, {how}, by {' or '.join(allowed)}"
        self._tell("account", _OK, text, **facts)

    def _source(self, route: Route) -> None:
        if not route.source:
            self._tell("source", _INFO, "none: from whatever address the system takes", source="")
            return
        addresses = [a for one in self.grounds.settings.sources if one.name == route.source for a in one.addresses]
        self._tell("source", _OK, f"{route.source}: {', '.join(addresses)}", source=route.source, addresses=addresses)

    async def _hop(self, hop: Hop, route: Route, finder: HostFinder, noting: Noting) -> None:
        if hop.path:
            self._tell("host", _OK, f"{hop}, a socket of this machine", host=str(hop), addresses=[hop.path])
            await self._reach(hop, route, Host(str(hop), 0), hop.path)
            return
        if hop.mx and not hop.is_address:
            self._mx(hop, noting.cached(hop.name, MX) or await noting.mx(hop.name))
        found = await finder.find(hop)
        if isinstance(found, Refusal):
            self._refused(hop, found)
            return
        most = self.grounds.settings.delivery.max_addresses
        unasked = 0
        for position, host in enumerate(found):
            left = ", ".join(one.name for one in found[position:])
            if len(self._targets) >= most:
                self._tell("host", _INFO, f"not in one attempt, which tries {most} addresses: {left}")
                return
            if unasked >= FAILURES_MAX:
                self._tell("host", _INFO, f"not in one attempt, after {unasked} that could not be asked for: {left}")
                return
            resolved = await finder.resolve(host)
            if isinstance(resolved, Refusal):
                self._tell("host", _WAITS, f"{host.name}: {resolved.status} {resolved.text}", host=host.name)
                self._trouble.append((_FAILS if resolved.permanent else _WAITS, f"{resolved.status} {resolved.text}"))
                unasked += resolved.status == NAMES_TROUBLE
                continue
            self._host(resolved)
            for address in resolved.addresses[: most - len(self._targets)]:
                await self._reach(hop, route, resolved, address)

    def _mx(self, hop: Hop, answer: NameAnswer[Mx]) -> None:
        records = sorted((mx.preference, mx.name) for mx in answer.records)
        facts: dict[str, Any] = {
            "domain": hop.name,
            "state": answer.state.value,
            "dnssec": answer.security.value,
            "records": [{"preference": preference, "host": name} for preference, name in records],
        }
        secure = self._dnssec(answer.security.value)
        if answer.state is State.FOUND:
            said = ", ".join(f"{preference} {name or '. (null MX)'}" for preference, name in records)
            self._tell("mx", _OK, f"{hop.name}: {said}{secure}", **facts)
        elif answer.state is State.NODATA:
            # RFC 5321 §5.1
            self._tell("mx", _INFO, f"{hop.name} has no MX: its own address counts{secure}", **facts)
        else:
            result = _FAILS if answer.state is State.NXDOMAIN and not hop.configured else _WAITS
            self._tell("mx", result, f"{hop.name}: {answer.text or answer.state.value}{secure}", **facts)

    def _refused(self, hop: Hop, refusal: Refusal) -> None:
        result = _FAILS if refusal.permanent else _WAITS
        text = f"{refusal.status} {refusal.text}"
        self._tell("hosts", result, text, hop=str(hop), status=refusal.status, permanent=refusal.permanent)
        self._trouble.append((result, text))

    def _dnssec(self, security: str) -> str:
        """What a validating server said, where we believe one."""
        return f"; DNSSEC: {security}" if self.grounds.settings.dns.trust_ad else ""

    def _host(self, host: Host) -> None:
        secure = self._dnssec("secure" if host.secure else "insecure")
        text = f"{host.name} port {host.port} at {', '.join(host.addresses)}{secure}"
        self._tell(
            "host",
            _OK,
            text,
            host=host.name,
            port=host.port,
            preference=host.preference,
            addresses=list(host.addresses),
            secure=host.secure,
        )

    async def _reach(self, hop: Hop, route: Route, host: Host, address: str) -> None:
        """Whether one address would get the message, and over what."""
        place = place_at(hop, host, address)
        key = f"{host.name} {address}"
        if self.grounds.verdicts is not None:
            steps = [Step.of(row) for row in self.grounds.verdicts.get(key, ())]
        else:
            steps = await security_steps(self.grounds.means, hop, route, host, place)
        self.verdicts[key] = [step.row() for step in steps]
        self.steps.extend(steps)
        bad = [(step.result, step.text) for step in steps if step.result in (_WAITS, _FAILS)]
        trouble = await self._login_trouble(route.account, place)
        if trouble:
            self._tell("login", _WAITS, trouble, host=host.name, account=route.account)
            bad.append((_WAITS, trouble))
        if not self.grounds.means.dialer.reaches(address, route.source) and not hop.path:
            text = f"source {route.source} has no address of the family of {address}"
            self._tell("source", _WAITS, text, host=host.name, address=address)
            bad.append((_WAITS, text))
        if bad:
            self._trouble.extend(bad)
            return
        if place in self.grounds.means.ailing:
            text = f"{address} could not be used a short while ago, and comes last"
            self._tell("ailing", _INFO, text, address=address)
        self._targets.append(Target(place, host, route, hop))

    async def _login_trouble(self, name: str, place: Place) -> str:
        """Why we would not log in there, "" where we would, or need not."""
        account = next((one for one in self.grounds.settings.accounts if one.name == name), None)
        if account is None:
            return ""
        if not account.insecure and not place.vouched:
            return f"account {name} is not shown to {place.host}, since nothing proves that it is this host"
        return await self.grounds.accounts.refusal(name, place.host, place.port)

    # What else there is to know

    def _lane(self, route: Route) -> None:
        lane = self.grounds.lane
        self.steps.append(Step.of(lane_step(route.lane, {} if lane is None else {"this process": lane(route.lane)})))

    def _retries(self) -> None:
        queue, now = self.grounds.settings.queue, self.grounds.now()
        offsets = list(islice(timetable(queue), ATTEMPTS_MAX))
        count = f"{len(offsets)}{'' if len(offsets) < ATTEMPTS_MAX else ' or more'}"
        shown = [show_duration(one) for one in queue.retry]
        text = (
            f"{count} attempts, after {', '.join(shown)}, then every {shown[-1]}, give or take {SPREAD:.0%};"
            f" given up {_moment(now + queue.expire)}"
        )
        details = [f"{_moment(now + at)}  attempt {number}" for number, at in enumerate(offsets[:10], 1)]
        if len(offsets) > len(details):
            details.append(f"... and {len(offsets) - len(details)} more")
        warns = now + queue.warn_after if queue.warn_after else None
        if warns is not None:
            text += f"; the sender is told of the delay {_moment(warns)}"
        self._tell(
            "retry",
            _INFO,
            text,
            details,
            attempts=[round(now + at) for at in offsets],
            expires=round(now + queue.expire),
            warns=None if warns is None else round(warns),
        )

    async def _conclude(self, address: Address) -> None:
        prober = self.grounds.prober
        if not self._targets:
            self._nowhere()
            return
        if self.question.probe and prober is not None:
            steps, result = await prober(self._targets, address, self.question)
            self.steps.extend(steps)
            said = {_OK: "taken by the peer at RCPT", _FAILS: "refused by the peer at RCPT", _WAITS: "put off"}
            self._verdict(result, said[result])
            return
        place = self._targets[0].place
        self._verdict(_OK, f"would go to {place.host} at {place.address}")

    @property
    def _is_final(self) -> bool:
        """As delivery.walk has it: one "do not know" among several makes the whole temporary."""
        return bool(self._trouble) and all(result is _FAILS for result, _ in self._trouble)

    def _nowhere(self) -> None:
        if not self._is_final:
            waits = [text for result, text in self._trouble if result is _WAITS]
            self._verdict(_WAITS, f"accepted, and would wait: {waits[-1] if waits else 'no host to deliver to'}")
        else:
            self._verdict(_FAILS, f"accepted, and returned to the sender: {self._trouble[-1][1]}")


def _named(networks: list[str]) -> str:
    return f" ({', '.join(networks)})" if networks else ""


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
