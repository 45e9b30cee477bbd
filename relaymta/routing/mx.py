"""The hosts of a next hop, in the order in which they are to be tried, or why there are none.

RFC 5321 §5.1 (MX, implicit MX, ourselves among them), RFC 7505 (null MX), RFC 3463 (status codes), RFC 5321 §4.1.3
(address literals). Only an answer that says no is a no: what could not be asked is temporary, and so is whatever is
wrong with a next hop that the operator named. Connecting is left to delivery.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, ip_address
from itertools import groupby, zip_longest
from random import Random
from typing import Final, Protocol

from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred

from relaymta.net.dns import MX, Answer, Kind, Mx, State
from relaymta.routing.ourselves import Ourselves
from relaymta.routing.route import Hop
from relaymta.routing.settings import HostSettings, Prefer

HOSTS_MAX: Final = 50  # ours: hosts of one MX set that are looked at, the best ones
ADDRESSES_MAX: Final = 16  # ours: addresses of one host
AT_ONCE: Final = 8  # ours: hosts asked for at the same time, since all mail shares the room for questions
NAMES_TROUBLE: Final = "4.4.3"  # RFC 3463 §3.5: directory server failure
FAILURES_MAX: Final = 4  # ours: hosts that could not be asked for, after which the others wait for the next attempt


class Names(Protocol):
    """What we ask of net.dns.Resolver."""

    def cached(self, name: str, kind: Kind[Mx]) -> Answer[Mx] | None: ...

    def cached_addresses(self, name: str) -> Answer[str] | None: ...

    def mx(self, name: str) -> Deferred[Answer[Mx]]: ...

    def addresses(self, name: str) -> Deferred[Answer[str]]: ...


@frozen(slots=True)
class Host:
    """One host of a next hop.

    `addresses`: IP addresses (or "unix:/path") in the order in which to try them; () where they have not been
    looked up yet, which HostFinder.resolve does when the host's turn comes. `secure`: DNSSEC vouches for the name
    (RFC 7672 §2.2.1), and for the addresses once they are there; `named`: for the name at least, or the operator
    wrote it. `canonical`: what the addresses were found at, `next_hop`: what the MX were found at; the last names of
    chains of aliases, "" where none was followed.
    """

    name: str
    port: int
    preference: int = 0
    addresses: tuple[str, ...] = ()
    secure: bool = False
    _rivals: tuple[str, ...] = field(default=(), repr=False, eq=False)
    named: bool = field(default=False, repr=False, eq=False)
    canonical: str = field(default="", repr=False, eq=False)
    next_hop: str = field(default="", repr=False, eq=False)


@frozen(slots=True)
class Refusal:
    """Why there is no host: an enhanced status code, whether that is final, and a sentence."""

    status: str
    permanent: bool
    text: str


class HostFinder:
    """Finds hosts by `names`; `ourselves` are left out, `random` settles the order among equals."""

    def __init__(
        self,
        names: Names,
        settings: HostSettings | None = None,
        ourselves: Ourselves | None = None,
        random: Random | None = None,
    ) -> None:
        self._names = names
        self._settings = settings or HostSettings()
        self._ourselves = ourselves or Ourselves()
        self._random = random or Random()

    async def find(self, hop: Hop) -> tuple[Host, ...] | Refusal:
        """The hosts of `hop`, best first; those of the best usable preference have their addresses.

        Does not wait where everything is known already.
        """
        if hop.path:
            return (Host(str(hop), 0, addresses=(str(hop),)),)
        if hop.is_address:
            return self._literal(hop)
        if not hop.mx:
            return await self._only(hop, hop.name, secure=True)
        answer = self._names.cached(hop.name, MX) or await self._names.mx(hop.name)
        if answer.state is State.FAILED:
            return Refusal(NAMES_TROUBLE, False, f"name server trouble: {answer.text}")
        if answer.state is State.NXDOMAIN:
            return _no(hop, "5.1.2", f"domain {hop.name} does not exist")
        if answer.state is State.NODATA:
            return await self._only(hop, hop.name, secure=answer.secure)  # RFC 5321 §5.1: the implicit MX
        return await self._exchangers(hop, answer)

    async def resolve(self, host: Host) -> Host | Refusal:
        """A host with its addresses, when its turn has come. A refusal speaks of this host alone: try the next."""
        if host.addresses:
            return host
        # RFC 5321 §5.1: no host that is not better than ourselves. So whoever stands before it is looked at too;
        # mostly that is known, for they have been tried.
        answers = await self._look_up((*host._rivals, host.name))
        if any(self._leads_to_us(answer, host.port) for answer in answers):
            return Refusal("4.4.6", False, f"{host.name} is not nearer to the recipient than this host")
        answer = answers[-1]
        if answer.state is State.FAILED:
            return Refusal(NAMES_TROUBLE, False, f"name server trouble: {answer.text}")
        addresses = self._usable(answer.records)
        if not addresses:
            return Refusal("4.4.4", False, f"no usable address: {answer.text or host.name}")
        return evolve(
            host, addresses=addresses, secure=host.secure and answer.secure, canonical=answer.canonical
        )

    # One host

    def _literal(self, hop: Hop) -> tuple[Host, ...] | Refusal:
        if self._ourselves.at(_address(hop.name).text, hop.port):
            return _loop(hop)
        addresses = self._usable((hop.name,), hop.configured)
        if addresses:
            return (Host(hop.name, hop.port, addresses=addresses, named=True),)
        return _no(hop, "5.4.4", f"nobody can be reached at address {hop.name}")

    async def _only(self, hop: Hop, name: str, *, secure: bool) -> tuple[Host, ...] | Refusal:
        """The addresses of a host that is named directly, or of a domain without MX."""
        answer = self._names.cached_addresses(name) or await self._names.addresses(name)
        if answer.state is State.FAILED:
            return Refusal(NAMES_TROUBLE, False, f"name server trouble: {answer.text}")
        if answer.state is State.NXDOMAIN:
            return _no(hop, "5.1.2", f"host {name} does not exist")
        if answer.state is State.NODATA:
            return _no(hop, "5.1.2", f"{name} has neither an MX nor an address" if hop.mx else f"{name} has no address")
        if self._leads_to_us(answer, hop.port) or (hop.mx and self._ourselves.named(name, hop.port)):
            return _loop(hop)
        addresses = self._usable(answer.records, hop.configured)
        if not addresses:
            return _no(hop, "5.4.4", f"nobody can be reached at the address of {name}")
        found = Host(name, hop.port, 0, addresses, secure and answer.secure, named=secure, canonical=answer.canonical)
        return (found,)

    # An MX set

    async def _exchangers(self, hop: Hop, answer: Answer[Mx]) -> tuple[Host, ...] | Refusal:
        named = [mx for mx in answer.records if mx.name]
        if not named:
            return _no(hop, "5.1.10", f"domain {hop.name} accepts no mail (null MX)")  # RFC 7505 §3
        levels, looped = self._levels(named, hop.port)
        if not levels:
            return _loop(hop) if looped else _no(hop, "5.4.4", f"the MX of {hop.name} names no host")
        trouble, failures = "", 0
        for number, level in enumerate(levels):
            found = await self._look_up([mx.name for mx in level])
            failures += sum(one.state is State.FAILED for one in found)
            if any(self._leads_to_us(addresses, hop.port) for addresses in found):
                looped = True
                break
            hosts = self._hosts(hop, level, found, answer)
            if hosts:
                return (*hosts, *_lazy(hop, levels[number + 1 :], answer))
            trouble = trouble or next((one.text for one in found if one.state is State.FAILED), "")
            if failures >= FAILURES_MAX:
                break
        if trouble:
            return Refusal(NAMES_TROUBLE, False, f"name server trouble: {trouble}")
        if looped and number == 0:
            return _loop(hop)
        return _no(hop, "5.4.4", f"no MX of {hop.name} has a usable address")  # RFC 5321 §5.1: none usable

    def _levels(self, named: Sequence[Mx], port: int) -> tuple[list[list[Mx]], bool]:
        """MX records by preference, equals in random order; cut where our own name stands, and whether it does."""
        drawn = sorted((mx.preference, self._random.random(), mx.name) for mx in named)
        ours = next((preference for preference, _, name in drawn if self._ourselves.named(name, port)), None)
        best: dict[str, Mx] = {}
        for preference, _, name in drawn:
            if ours is not None and preference >= ours:
                break  # RFC 5321 §5.1
            if name not in best and _is_host_name(name):
                best[name] = Mx(preference, name)
        kept = list(best.values())[:HOSTS_MAX]
        return [list(level) for _, level in groupby(kept, lambda mx: mx.preference)], ours is not None

    def _hosts(self, hop: Hop, level: list[Mx], found: list[Answer[str]], named: Answer[Mx]) -> list[Host]:
        hosts = []
        for mx, answer in zip(level, found, strict=True):
            addresses = self._usable(answer.records, hop.configured)
            if addresses:
                hosts.append(
                    Host(
                        mx.name, hop.port, mx.preference, addresses, named.secure and answer.secure,
                        named=named.secure, canonical=answer.canonical, next_hop=named.canonical,
                    )
                )  # fmt: skip
        return hosts

    # Addresses

    async def _look_up(self, names: Sequence[str]) -> list[Answer[str]]:
        """The addresses of several hosts, asked for at the same time.

        A site with many hosts whose name servers are silent must not fill the room for everybody's questions.
        """
        answers: list[Answer[str]] = []
        for start in range(0, len(names), AT_ONCE):
            if sum(one.state is State.FAILED for one in answers) >= FAILURES_MAX:
                answers += [_UNASKED] * (len(names) - start)
                break
            some = names[start : start + AT_ONCE]
            asked = [self._names.cached_addresses(name) or self._names.addresses(name) for name in some]
            answers += [one if isinstance(one, Answer) else await one for one in asked]
        return answers

    def _leads_to_us(self, answer: Answer[str], port: int) -> bool:
        return any(self._ourselves.at(_address(record).text, port) for record in answer.records)

    def _usable(self, records: Iterable[str], configured: bool = False) -> tuple[str, ...]:
        """Addresses that can be connected to, the families in turn, each in random order."""
        families: dict[int, list[str]] = {4: [], 6: []}
        loopback = configured or self._settings.loopback_hosts
        for record in records:
            address = _address(record)
            if address.connectable and (loopback or not address.loopback):
                families[address.version].append(address.text)
        for addresses in families.values():
            self._random.shuffle(addresses)
        order = [families[6], families[4]]
        prefer = self._settings.prefer
        if prefer is Prefer.IPV4 or (prefer is Prefer.ANY and self._random.random() < 0.5):
            order.reverse()
        turns = (address for pair in zip_longest(*order) for address in pair if address is not None)
        return tuple(dict.fromkeys(turns))[:ADDRESSES_MAX]


def _lazy(hop: Hop, levels: list[list[Mx]], answer: Answer[Mx]) -> Iterator[Host]:
    """Hosts of worse preference: their addresses are looked up when their turn comes."""
    before: tuple[str, ...] = ()
    for level in levels:
        before += tuple(mx.name for mx in level)
        for mx in level:
            yield Host(
                mx.name, hop.port, mx.preference, (), answer.secure, before,
                named=answer.secure, next_hop=answer.canonical,
            )  # fmt: skip


def _no(hop: Hop, status: str, text: str) -> Refusal:
    """An answer that says no; about a next hop that the operator named it is a mistake in the configuration."""
    if hop.configured:
        return Refusal("4.3.5", False, f"next hop {hop}: {text}")
    return Refusal(status, True, text)


def _loop(hop: Hop) -> Refusal:
    if hop.configured:
        return Refusal("4.3.5", False, f"next hop {hop} is this host itself")
    return Refusal("5.4.6", True, f"mail for {hop.name} loops back to this host")  # RFC 5321 §5.1


def _is_host_name(name: str) -> bool:
    """RFC 5321 §2.3.5: an MX names a host; an IP address in its place is refused (RFC 1035 §3.3.9).

    So is what no host is called, as names with blanks and controls: DNS takes any octets (RFC 2181 §11).
    """
    return bool(_NAME.fullmatch(name)) and not name.rpartition(".")[2].isdigit()


@frozen(slots=True)
class _Address:
    """What matters of an IP address."""

    text: str
    version: int
    loopback: bool
    connectable: bool


@lru_cache(maxsize=4096)
def _address(text: str) -> _Address:
    """An IPv4-mapped address is the IPv4 one: the kernel connects to that (RFC 4291 §2.5.5.2).

    0.0.0.0 and :: would reach this very machine, and others mean no single host: nobody is connected to there.
    """
    ip = ip_address(text)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    nobody = ip.is_unspecified or ip.is_multicast or ip == _BROADCAST
    return _Address(str(ip), ip.version, ip.is_loopback, not nobody)


_UNASKED: Answer[str] = Answer(State.FAILED, text="too many of the hosts could not be asked for")
_BROADCAST = IPv4Address("255.255.255.255")
_NAME = re.compile(r"[0-9A-Za-z_.\-]+")  # the underscore is no letter of a host's name, and hosts have it
