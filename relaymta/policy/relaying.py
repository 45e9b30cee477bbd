"""Who may relay where: named networks and accounts to anywhere, everybody else to our own domains only.

RFC 5321 §3.6 and §7.9 (relaying), §4.5.1 (postmaster), RFC 5321 appendix F.2 (source routes), with every old trick
to route through us answered with a plain refusal: percent hack, bang path, quoted "user@other"@ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from unicodedata import normalize

from relaymta.mail.address import Address
from relaymta.mail.reply import Reply
from relaymta.policy.settings import RelaySettings, fingerprint
from relaymta.policy.verdict import Opinion, Transaction, Verdict

DENIED = Reply(550, "5.7.1", "relaying denied")
ROUTED = Reply(550, "5.7.1", "relaying denied: routed address")
KNOWN_MAX = 10_000  # clients whose trust is remembered; ours
_ROUTING = frozenset("%!@")


class Networks:
    """A set of networks with a fast "is this client in one of them"."""

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        self._by_version: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for network in networks:
            row = (int(network.network_address), int(network.netmask))
            self._by_version[network.version].append(row)

    def __contains__(self, client: str) -> bool:
        """Whether `client`, an IP address as text, is inside; an IPv4-mapped IPv6 address counts as IPv4."""
        try:
            address = ip_address(client.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        number = int(address)
        return any(number & mask == base for base, mask in self._by_version[address.version])


class Domains:
    """Our recipient domains: exact names, and subdomains of those written with a leading dot."""

    def __init__(self, patterns: Iterable[str]) -> None:
        lowered = [pattern.lower() for pattern in patterns]
        self._exact = frozenset(name for name in lowered if not name.startswith("."))
        self._parents = frozenset(name[1:] for name in lowered if name.startswith("."))

    def __contains__(self, domain: str) -> bool:
        """Whether mail for `domain` (lower-case A-labels) is ours to take."""
        if domain in self._exact:
            return True
        if not self._parents:
            return False
        rest = domain
        while rest:
            _, _, rest = rest.partition(".")
            if rest in self._parents:
                return True
        return False


class Relaying:
    """The check at RCPT that keeps us from being an open relay."""

    name = "relaying"

    def __init__(self, settings: RelaySettings) -> None:
        self._networks = Networks(settings.networks)
        self._domains = Domains(settings.domains)
        self._certificates = frozenset(map(fingerprint, settings.certificates))
        self._holders = Domains(settings.certificate_names)
        self._mailboxes = frozenset(name.lower() for name in settings.certificate_names if "@" in name)
        self._known: dict[str, bool] = {}

    def trusts(self, client: str) -> bool:
        """Whether this client (an IP address, or "" for a UNIX socket, which its mode guards) may relay to anywhere."""
        known = self._known.get(client)
        if known is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            known = self._known[client] = client == "" or client in self._networks
        return known

    def vouches(self, certificate: str, names: Iterable[str]) -> bool:
        """Whether who showed this client certificate may relay to anywhere; `names` are those that can be trusted."""
        if certificate in self._certificates:
            return True
        lowered = map(str.lower, names)  # a mailbox is no subdomain: joe@mail.example.org is no host of example.org's
        return any(name in (self._mailboxes if "@" in name else self._holders) for name in lowered)

    def rcpt(self, transaction: Transaction, address: Address) -> Opinion:
        """None when this recipient may be taken from this client, else a 550 5.7.1."""
        rights = transaction.rights  # where somebody has logged in, its account's rights count, and no network's
        trusted = transaction.trusted if rights is None else rights.relay
        if trusted or not address.domain:  # RFC 5321 §4.5.1: <postmaster> is never refused
            return None
        if address.domain not in self._domains:
            return Verdict(DENIED, self.name, "neither client nor domain is ours")
        local = address.local if address.local.isascii() else normalize("NFKC", address.local)  # "％" may become "%"
        if not _ROUTING.isdisjoint(local):
            return Verdict(ROUTED, self.name, "routing inside the local part")
        return None
