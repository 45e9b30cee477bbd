"""DANE for SMTP: which TLSA records hold for a host, and whether a certificate chain is what they say.

RFC 7672 (SMTP), RFC 7671 (how records are used), RFC 6698 (the records). A record is of use with DANE-TA(2) or
DANE-EE(3) alone; one that matches suffices, so that keys can be changed. What is done where there are no records, or
where they could not be asked for, is left to delivery.security; how chains are verified to net.dane_chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from hashlib import sha256, sha512
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from relaymta.net.dane_chain import (
    CHAIN_MAX,
    Anchored,
    CertificateError,
    Result,
    covers,
    names_of,
    public_key,
    verify_chain,
)
from relaymta.net.dns import CNAME, Answer, Kind, State

DANE_TA: Final = 2
DANE_EE: Final = 3
_CERTIFICATE, _PUBLIC_KEY = 0, 1  # selectors
_FULL, _SHA256, _SHA512 = 0, 1, 2  # matching types
_DIGESTS = {_SHA256: sha256, _SHA512: sha512}
_STRENGTH = {_SHA512: 2, _SHA256: 1}  # RFC 7671 §9: ours to order
RECORDS_MAX: Final = 32  # usable records of one host that a chain is held against; ours, each costs every session
PUBLISHED_MAX: Final = 16 * 1024  # characters of records that are kept as text for reports; ours


@frozen(slots=True)
class Tlsa:
    """One TLSA record (RFC 6698 §2.1); `data` is a digest, a certificate or a public key (DER)."""

    usage: int
    selector: int
    matching: int
    data: bytes

    @classmethod
    def parse(cls, octets: bytes) -> Tlsa | None:
        """From the record's data; None where it is too short to be one."""
        if len(octets) < 4:
            return None
        return cls(octets[0], octets[1], octets[2], octets[3:])

    def __str__(self) -> str:
        """As a zone file writes it (RFC 6698 §2.2)."""
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"

    @property
    def usable(self) -> bool:
        """Whether a client of SMTP can do anything with it.

        PKIX-TA(0) and PKIX-EE(1) are not (RFC 7672 §3.1.3), nor is what is malformed (RFC 7671 §4.1).
        """
        if self.usage not in (DANE_TA, DANE_EE) or self.selector not in (_CERTIFICATE, _PUBLIC_KEY):
            return False
        if self.matching == _FULL:
            return _is_whole(self.selector, self.data)
        digest = _DIGESTS.get(self.matching)
        return digest is not None and len(self.data) == digest().digest_size

    def matches(self, certificate: bytes) -> bool:
        """Whether it is the association of this certificate (DER). Raises CertificateError."""
        selected = certificate if self.selector == _CERTIFICATE else public_key(certificate)
        if self.matching == _FULL:
            return selected == self.data
        return _DIGESTS[self.matching](selected).digest() == self.data


def _is_whole(selector: int, data: bytes) -> bool:
    try:
        if selector == _CERTIFICATE:
            public_key(data)
        else:
            Anchored.key(data)
    except CertificateError:
        return False
    return True


def usable(records: Iterable[bytes]) -> tuple[Tlsa, ...]:
    """The records (their data as DNS has them) that can be used, less those that digest agility leaves out.

    RFC 7671 §9: of the digests with the same usage and selector only the strongest counts; Full(0) always does.
    """
    found = [record for record in map(Tlsa.parse, records) if record is not None and record.usable]
    strongest: dict[tuple[int, int], int] = {}
    for record in found:
        kind = record.usage, record.selector
        strongest[kind] = max(strongest.get(kind, 0), _STRENGTH.get(record.matching, 0))
    kept = [
        record
        for record in found
        if record.matching == _FULL or _STRENGTH[record.matching] == strongest[record.usage, record.selector]
    ]
    return tuple(kept[:RECORDS_MAX])  # a part of them asks for no less than all do


@frozen(slots=True)
class Finding:
    """What a chain is by the records. `how` is "DANE-EE" or "DANE-TA" where it is as it should be, else ""."""

    how: str = ""
    result: Result | None = None
    text: str = ""


def verify(chain: Sequence[bytes], records: Sequence[Tlsa], names: Sequence[str]) -> Finding:
    """Judge a chain as the peer presented it (DER, its own certificate first) by usable records.

    `names`: what the certificate may be for under DANE-TA (RFC 7672 §3.2.2): the TLSA base domain, the next hop and
    what they are aliases of. One record that matches suffices.
    """
    if not chain:
        return Finding("", Result.VALIDATION, "the peer showed no certificate")
    try:
        return _verify(tuple(dict.fromkeys(chain[:CHAIN_MAX])), records, names)  # each costs a proof: once is enough
    except CertificateError as error:
        return Finding("", Result.NOT_TRUSTED, str(error))


def _verify(chain: Sequence[bytes], records: Sequence[Tlsa], names: Sequence[str]) -> Finding:
    if any(record.usage == DANE_EE and record.matches(chain[0]) for record in records):
        return Finding("DANE-EE")  # RFC 7672 §3.1.1: neither its names nor its dates matter
    fault = Finding("", Result.NOT_TRUSTED, "no TLSA record matches the certificate")
    named = None
    for anchor in _anchors(chain, [record for record in records if record.usage == DANE_TA]):
        failure = verify_chain(chain, anchor)
        if failure is not None:
            fault = Finding("", failure.result, f"the chain to the trust anchor does not hold: {failure.text}")
            continue
        if named is None:
            named = covers(names_of(chain[0]), names)
        if named:
            return Finding("DANE-TA")
        text = f"the certificate is for none of {', '.join(names)}"  # RFC 7672 §3.2.3
        fault = Finding("", Result.HOST_MISMATCH, text)
    return fault


def _anchors(chain: Sequence[bytes], records: Sequence[Tlsa]) -> Iterable[Anchored]:
    """The trust anchors that the records name: certificates that the peer presented, and what stands in DNS whole.

    A digest says nothing of a certificate that is not there: the chain must bring it (RFC 7672 §3.1.2).
    """
    for certificate in chain[1:]:  # the peer's own certificate is no authority over itself (RFC 7671 §5.2)
        if any(record.matches(certificate) for record in records):
            yield Anchored.certificate(certificate)
    for record in records:
        if record.matching == _FULL and not any(record.matches(certificate) for certificate in chain[1:]):
            made = Anchored.certificate if record.selector == _CERTIFICATE else Anchored.key
            yield made(record.data)


# The look-up


class Names(Protocol):
    """What we ask of net.dns.Resolver."""

    def lookup(self, name: str, kind: Kind[str]) -> Deferred[Answer[str]]: ...

    def tlsa(self, name: str) -> Deferred[Answer[bytes]]: ...


class Presence(Enum):
    """What there is at a host."""

    USABLE = "usable records"
    UNUSABLE = "records, none of them of use"  # TLS is a must, unauthenticated (RFC 7672 §2.2)
    NONE = "no secure records"
    FAILED = "could not be asked"  # never taken for NONE (RFC 7672 §2.1.2)


@frozen(slots=True)
class Terms:
    """The answer of a look-up.

    `base` is the TLSA base domain: whom the records are for, and the name that TLS is told (RFC 7672 §8.1).
    `published`: all records of the answer, as text. `text`: for people.
    """

    presence: Presence
    base: str = ""
    records: tuple[Tlsa, ...] = ()
    published: tuple[str, ...] = ()
    text: str = ""
    bogus: bool = False


async def look_up(names: Names, host: str, canonical: str, port: int, *, addresses_secure: bool) -> Terms:
    """The TLSA records of `host`, whose name DNSSEC vouches for; `canonical` is what its addresses were found at.

    `addresses_secure`: DNSSEC vouches for the addresses too, and for each alias on the way there. Never fails.
    """
    bases: tuple[str, ...] = ()
    if addresses_secure:
        bases = tuple(dict.fromkeys((canonical or host, host)))  # RFC 7672 §2.2.3: the expanded name first
    elif canonical and canonical != host:
        # RFC 7672 §2.2.2: the alias may be signed though its target is not; then its own name may have records.
        alias: Answer[Any] = await names.lookup(host, CNAME)
        if alias.state is State.FAILED:
            return _failed(alias, host)
        if alias.secure and alias.state is State.FOUND:
            bases = (host,)
    if not bases:
        return Terms(Presence.NONE, host, text=f"DNSSEC does not vouch for the addresses of {host}")
    text = ""
    for base in bases:
        question = f"_{port}._tcp.{base}"
        answer = await names.tlsa(question)
        if answer.state is State.FAILED:
            return _failed(answer, base)
        if answer.state is State.FOUND and answer.secure:
            return _found(answer, base)
        said = "has TLSA records that DNSSEC does not vouch for" if answer.records else "has no TLSA record"
        text = text or f"{question} {said}"
    return Terms(Presence.NONE, bases[0], text=text)


def _found(answer: Answer[bytes], base: str) -> Terms:
    records = usable(answer.records)
    published = _published(answer.records)
    if records:
        text = f"{len(records)} usable TLSA record{'s' * (len(records) != 1)} at {base}"
        return Terms(Presence.USABLE, base, records, published, text)
    text = f"no TLSA record of {base} is of use"
    return Terms(Presence.UNUSABLE, base, (), published, text)


def _published(records: Iterable[bytes]) -> tuple[str, ...]:
    """The records as text, as many as a report may hold, in an order of our own: that of servers turns."""
    texts: list[str] = []
    room = PUBLISHED_MAX
    for octets in records:
        record = Tlsa.parse(octets)
        if record is None:
            continue
        room -= 2 * len(octets) + 4
        if room < 0:
            break
        texts.append(str(record))
    return tuple(sorted(texts))


def _failed(answer: Answer[Any], base: str) -> Terms:
    bogus = answer.security.value == "bogus"
    return Terms(Presence.FAILED, base, text=f"name server trouble: {answer.text}", bogus=bogus)
