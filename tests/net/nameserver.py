"""A name server whose answers a test scripts: UDP and TCP on loopback, in the reactor of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol, ServerFactory
from twisted.names import dns
from twisted.protocols.basic import Int16StringReceiver

Script = Callable[["Asked"], Iterable[bytes]]


class Asked:
    """One query as it came."""

    def __init__(self, octets: bytes, port: int, tcp: bool) -> None:
        self.octets = octets
        self.port = port
        self.tcp = tcp
        self.message = dns.Message()
        self.message.fromStr(octets)
        self.name = str(self.message.queries[0].name)
        self.kind = self.message.queries[0].type
        opt = [record for record in self.message.additional if record.type == dns.OPT]
        self.edns = opt[0].cls if opt else 0
        self.dnssec = bool(opt and opt[0].ttl & 0x8000)


def reply(asked: Asked, *records: dns.RRHeader, **changes: Any) -> bytes:
    """A reply to `asked` with `records` as its answers.

    `changes`: rcode, authority, additional, name and kind (of the question that it repeats), ident, trunc, secure,
    recurses (whether it offers recursion).
    """
    message = dns.Message(
        changes.get("ident", asked.message.id),
        answer=1,
        recDes=1,
        recAv=int(changes.get("recurses", True)),
        rCode=changes.get("rcode", 0),
        trunc=int(changes.get("trunc", False)),
        authenticData=int(changes.get("secure", False)),
        maxSize=0,
    )
    message.queries = [dns.Query(changes.get("name", asked.name), changes.get("kind", asked.kind), dns.IN)]
    message.answers = list(records)
    message.authority = list(changes.get("authority", ()))
    message.additional = list(changes.get("additional", ()))
    return message.toStr()


def record(owner: str, payload: Any, ttl: int = 300) -> dns.RRHeader:
    """One record."""
    return dns.RRHeader(owner, payload.TYPE, dns.IN, ttl, payload)


def soa(owner: str, minimum: int = 60, ttl: int = 3600) -> dns.RRHeader:
    """The SOA that stands under a no."""
    return record(owner, dns.Record_SOA("ns.invalid", "hostmaster.invalid", 1, 2, 3, 4, minimum), ttl)


class NameServer(DatagramProtocol):
    """Answers by `script`; `asked` holds every query. Close with close()."""

    noisy = False

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self._listen()

    def _listen(self) -> None:
        factory = ServerFactory()
        factory.noisy = False
        factory.protocol = lambda: _Stream(self)
        self._closed: list[Any] = []
        while True:
            # TCP first: a datagram protocol that was connected once cannot be connected again
            self._tcp: Any = cast(Any, reactor).listenTCP(0, factory, interface="127.0.0.1")
            self.port = self._tcp.getHost().port
            try:
                self._udp: Any = cast(Any, reactor).listenUDP(self.port, self, interface="127.0.0.1")
                return
            except CannotListenError:
                self._closed.append(self._tcp.stopListening())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        for octets in self.answer(Asked(datagram, addr[1], tcp=False)):
            self._udp.write(octets, addr)

    def answer(self, asked: Asked) -> Iterable[bytes]:
        self.asked.append(asked)
        return self.script(asked)

    def say(self, asked: Asked, octets: bytes) -> None:
        """A reply at some later time (UDP)."""
        self._udp.write(octets, ("127.0.0.1", asked.port))

    async def close(self) -> None:
        await self._udp.stopListening()
        await self._tcp.stopListening()
        for closed in self._closed:
            await closed


class _Stream(Int16StringReceiver):
    transport: Any

    def __init__(self, server: NameServer) -> None:
        self._server = server

    def stringReceived(self, string: bytes) -> None:
        peer = self.transport.getPeer()
        assert isinstance(peer, IPv4Address)
        replies = list(self._server.answer(Asked(string, peer.port, tcp=True)))
        for octets in replies:
            self.sendString(octets)
        if not replies:
            self.transport.loseConnection()
