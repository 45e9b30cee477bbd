"""What the domain name system said: typed records, and the four ways in which a question can end.

RFC 1035 §3.3 (records), RFC 2308 §2 (NXDOMAIN and NODATA), RFC 4035 §4.3 (secure, insecure, bogus), RFC 7505
(null MX). How an answer is got is left to dns_transport, how it is read to dns_wire.
"""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

from attrs import frozen

R = TypeVar("R")


class State(Enum):
    """How a question ended. Only NXDOMAIN and NODATA are a no; FAILED is "could not ask"."""

    FOUND = "found"
    NODATA = "no such record"  # RFC 2308 §2.2: the name exists, this type does not
    NXDOMAIN = "no such domain"  # RFC 2308 §2.1
    FAILED = "failed"


class Security(Enum):
    """What DNSSEC says of an answer (RFC 4035 §4.3); BOGUS and FAILED come with State.FAILED alone.

    SECURE is believed only from servers that `dns.trust_ad` declares trustworthy; BOGUS needs a server that gives
    the reason of its SERVFAIL (RFC 8914), and means what FAILED means: wait, never fall back.
    """

    SECURE = "secure"
    INSECURE = "insecure"
    BOGUS = "bogus"
    FAILED = "failed"


@frozen(slots=True)
class Kind(Generic[R]):
    """A record type: its code on the wire, its name, and (for the type checker) what a record of it is here."""

    code: int
    name: str


@frozen(slots=True)
class Mx:
    """RFC 1035 §3.3.9. `name` is str, lower case, without the last dot; "" is the root: a null MX (RFC 7505 §3)."""

    preference: int
    name: str


@frozen(slots=True)
class Srv:
    """RFC 2782; `target` as in Mx, "" where the service is decidedly not there."""

    priority: int
    weight: int
    port: int
    target: str


A: Kind[str] = Kind(1, "A")  # "192.0.2.1"
CNAME: Kind[str] = Kind(5, "CNAME")  # the next name, as in PTR; asked for itself, not followed
PTR: Kind[str] = Kind(12, "PTR")  # a name, lower case, without the last dot
MX: Kind[Mx] = Kind(15, "MX")
TXT: Kind[bytes] = Kind(16, "TXT")  # the character-strings joined (RFC 7208 §3.3, RFC 6376 §3.6.2.2)
AAAA: Kind[str] = Kind(28, "AAAA")  # "2001:db8::1", as RFC 5952 writes it
SRV: Kind[Srv] = Kind(33, "SRV")
TLSA: Kind[bytes] = Kind(52, "TLSA")  # RFC 6698 §2.1: the record data as they are
KINDS = (A, CNAME, PTR, MX, TXT, AAAA, SRV, TLSA)


@frozen(slots=True)
class Answer(Generic[R]):
    """The end of one question.

    `records` is empty unless `state` is FOUND. `ttl`: seconds that the answer may be kept from when it came,
    clamped. `canonical`: the name at the end of the CNAME chain (RFC 7672 §2.2.2 wants it). `text`: a short
    sentence for people where nothing was found.
    """

    state: State
    records: tuple[R, ...] = ()
    ttl: float = 0.0
    security: Security = Security.INSECURE
    canonical: str = ""
    text: str = ""

    @property
    def secure(self) -> bool:
        """Whether a trusted validator vouches for it, be it a yes or a no."""
        return self.security is Security.SECURE


def both_families(six: Answer[str], four: Answer[str]) -> Answer[str]:
    """One answer out of AAAA and A: what was found by either is not lost by the failure of the other.

    An NXDOMAIN beside a NODATA is a broken load balancer's, and the name exists (RFC 8020 §2).
    """
    ttl = min(six.ttl, four.ttl)
    found = [answer for answer in (six, four) if answer.state is State.FOUND]
    if found:
        records = tuple(record for answer in found for record in answer.records)
        spoke = [answer for answer in (six, four) if answer.state is not State.FAILED]
        security = Security.SECURE if all(answer.secure for answer in spoke) else Security.INSECURE
        return Answer(State.FOUND, records, ttl, security, found[-1].canonical)
    if four.state is State.NXDOMAIN and six.state is not State.NODATA:
        return four  # RFC 8020 §2: nothing exists at that name, whatever the type
    failed = [answer for answer in (four, six) if answer.state is State.FAILED]
    if failed:
        return next((answer for answer in failed if answer.security is Security.BOGUS), failed[0])
    secure = Security.SECURE if four.secure and six.secure else Security.INSECURE
    chosen = four if four.state is State.NODATA else six
    return Answer(chosen.state, (), ttl, secure, chosen.canonical, chosen.text)
