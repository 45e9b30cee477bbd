"""The router: which way a recipient's mail goes, by the operator's rules or else by the MX of its domain.

RFC 5321 §5.1. A plain call on the hot path: what a domain's rules are is found once and kept; where none of them
looks at the user, the sender or the login, the Route itself is. Routes are made anew at each attempt from the rules
in force, never frozen into a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from relaymta.directory.names import account_name
from relaymta.mail.address import Address
from relaymta.mail.reply import Reply
from relaymta.routing.route import Hop, Route, TlsLevel, Transport
from relaymta.routing.settings import ANY, Pattern, RouteSettings, Target, parse_target

__all__ = ["Hop", "Route", "RouteSettings", "Router", "TlsLevel", "Transport"]

_KNOWN_MAX: Final = 20_000  # domains kept, about 600 octets each; ours


@frozen(slots=True)
class _Rule:
    """One [[route]], read."""

    number: int
    settings: RouteSettings
    target: Target
    recipients: tuple[Pattern, ...]
    senders: tuple[Pattern, ...]
    logins: frozenset[str]

    @classmethod
    def of(cls, number: int, settings: RouteSettings) -> _Rule:
        recipients = tuple(map(Pattern.of, settings.recipient)) or (Pattern(any=True),)
        senders = tuple(map(Pattern.of, settings.sender))
        logins = frozenset(map(_login, settings.login))
        return cls(number, settings, parse_target(settings.to), recipients, senders, logins)

    def candidate(self, domain: str) -> _Candidate:
        """What must still be looked at when the domain is known to be one of ours."""
        whole = any(not pattern.local and _covers(pattern, domain) for pattern in self.recipients)
        locals_ = frozenset(pattern.local for pattern in self.recipients if pattern.local and pattern.domain == domain)
        return _Candidate(self._route(domain), None if whole else locals_, self.senders, self.logins)

    def _route(self, domain: str) -> Route:
        settings = self.settings
        if not domain and None in self.target.hops:
            return _default(domain)
        return Route(
            self.target.transport,
            tuple(hop or _own_hop(domain) for hop in self.target.hops),
            settings.tls,
            settings.account,
            settings.source,
            self.target.reply,
            f"route {self.number} ({settings})",
        )


@frozen(slots=True)
class _Candidate:
    """A rule that may apply to a domain, with what it still asks of the user, the sender and the login."""

    route: Route
    locals: frozenset[str] | None  # None: every user
    senders: tuple[Pattern, ...]
    logins: frozenset[str]

    @property
    def certain(self) -> bool:
        """Whether it applies to all mail for the domain."""
        return self.locals is None and not self.senders and not self.logins

    def applies(self, recipient: Address, sender: Address | None, login: str) -> bool:
        if self.locals is not None and recipient.local.lower() not in self.locals:
            return False
        if self.logins and not (login in self.logins or (login and ANY in self.logins)):
            return False
        return not self.senders or any(_is_from(pattern, sender) for pattern in self.senders)


class Router:
    """Routes by `rules`, first match first. Raises ValueError for a rule that cannot be read."""

    def __init__(self, rules: Sequence[RouteSettings] = ()) -> None:
        self._rules = [_Rule.of(number, rule) for number, rule in enumerate(rules, 1)]
        self._by_domain: dict[str, list[int]] = {}  # positions of the rules that name this very domain
        self._by_parent: dict[str, list[int]] = {}  # of those that name its parent with a leading dot
        self._for_all: list[int] = []
        for position, rule in enumerate(self._rules):
            for pattern in rule.recipients:
                if pattern.any:
                    self._for_all.append(position)
                else:
                    table = self._by_parent if pattern.subdomains else self._by_domain
                    table.setdefault(pattern.domain, []).append(position)
        self._known: dict[str, Route | tuple[_Candidate, ...]] = {}

    def route(self, recipient: Address, sender: Address | None, account: str = "") -> Route:
        """The way to `recipient`; `account` is the login of the client that handed the message in, or ""."""
        domain = recipient.domain
        known = self._known.get(domain)
        if known is None:
            known = self._learn(domain)
        if isinstance(known, Route):
            return known
        for candidate in known:
            if candidate.applies(recipient, sender, account):
                return candidate.route
        raise AssertionError("the last candidate applies to all mail")

    def _learn(self, domain: str) -> Route | tuple[_Candidate, ...]:
        candidates: list[_Candidate] = []
        for position in self._positions(domain):
            candidates.append(self._rules[position].candidate(domain))
            if candidates[-1].certain:
                break
        else:
            candidates.append(_Candidate(_default(domain), None, (), frozenset()))
        found = candidates[0].route if candidates[0].certain else tuple(candidates)
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[domain] = found
        return found

    def _positions(self, domain: str) -> list[int]:
        """The rules that look at this domain, in order."""
        found = {*self._for_all, *self._by_domain.get(domain, ())}
        if self._by_parent and not domain.startswith("["):
            parent = domain.partition(".")[2]
            while parent:
                found.update(self._by_parent.get(parent, ()))
                parent = parent.partition(".")[2]
        return sorted(found)


def _login(text: str) -> str:
    """As a log-in is kept in an envelope."""
    return text if text == ANY else account_name(text)


def _covers(pattern: Pattern, domain: str) -> bool:
    if pattern.any:
        return True
    if pattern.subdomains:
        return domain.endswith("." + pattern.domain)
    return domain == pattern.domain


def _is_from(pattern: Pattern, sender: Address | None) -> bool:
    if sender is None or pattern.null:
        return sender is None and (pattern.null or pattern.any)
    if pattern.local and pattern.local != sender.local.lower():
        return False
    return _covers(pattern, sender.domain)


def _own_hop(domain: str) -> Hop:
    """The recipient's own domain as next hop; an address literal is a host (RFC 5321 §4.1.3)."""
    if domain.startswith("["):
        return Hop(domain[1:-1].removeprefix("IPv6:"), mx=False)
    return Hop(domain)


def _default(domain: str) -> Route:
    if not domain:  # the bare <postmaster> (RFC 5321 §4.5.1), which reception makes one of this host's
        reply = Reply(451, "4.3.5", "no route for the postmaster of this host")
        return Route(Transport.ERROR, reply=reply, rule="no route for an address without a domain")
    return Route(Transport.SMTP, (_own_hop(domain),), rule=f"no [[route]] matches: MX of {domain}")
