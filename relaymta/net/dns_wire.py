"""DNS messages: a question to octets, the octets of a reply to an answer, over the records of twisted.names.

RFC 1035 §4 (messages), RFC 2181 §5 and §8 (record sets, time to live), RFC 2308 §2 and §5 (NODATA, NXDOMAIN and how
long they last), RFC 6891 (EDNS), RFC 4035 §3.2 and RFC 6840 §5.7 (DO and AD), RFC 8914 (why a SERVFAIL).
Pure: no socket and no clock. A reply is believed for the name that was asked and its CNAME chain alone.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

from attrs import field, frozen
from twisted.names import dns

from relaymta.net.dns_answer import AAAA, CNAME, MX, PTR, SRV, TLSA, TXT, A, Answer, Kind, Mx, Security, Srv, State

NAME_MAX: Final = 253  # RFC 1035 §2.3.4: 255 octets on the wire, lengths and root included
LABEL_MAX: Final = 63  # RFC 1035 §2.3.4
UDP_MAX: Final = 1232  # octets we take in a datagram; RFC 9715 §3: no fragments on any path
CHAIN_MAX: Final = 16  # CNAMEs followed; ours, above any chain that resolvers follow

TTL_MIN: Final = 5.0  # seconds; ours: a ttl of 0 must not make one look-up of each message
TTL_MAX: Final = 3600.0  # seconds; ours: a mended zone is seen within the hour
NEGATIVE_MAX: Final = 900.0  # seconds; ours, below RFC 2308 §5's three hours: a forgotten record gets added
FAILED_TTL: Final = 20.0  # seconds; RFC 2308 §7: at most five minutes

_HEADER = struct.Struct("!6H")
_RESPONSE, _OPCODE, _TRUNCATED, _RECURSE, _AVAILABLE, _AUTHENTIC = 0x8000, 0x7800, 0x0200, 0x0100, 0x0080, 0x0020
_AUTHORITATIVE = 0x0400
_OPT = struct.Struct("!BHHIH")  # the root's name, type, size we take, flags, length of its data
_RECORD = struct.Struct("!HHIH")  # what stands behind a record's name: type, class, ttl, length of its data
_DO = 0x8000
_NOERROR, _FORMERR, _NXDOMAIN, _NOTIMP, _BADVERS = 0, 1, 3, 4, 16
_RCODES = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED", 9: "NOTAUTH", 16: "BADVERS", 23: "BADCOOKIE"}
_EXTENDED_ERROR = 15  # RFC 8914 §2
_BOGUS = frozenset({5, 6, 7, 8, 9, 10, 11, 12})  # RFC 8914 §4: what validation can complain of


class MalformedError(ValueError):
    """Octets that are no DNS message."""


@frozen(slots=True)
class Question:
    """One question: `name` is str, lower case, without the last dot; `section` is it as it stands on the wire."""

    name: str
    kind: Kind[Any]
    section: bytes = field(repr=False, default=b"")

    @classmethod
    def of(cls, name: str, kind: Kind[Any]) -> Question:
        """Raises ValueError with a sentence where `name` cannot stand in a DNS message."""
        return cls(name, kind, _wire_name(name) + struct.pack("!HH", kind.code, dns.IN))


@frozen(slots=True)
class Unusable:
    """A reply that is neither a yes nor a no."""

    text: str
    truncated: bool = False  # ask again over TCP (RFC 7766 §5)
    without_edns: bool = False  # ask again without an OPT record (RFC 6891 §6.2.2)
    alias: str = ""  # ask for this name: the server did not follow its own CNAME (RFC 1034 §5.3.3, step 4c)
    bogus: bool = False


def _wire_name(name: str) -> bytes:
    if not name.isascii():
        raise ValueError("not a domain name: not in ASCII")
    if not name or len(name) > NAME_MAX:
        raise ValueError("not a domain name: too long" if name else "not a domain name: empty")
    wire = bytearray()
    for label in name.encode().split(b"."):
        if not label:
            raise ValueError("not a domain name: empty label")
        if len(label) > LABEL_MAX:
            raise ValueError("not a domain name: label too long")
        wire.append(len(label))
        wire += label
    wire.append(0)
    return bytes(wire)


def query(question: Question, ident: int, *, edns: bool = True, dnssec: bool = False) -> bytes:
    """The octets of a recursive query; `dnssec` sets DO and AD (RFC 6840 §5.7), and needs `edns`."""
    flags = _RECURSE | (_AUTHENTIC if dnssec and edns else 0)
    header = _HEADER.pack(ident, flags, 1, 0, 0, 1 if edns else 0)
    if not edns:
        return header + question.section
    return header + question.section + _OPT.pack(0, dns.OPT, UDP_MAX, _DO if dnssec else 0, 0)


def is_reply(octets: bytes, ident: int, question: Question) -> bool:
    """Whether `octets` say that they answer this question; all else is somebody else's, or forged, and ignored.

    The name is compared as names are, without regard to case (RFC 1035 §2.3.3). A refusal may come without the
    question section.
    """
    if len(octets) < _HEADER.size:
        return False
    got, flags, questions, _, _, _ = _HEADER.unpack_from(octets)
    if got != ident or not flags & _RESPONSE or flags & _OPCODE:
        return False
    if questions == 0:
        return flags & 15 not in (_NOERROR, _NXDOMAIN)
    asked = question.section
    name, end = len(asked) - 4, _HEADER.size + len(asked)
    echoed = octets[_HEADER.size : end]
    return questions == 1 and echoed[:name].lower() == asked[:name] and echoed[name:] == asked[name:]


def read(octets: bytes, question: Question, *, trust_ad: bool) -> Answer[Any] | Unusable:
    """What a reply (see is_reply) says. `trust_ad`: believe its AD bit (RFC 7672 §2.1)."""
    flags = _HEADER.unpack_from(octets)[1]
    if flags & _TRUNCATED:
        return Unusable("truncated", truncated=True)
    try:
        message = _Reply(octets, question.kind.code)
    except (ValueError, EOFError, IndexError, struct.error) as error:
        return Unusable(f"malformed reply ({error})")
    rcode, extended = message.rCode, ""
    bogus = False
    for option in message.additional:
        if option.type == dns.OPT:
            rcode |= option.ttl >> 24 << 4  # RFC 6891 §6.1.3
            reason, extended = _extended_error(_payload(option).data)
            bogus = reason in _BOGUS
    security = Security.SECURE if trust_ad and flags & _AUTHENTIC else Security.INSECURE
    if rcode == _NOERROR:
        return _no_error(message, question, security, lame=not flags & (_AVAILABLE | _AUTHORITATIVE))
    if rcode == _NXDOMAIN:
        ttl = _negative_ttl(message)
        return Answer(State.NXDOMAIN, (), ttl, security, question.name, f"{question.name} does not exist")
    text = _RCODES.get(rcode, f"rcode {rcode}") + (f" ({extended})" if extended else "")
    refused = rcode in (_FORMERR, _NOTIMP, _BADVERS)
    return Unusable(text, without_edns=refused, bogus=bogus)


def _no_error(message: _Reply, question: Question, security: Security, *, lame: bool) -> Answer[Any] | Unusable:
    try:
        canonical, found, ttl = _chain(message, question)
    except MalformedError as error:
        return Unusable(str(error))
    if found:
        records = tuple(dict.fromkeys(_RECORDS[question.kind.code](record.payload) for record in found))
        return Answer(State.FOUND, records, min(max(ttl, TTL_MIN), TTL_MAX), security, canonical)
    if not any(record.type == dns.SOA for record in message.authority):
        if canonical != question.name:
            return Unusable(f"stopped at {canonical}", alias=canonical)
        if lame:
            return Unusable("a referral: the server does not recurse")  # RFC 2308 §2.2: that is not NODATA
    text = f"{canonical} has no {question.kind.name} record"
    return Answer(State.NODATA, (), _negative_ttl(message), security, canonical, text)


def _chain(message: _Reply, question: Question) -> tuple[str, list[dns.RRHeader], float]:
    """Follow CNAMEs from the question's name: the last name, its records of the type asked, and the least ttl."""
    owner, ttl = question.name, TTL_MAX
    named = [(_text(record.name), record) for record in message.answers if record.cls == dns.IN]
    for _ in range(CHAIN_MAX):
        own = [record for name, record in named if name == owner]
        found = [record for record in own if record.type == question.kind.code]
        if found:
            return owner, found, min(ttl, *map(_ttl, found))
        alias = next((record for record in own if record.type == dns.CNAME), None)
        if alias is None:
            return owner, [], ttl
        owner, ttl = _text(_payload(alias).name), min(ttl, _ttl(alias))
    raise MalformedError("CNAME loop")


def _ttl(record: dns.RRHeader) -> float:
    return 0.0 if record.ttl & 0x80000000 else float(record.ttl)  # RFC 2181 §8


def _negative_ttl(message: _Reply) -> float:
    """RFC 2308 §5: the lesser of the SOA's own ttl and its MINIMUM; without an SOA as short as we can."""
    for record in message.authority:
        if record.type == dns.SOA:
            return min(max(min(_ttl(record), float(_payload(record).minimum)), TTL_MIN), NEGATIVE_MAX)
    return TTL_MIN


def _extended_error(options: bytes) -> tuple[int, str]:
    """The INFO-CODE and the EXTRA-TEXT of the first extended error; (-1, "") where there is none (RFC 8914 §2)."""
    for code, octets in _options(options):
        if code == _EXTENDED_ERROR and len(octets) >= 2:
            info = int.from_bytes(octets[:2], "big")
            text = octets[2:].decode("ascii", "replace").rstrip("\0")
            printable = "".join(character if character.isprintable() else "?" for character in text[:80])
            return info, printable or f"extended error {info}"
    return -1, ""


def _options(octets: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    while start + 4 <= len(octets):
        code, length = struct.unpack_from("!HH", octets, start)
        yield code, octets[start + 4 : start + 4 + length]
        start += 4 + length


class _Reply(dns.Message):
    """A message of which only what we read is decoded, and no record may reach beyond its own length.

    The stock parser takes a message that ends too early for a shorter one, and record data that are shorter or
    longer than they say for the next record.
    """

    def __init__(self, octets: bytes, wanted: int) -> None:
        super().__init__()
        self._octets = octets
        self._wanted = (wanted, dns.CNAME, dns.SOA, dns.OPT)
        self.fromStr(octets)

    def parseRecords(self, list: list[dns.RRHeader], num: int, strio: Any) -> None:
        for _ in range(num):
            start = strio.tell()
            behind = _behind_name(self._octets, start)
            kind, _, _, length = _RECORD.unpack_from(self._octets, behind)
            end = behind + _RECORD.size + length
            if end > len(self._octets):
                raise MalformedError("a record reaches beyond the end")
            if kind not in self._wanted:
                strio.seek(end)
                continue
            header = dns.RRHeader(auth=bool(self.auth))
            header.decode(strio)
            header.payload = self.lookupRecordType(kind)(ttl=header.ttl)
            header.payload.decode(strio, length)
            if strio.tell() != end:
                raise MalformedError("a record is not as long as it says")
            list.append(header)


def _behind_name(octets: bytes, start: int) -> int:
    """Where the octets behind a name begin; IndexError at the end of `octets`."""
    while True:
        length = octets[start]
        if length >= 0xC0:  # RFC 1035 §4.1.4: a pointer ends it
            return start + 2
        start += length + 1
        if length == 0:
            return start


def _payload(record: dns.RRHeader) -> Any:
    """Its data, whose class goes by its type."""
    return record.payload


def _text(name: dns.Name) -> str:
    """A name as str: lower case, without the last dot, "" for the root; odd octets escaped (they match nothing)."""
    return name.name.decode("ascii", "backslashreplace").lower()


_RECORDS: dict[int, Callable[[Any], Any]] = {
    A.code: lambda payload: socket.inet_ntop(socket.AF_INET, payload.address),
    AAAA.code: lambda payload: socket.inet_ntop(socket.AF_INET6, payload.address),
    CNAME.code: lambda payload: _text(payload.name),
    MX.code: lambda payload: Mx(payload.preference, _text(payload.name)),
    PTR.code: lambda payload: _text(payload.name),
    SRV.code: lambda payload: Srv(payload.priority, payload.weight, payload.port, _text(payload.target)),
    TXT.code: lambda payload: b"".join(payload.data),
    TLSA.code: lambda payload: payload.data,
}
