"""A network without sockets: addresses with servers behind them, and a clock that is its reactor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionRefusedError, TimeoutError
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import directlyProvides

from relaymta.delivery.attempt import Batch, Deliveries
from relaymta.delivery.settings import Settings, Source
from relaymta.events import Event, TlsChecked
from relaymta.mail.content import Content, MemoryContent
from relaymta.mail.envelope import Recipient
from relaymta.mail.outcome import Outcome
from relaymta.routing.mx import Host, Refusal
from relaymta.routing.route import Hop, Route, TlsLevel, Transport
from tests.smtp.scripted import BODY, Server, envelope

REFUSES = "refuses"
HANGS = "hangs"
Behaviour = Server | str | Callable[[], Server]


class Line:
    """One connection: what is written reaches the server on the next turn, and its answer the turn after."""

    def __init__(self, network: Network, server: Server, protocol: Any) -> None:
        self.network, self.server, self.protocol = network, server, protocol
        self.connected = True
        self.disconnecting = False
        self.nodelay = False
        self._producer: Any = None
        directlyProvides(self, ITCPTransport)

    def start(self) -> None:
        """The greeting."""
        self.protocol.makeConnection(self)
        self._hear(self.server.greet())

    def write(self, data: bytes) -> None:
        if self.connected and data:
            self.network.callLater(0, self._carry, data)

    def _carry(self, data: bytes) -> None:
        if self.connected and not self.server.closed:
            self._hear(self.server.feed(data))

    def _hear(self, said: bytes) -> None:
        if said:
            self.network.callLater(0, self._deliver, said)
        if self.server.closed:
            self.network.callLater(0, self.drop)

    def _deliver(self, said: bytes) -> None:
        if self.connected:
            self.protocol.dataReceived(said)

    def drop(self, reason: Exception | None = None) -> None:
        """The connection ends."""
        if self.connected:
            self.connected = False
            self.network.lines.discard(self)
            self.protocol.connectionLost(Failure(reason or ConnectionDone()))

    def loseConnection(self) -> None:
        self.disconnecting = True
        self.network.callLater(0, self.drop)

    def abortConnection(self) -> None:
        self.network.callLater(0, self.drop)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer
        while self._producer is not None:
            self._producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def getHost(self) -> IPv4Address:
        """Our end."""
        return IPv4Address("TCP", "192.0.2.99", 40000)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.nodelay = enabled


class Connector:
    """A connection that is being made."""

    def __init__(self, network: Network, factory: Any, failure: Exception, after: float) -> None:
        self._factory = factory
        self._call = network.callLater(after, self._fail, failure)

    def _fail(self, failure: Exception) -> None:
        self._factory.clientConnectionFailed(self, Failure(failure))

    def disconnect(self) -> None:
        self._call.cancel()
        self._fail(ConnectionDone())



class Network(Clock):
    """`places`: what is behind (address, port), or (path, 0); a callable makes a server for each connection."""

    def __init__(self) -> None:
        super().__init__()
        self.advance(5000.0)
        self.places: dict[tuple[str, int], Behaviour] = {}
        self.dialled: list[tuple[str, int]] = []
        self.bound: list[tuple[str, int] | None] = []
        self.servers: list[Server] = []
        self.lines: set[Line] = set()

    def connect(
        self, reactor: Any, host: str, port: int, factory: Any, timeout: float, bind_address: tuple[str, int] | None
    ) -> None:
        """In place of net.eager.connect_tcp."""
        self.dialled.append((host, port))
        self.bound.append(bind_address)
        behaviour = self.places.get((host, port), REFUSES)
        if isinstance(behaviour, str):
            failure = TimeoutError() if behaviour == HANGS else ConnectionRefusedError()
            after = timeout if behaviour == HANGS else 0
            factory.startedConnecting(Connector(self, factory, failure, after))
            return
        server = behaviour if isinstance(behaviour, Server) else behaviour()
        self.servers.append(server)
        line = Line(self, server, factory.buildProtocol(None))
        self.lines.add(line)
        self.callLater(0, line.start)

    def connectUNIX(self, path: str, factory: Any, timeout: float) -> None:
        """As IReactorUNIX has it."""
        self.connect(self, path, 0, factory, timeout, None)

    def getThreadPool(self) -> ThreadPool:
        raise AssertionError("no thread is wanted here")

    def settle(self, turns: int = 2000) -> None:
        """Let all that is due happen, without time passing."""
        for _ in range(turns):
            if not any(call.getTime() <= self.seconds() for call in self.getDelayedCalls()):
                return
            self.advance(0)
        raise AssertionError("the network does not come to rest")


@define
class Finder:
    """Hosts by the name of the next hop."""

    hosts: dict[str, tuple[Host, ...] | Refusal]
    lazy: dict[str, tuple[str, ...] | Refusal] = field(factory=dict)
    asked: list[str] = field(factory=list)

    async def find(self, hop: Hop) -> tuple[Host, ...] | Refusal:
        self.asked.append(hop.name)
        return self.hosts[hop.name]

    async def resolve(self, host: Host) -> Host | Refusal:
        self.asked.append(host.name)
        found = self.lazy[host.name]
        return found if isinstance(found, Refusal) else Host(host.name, host.port, host.preference, found)


@define
class House:
    """Deliveries on a network, and what they told; what they told of TLS by itself."""

    network: Network
    deliveries: Deliveries
    finder: Finder
    events: list[Event] = field(factory=list)
    checked: list[TlsChecked] = field(factory=list)

    def deliver(self, *recipients: str | Recipient, **more: Any) -> list[Outcome]:
        """Attempt a batch; its outcomes."""
        outcomes: list[list[Outcome]] = []
        self.start(*recipients, **more).addCallback(outcomes.append)
        for _ in range(1000):
            self.network.settle()
            if outcomes:
                return outcomes[0]
            self.network.advance(30.0)
        raise AssertionError("no outcome")

    def start(self, *recipients: str | Recipient, content: bytes | Content = BODY, **more: Any) -> Any:
        """Attempt a batch; the Deferred."""
        route = more.pop("route", None) or route_to()
        made = MemoryContent(content) if isinstance(content, bytes) else content
        indices = more.pop("indices", tuple(range(len(recipients))))
        return self.deliveries.attempt(Batch("Q1", envelope(*recipients, **more), made, indices, route, route.lane))


def route_to(*names: str, transport: Transport = Transport.SMTP, **more: Any) -> Route:
    """A route over these next hops."""
    hops = tuple(Hop(name) for name in names or ("b.test",))
    return Route(transport, more.pop("hops", hops), more.pop("tls", TlsLevel.OPPORTUNISTIC), **more)


def house(
    *behaviours: Behaviour, settings: Settings | None = None, sources: tuple[Source, ...] = (), **more: Any
) -> House:
    """Deliveries to b.test, whose hosts mx0.b.test at 192.0.2.0, mx1... behave so, in this order."""
    network = Network()
    hosts = []
    for number, behaviour in enumerate(behaviours):
        network.places[f"192.0.2.{number}", 25] = behaviour
        hosts.append(Host(f"mx{number}.b.test", 25, number, (f"192.0.2.{number}",)))
    events: list[Event] = []
    checked: list[TlsChecked] = []

    def tell(event: Event) -> None:
        if isinstance(event, TlsChecked):
            checked.append(event)
        else:
            events.append(event)

    finder = more.pop("finder", None) or Finder({"b.test": tuple(hosts)})
    deliveries = Deliveries(
        network,
        finder,
        settings or Settings(),
        hostname="us.test",
        tell=tell,
        sources=sources,
        accounts=more.pop("accounts", ()),
        now=lambda: 1_700_000_000.0,
        connect=network.connect,
        **more,
    )
    return House(network, deliveries, finder, events, checked)
