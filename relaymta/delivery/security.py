"""Which TLS a host must show before it gets a message, why, and what we remember of hosts whose TLS is broken.

RFC 3207 (STARTTLS), RFC 7435 (opportunistic security), RFC 7672 (DANE), RFC 8461 (MTA-STS), RFC 8689 (REQUIRETLS and
TLS-Required). The levels of a route are a floor:

    none            never, and no policy of the recipient's domain is looked at
    opportunistic   where offered, unauthenticated; in clear where not offered or broken
    encrypt         or not at all; unauthenticated
    verify          or not at all; a certificate of a known authority with the host's name, or one that DANE names
    dane            or not at all; TLSA records that DNSSEC vouches for

Above the floor stands what the recipient's domain publishes, DANE first and then MTA-STS, and above all of it what
the sender of a message demands. An operator's exception takes the place of the floor and of the domain's policies
until it ends. A policy that could not be looked up is never taken for none. How a proof is made is left to
verification, how TLS is spoken to smtp.client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from attrs import define, evolve, field
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator

from relaymta.config.hosts import is_address
from relaymta.delivery.policy import ENFORCE, TESTING, Ask, Decision, Exemption, StsPolicies, StsPolicy, Watch
from relaymta.delivery.verification import Contexts, Dane, Pkix, Unauthenticated, can_be_named
from relaymta.net import dane
from relaymta.net.dane import Presence
from relaymta.net.dane_chain import Result
from relaymta.routing.mx import NAMES_TROUBLE, Host
from relaymta.routing.route import TlsLevel
from relaymta.smtp.actions import Answer, Stage, Tls, Trouble

_FLOORS = {
    TlsLevel.OPPORTUNISTIC: "TLS where it is offered, unauthenticated",
    TlsLevel.ENCRYPT: "TLS is a must, unauthenticated",
    TlsLevel.VERIFY: "a verified certificate is a must",
    TlsLevel.DANE: "DANE is a must",
}
_POLICY_TROUBLE = "4.7.5"  # RFC 3463 §3.8: cryptographic failure
_NOT_THERE = "4.7.4"  # RFC 3463 §3.8: security features not supported
_ENCRYPTION_NEEDED = "5.7.10"  # RFC 8689 §4.2.1
_REQUIRETLS_NEEDED = "5.7.30"  # RFC 8689 §4.2.1


CLEAR = Decision(Tls.NEVER, None, "none", (f"the route says {TlsLevel.NONE.value}", "TLS is never spoken"))


class Security:
    """The judge.

    `seconds` is a monotonic clock; `memory` is how long a broken handshake is remembered. `names` asks for TLSA
    records (None: nobody does), `sts` for MTA-STS policies; `ca_file` holds the authorities, "" for the system's;
    `exemptions` are in force by `now`, POSIX time.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        memory: float,
        *,
        names: dane.Names | None = None,
        sts: StsPolicies | None = None,
        ca_file: str = "",
        exemptions: Iterable[Exemption] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._seconds = seconds
        self._memory = memory
        self._names = names
        self._sts = sts
        self._contexts = Contexts(ca_file)
        self._exemptions = tuple(exemptions)
        self._now = now
        self._broken: dict[tuple[str, str, int], float] = {}

    async def decide(self, ask: Ask, host: Host) -> Decision:
        """The policy in force for `host`, as a HostFinder found it with its addresses. Nothing is connected to.

        Does not wait where DNSSEC vouches for nothing and no domain has an MTA-STS policy.
        """
        if ask.level is TlsLevel.NONE and not self._exemptions and not ask.requiretls:
            return CLEAR  # the hot path
        case = _Case(ask, host, ask.level)
        exemption = self._exemption(ask, host)
        if exemption is not None:
            case.level = exemption.level
            case.say(f"exception until {exemption.until} ({exemption.reason}): {exemption.level.value}")
            if exemption.host and not ask.tls_optional:
                await self._ask_whose(case)
        else:
            case.say(f"the route says {ask.level.value}")
        if case.level is TlsLevel.NONE:
            return self._none(case)
        case.say(_FLOORS[case.level])
        policies = exemption is None
        if policies and ask.tls_optional:
            policies = False  # RFC 8689 §4.2.2
            case.say("the sender says TLS-Required: No: what the recipient's domain publishes is not looked at")
        if policies or case.level is TlsLevel.DANE:
            await self._ask_dane(case)
        if policies and case.refusal is None and not case.by_dane:
            await self._ask_sts(case)
        if policies and ask.by_mx:
            case.watched()
        if ask.requiretls and case.refusal is None:
            case.require()
        return self._settle(case)

    def at(self, decision: Decision, host: str, address: str, port: int) -> Decision:
        """The decision for one address of the host: in clear where TLS is a wish and was broken minutes ago."""
        if decision.tls is Tls.MAY and self._broken and self._avoids_tls((host, address, port)):
            return evolve(decision, tls=Tls.NEVER, creator=None, result=Result.VALIDATION.value)
        return decision

    def in_clear(self, decision: Decision, answer: Answer, host: str, address: str, port: int) -> Decision | None:
        """What to try after TLS failed with `answer`: clear text where nothing demands TLS, else nothing.

        A failed handshake is remembered for minutes and not days; a peer that injects text is not rewarded. It is
        remembered of the host by this name: a server may fail for a name that somebody else has led to it.
        """
        if decision.tls is not Tls.MAY or answer.stage not in (Stage.STARTTLS, Stage.HANDSHAKE):
            return None
        if answer.trouble not in (Trouble.TLS, Trouble.LOST, Trouble.TIMEOUT):
            return None
        now = self._seconds()
        self._broken = {key: until for key, until in self._broken.items() if until > now}
        self._broken[host, address, port] = now + self._memory
        return evolve(decision, tls=Tls.NEVER, creator=None)

    def _avoids_tls(self, key: tuple[str, str, int]) -> bool:
        until = self._broken.get(key)
        return until is not None and until > self._seconds()

    # One question each

    def _exemption(self, ask: Ask, host: Host) -> Exemption | None:
        if not self._exemptions:
            return None
        now = self._now()
        return next((one for one in self._exemptions if one.covers(ask.domain, host.name, now)), None)

    def _none(self, case: _Case) -> Decision:
        """RFC 8689 §4.2.1: a message that must have TLS does not go where there never is any."""
        case.say("TLS is never spoken")
        if case.ask.requiretls:
            case.demanded("the sender demands TLS, and the route says none")
        return Decision(Tls.NEVER, None, "none", tuple(case.reasons), case.refusal)

    async def _ask_dane(self, case: _Case) -> None:
        """RFC 7672 §2.2: DNSSEC must vouch for the host's name, then for its addresses, before TLSA is asked for."""
        host = case.host
        if self._names is None or is_address(host.name) or not (host.secure or case.named_securely):
            terms = dane.Terms(Presence.NONE, host.name, text=f"DNSSEC does not vouch for {host.name}")
        else:
            terms = await dane.look_up(
                self._names, host.name, host.canonical, host.port, addresses_secure=host.secure
            )
        case.say(f"DANE: {terms.text}")
        case.terms = terms
        if terms.presence is Presence.FAILED:
            # RFC 7672 §2.1.2: never taken for "no records", whatever the route says: that would be a downgrade.
            case.refuse(f"DANE: {terms.text}", Result.DNSSEC_INVALID, NAMES_TROUBLE)
        elif terms.presence is Presence.USABLE:
            case.by_dane = True
        elif case.level is TlsLevel.DANE:
            case.refuse(f"DANE is demanded: {terms.text}", Result.DANE_REQUIRED, _NOT_THERE)
        elif terms.presence is Presence.UNUSABLE:
            case.encrypted = True  # RFC 7672 §2.2
            case.result = Result.TLSA_INVALID.value
            case.say("TLS is a must, unauthenticated, since there are records")

    async def _ask_whose(self, case: _Case) -> None:
        """An exception for a host says what it shows, and not that it is a host of any domain.

        Else a forged MX would lead the mail of every domain to it, past RFC 8461 §5.
        """
        policy = await self._sts.policy(case.ask.domain) if self._sts is not None and case.ask.by_mx else None
        if policy is not None and str(policy.mode.name).lower() == ENFORCE and not policy.allows(case.host.name):
            case.stranger()

    async def _ask_sts(self, case: _Case) -> None:
        """RFC 8461 §5: the policy of the domain whose MX we use (§3.4); DANE went before it (§2)."""
        if self._sts is None or not case.ask.by_mx:
            return
        policy = await self._sts.policy(case.ask.domain)
        if policy is None:
            case.say(f"MTA-STS: {case.ask.domain} has no policy")
            return
        mode = str(policy.mode.name).lower()
        case.sts = policy
        allowed = policy.allows(case.host.name)
        which = "names" if allowed else "does not name"
        case.say(f"MTA-STS: the policy of {case.ask.domain} ({mode}) {which} {case.host.name}")
        case.allowed = allowed and mode in (ENFORCE, TESTING)
        if mode == ENFORCE:
            if allowed:
                case.by_sts = True
            else:
                case.stranger()
        elif mode == TESTING:
            case.tested = True
            case.result = case.result or ("" if allowed else Result.VALIDATION.value)

    # The sum

    def _settle(self, case: _Case) -> Decision:
        name = case.host.name
        tls, mark, verified = Tls.MUST, "", True
        creator: IOpenSSLClientConnectionCreator | None = None
        try:
            if case.refusal is not None:
                verified = False
            elif case.by_dane:
                assert case.terms is not None
                creator = Dane(self._contexts, case.terms, case.names)
                # Under DANE-EE names do not matter, and the domains of one provider share its connections.
                by_name = any(record.usage == dane.DANE_TA for record in case.terms.records)
                mark = f"dane {' '.join(case.names) if by_name else case.terms.base}"
                case.say("TLS is a must, verified by DANE")
            elif case.by_sts or case.pkix:
                if not is_address(name) and not can_be_named(name):
                    case.refuse(f"no certificate can name {name}", Result.VALIDATION)
                creator = Pkix(self._contexts, name, "PKIX, by MTA-STS" if case.by_sts else "PKIX")
                mark = f"sts {case.ask.domain} {name}" if case.by_sts else f"verify {name}"
                case.say(f"TLS is a must, with a certificate of a known authority for {name}")
            else:
                verified = False
                creator, mark = self._unverified(case)
                tls = Tls.MUST if case.encrypted or case.level is TlsLevel.ENCRYPT else Tls.MAY
        except SSL.Error:
            case.refuse("the file of delivery.tls_ca cannot be read", Result.VALIDATION, "4.3.5")
        if case.ask.requiretls:
            mark = f"requiretls {mark}"
        return Decision(
            tls, creator, mark, tuple(case.reasons), case.refusal, verified and case.refusal is None,
            case.ask.requiretls, case.watch, case.result,
        )  # fmt: skip

    def _unverified(self, case: _Case) -> tuple[IOpenSSLClientConnectionCreator, str]:
        name = case.host.name
        mark = "encrypt" if case.encrypted or case.level is TlsLevel.ENCRYPT else "opportunistic"
        if case.tested and not is_address(name) and can_be_named(name):
            return Pkix(self._contexts, name, "", binding=False), f"{mark} sts {case.ask.domain}"
        return Unauthenticated(self._contexts, name), mark


@define
class _Case:
    """One decision under way."""

    ask: Ask
    host: Host
    level: TlsLevel
    reasons: list[str] = field(factory=list)
    refusal: Answer | None = None
    terms: dane.Terms | None = None
    by_dane: bool = False
    sts: StsPolicy | None = None
    by_sts: bool = False
    allowed: bool = False  # an MTA-STS policy names the host
    tested: bool = False
    encrypted: bool = False
    required: bool = False
    watch: Watch | None = None
    result: str = ""

    def say(self, reason: str) -> None:
        self.reasons.append(reason)

    @property
    def named_securely(self) -> bool:
        """DNSSEC or the operator vouches for the host's name."""
        return self.host.named

    @property
    def pkix(self) -> bool:
        return self.level is TlsLevel.VERIFY or self.required

    @property
    def names(self) -> tuple[str, ...]:
        """RFC 7672 §3.2.2: the TLSA base domain, the host, the next hop and what that is an alias of."""
        base = self.terms.base if self.terms is not None else ""
        found = (base, self.host.name, self.ask.hop.name, self.host.next_hop)
        return tuple(dict.fromkeys(name for name in found if name))

    def refuse(self, text: str, result: Result, status: str = _POLICY_TROUBLE) -> None:
        """Nothing goes to this host now."""
        self.result = result.value
        self.refusal = Answer(Stage.STARTTLS, trouble=Trouble.NO_TLS, text=text, status=status, result=result.value)
        self.say(f"refused: {text}")

    def stranger(self) -> None:
        """RFC 8461 §5: nothing is ever delivered to a host that the domain's policy does not name."""
        text = f"MTA-STS: the policy of {self.ask.domain} does not name {self.host.name}"
        self.refuse(text, Result.VALIDATION)

    def demanded(self, text: str) -> None:
        """Nothing of this message goes to this host, ever."""
        self.refusal = Answer(Stage.STARTTLS, trouble=Trouble.UNSAFE, text=text, status=_ENCRYPTION_NEEDED)
        self.say(f"refused: {text}")

    def require(self) -> None:
        """RFC 8689 §4.2.1: the host's name must be vouched for, and its certificate must bear it."""
        self.say("the sender says REQUIRETLS: a verified certificate and a next hop that keeps to it are a must")
        if self.by_dane:
            return
        if not (self.host.named or self.allowed):
            self.demanded(
                f"the sender demands TLS, and neither DNSSEC nor MTA-STS vouches for {self.host.name}"
                f" as a host of {self.ask.domain}"
            )
        self.required = True

    def watched(self) -> None:
        """Whose policy a session with this host is counted under (RFC 8460 §4.3)."""
        domain = self.ask.domain
        terms = self.terms
        if terms is not None and terms.presence is not Presence.NONE:
            # RFC 8460 §1.1: the policy domain of DANE is the TLSA base domain; who is told, the recipient's
            self.watch = Watch(domain, "tlsa", terms.published, policy_domain=terms.base)
        elif self.sts is not None and (self.by_sts or self.tested or self.refusal is not None):
            self.watch = Watch(domain, "sts", tuple(self.sts.text), tuple(self.sts.mx))
        else:
            self.watch = Watch(domain)


def demanded(decision: Decision, answer: Answer) -> Answer:
    """`answer` to what a session was to show, where a sender demands it: then it is a no (RFC 8689 §4.2.1).

    What is only out of order for the moment (no connection, a handshake that was cut) stays as it is.
    """
    if not decision.requiretls or answer.stage not in (Stage.STARTTLS, Stage.HANDSHAKE):
        return answer
    if answer.trouble is Trouble.NO_TLS or answer.result:
        return evolve(answer, trouble=Trouble.UNSAFE, status=_ENCRYPTION_NEEDED)
    return answer


def no_requiretls(host: str) -> Answer:
    """What it is when a verified host does not offer REQUIRETLS."""
    text = f"the sender demands TLS all the way, and {host} does not offer REQUIRETLS"
    return Answer(Stage.HELLO, trouble=Trouble.UNSAFE, text=text, status=_REQUIRETLS_NEEDED)


def result_of(answer: Answer) -> str | None:
    """What a session that did not come about is in the words of RFC 8460 §4.3; None: it says nothing of TLS."""
    if answer.result:
        return answer.result
    if answer.trouble is Trouble.NO_TLS or (answer.stage is Stage.STARTTLS and answer.reply is not None):
        return Result.STARTTLS.value
    if answer.stage in (Stage.STARTTLS, Stage.HANDSHAKE):
        return Result.VALIDATION.value
    return None
