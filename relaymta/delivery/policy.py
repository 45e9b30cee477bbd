"""Values of TLS on the way out: what is asked for, who else has a say in it, and what was decided.

RFC 7672 (DANE), RFC 8461 (MTA-STS), RFC 8689 (REQUIRETLS, TLS-Required), RFC 8460 (what is reported). Who decides is
delivery.security; how it is verified is delivery.verification.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Protocol

from attrs import field, frozen
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator

from relaymta.mail.envelope import Envelope
from relaymta.routing.route import Hop, Route, TlsLevel, Transport
from relaymta.smtp.actions import Answer, Tls

ENFORCE: Final = "enforce"  # RFC 8461 §3.2: the values of `mode`, and what the members of an Enum are called
TESTING: Final = "testing"


class StsPolicy(Protocol):
    """A policy that is live (RFC 8461 §3.2): net.mtasts.StsPolicy. `mode`: a member of an Enum."""

    @property
    def mode(self) -> Any: ...

    @property
    def mx(self) -> tuple[str, ...]: ...

    @property
    def text(self) -> tuple[str, ...]: ...

    def allows(self, host: str) -> bool: ...


class StsPolicies(Protocol):
    """Who knows them: net.mtasts. Never fails; None is "no policy"."""

    async def policy(self, domain: str) -> StsPolicy | None: ...


@frozen(slots=True)
class Ask:
    """What one message asks of one next hop.

    `level` is the route's. `requiretls`, `tls_optional`: the sender's own wishes, as far as they count.
    """

    hop: Hop
    level: TlsLevel = TlsLevel.OPPORTUNISTIC
    requiretls: bool = False
    tls_optional: bool = False

    @classmethod
    def of(cls, envelope: Envelope, route: Route, hop: Hop) -> Ask:
        """By a message and its route."""
        return cls(hop, route.tls, demands_tls(envelope, route), waives_tls(envelope))

    @property
    def domain(self) -> str:
        """The policy domain: the recipient's, or the next hop that the operator named (RFC 8461 §3.4)."""
        return self.hop.name

    @property
    def by_mx(self) -> bool:
        """Whether the host was found by the MX of that domain, and so is its domain's to speak for."""
        return self.hop.mx


def demands_tls(envelope: Envelope, route: Route) -> bool:
    """Whether REQUIRETLS binds us: not for the null sender (RFC 8689 §4.2.1), nor into a mailbox."""
    return envelope.requiretls and envelope.sender is not None and route.transport is not Transport.LMTP


def waives_tls(envelope: Envelope) -> bool:
    """Whether "TLS-Required: No" counts: REQUIRETLS overrules it (RFC 8689 §4.1)."""
    return envelope.tls_optional and not envelope.requiretls


def sharing(envelope: Envelope, route: Route) -> str:
    """The name under which connections are shared without another look: the lane's, less those with own wishes."""
    if envelope.requiretls and demands_tls(envelope, route):
        return f"{route.lane};requiretls"
    if envelope.tls_optional and waives_tls(envelope):
        return f"{route.lane};tls-required=no"
    return route.lane


@frozen(slots=True)
class Watch:
    """The policy whose sessions are told as TlsChecked; the fields are that event's."""

    domain: str
    policy: str = "no-policy-found"
    terms: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    policy_domain: str = ""


@frozen(slots=True)
class Decision:
    """The policy in force for one host, and why.

    `creator` makes the connections, and has a `judge` (smtp.client). `mark` tells apart connections that must not be
    shared. `reasons` are sentences for people, in the order in which they were found. `refusal`: nothing is to be
    sent to this host. `verified`: whether a session that stands has proved who the host is. `requiretls`: the host
    must offer REQUIRETLS besides. `watch` is None where nobody's policy was in question. `result`: what is wrong
    already, in the words of RFC 8460 §4.3.
    """

    tls: Tls
    creator: IOpenSSLClientConnectionCreator | None
    mark: str
    reasons: tuple[str, ...] = ()
    refusal: Answer | None = None
    verified: bool = False
    requiretls: bool = False
    watch: Watch | None = None
    result: str = ""


@frozen(slots=True)
class Exemption:
    """An exception from TLS policy, as delivery.settings has it, ready for use: until the end of a day (UTC)."""

    level: TlsLevel
    reason: str
    until: date
    domain: str = ""
    host: str = ""
    ends: float = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        end = datetime(self.until.year, self.until.month, self.until.day, tzinfo=UTC) + timedelta(days=1)
        object.__setattr__(self, "ends", end.timestamp())

    def covers(self, domain: str, host: str, now: float) -> bool:
        """Whether it is in force for that host of that domain."""
        return now < self.ends and (self.domain == domain if self.domain else self.host == host)
