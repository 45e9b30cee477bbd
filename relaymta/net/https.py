"""HTTPS as far as mail needs it: one request, verified, with a limit for its time and its size.

RFC 9110 (status codes). Names are resolved by net.dns and not by the system, the certificate is verified by
relaymta.trust against the system's authorities, and a redirect is an answer like any other: it is not
followed. twisted.web.client.Agent speaks; nothing is kept alive.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from itertools import zip_longest
from typing import Any, Final, cast
from urllib.parse import urlsplit

from attrs import frozen
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone
from twisted.web.error import SchemeNotSupported
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from relaymta.net.dns_answer import Answer
from relaymta.trust import Verifying, believing

ADDRESSES_MAX: Final = 4  # tried of one host; ours
CONNECT_SECONDS: Final = 5.0  # for one address; ours
HEAD_MAX: Final = 32 * 1024  # octets of a response beside its body; ours

Addresses = Callable[[str], "Deferred[Answer[str]]"]


class Trouble(Enum):
    """What went wrong."""

    UNREACHABLE = "unreachable"
    CERTIFICATE = "certificate"
    TOO_LARGE = "too large"


class HttpsError(Exception):
    """No response came, or none that may be believed; the text is a short sentence."""

    def __init__(self, trouble: Trouble, text: str) -> None:
        super().__init__(text)
        self.trouble = trouble


@frozen(slots=True)
class Page:
    """A response. `media` is its media type in lower case, without parameters; "" where it has none."""

    status: int
    media: str
    octets: bytes


class Https:
    """Makes requests. `addresses` is a resolver's; `trust_root` is Twisted's IOpenSSLTrustRoot, None for the system's.

    `public_only`: names that lead to addresses which are not globally routable are not connected to, for URLs that a
    stranger chose.
    """

    def __init__(
        self, reactor: Any, addresses: Addresses, *, trust_root: Any = None, public_only: bool = False
    ) -> None:
        self._reactor = reactor
        self._addresses = addresses
        self._options = believing(trust_root)
        self._public_only = public_only

    async def get(self, url: str, *, limit: int, timeout: float) -> Page:
        """Fetch a page of at most `limit` octets within `timeout` seconds. Raises HttpsError."""
        return await self._within(timeout, "GET", url, None, "", limit)

    async def post(self, url: str, octets: bytes, media: str, *, limit: int, timeout: float) -> Page:
        """Send `octets`, of the media type `media`. Raises HttpsError."""
        return await self._within(timeout, "POST", url, octets, media, limit)

    async def _within(
        self, timeout: float, method: str, url: str, octets: bytes | None, media: str, limit: int
    ) -> Page:
        running = Deferred.fromCoroutine(self._request(method, url, octets, media, limit))
        running.addTimeout(timeout, self._reactor)
        try:
            return await running
        except TimeoutError:
            raise HttpsError(Trouble.UNREACHABLE, f"no whole answer within {timeout:g} s") from None

    async def _request(self, method: str, url: str, octets: bytes | None, media: str, limit: int) -> Page:
        try:
            parts = urlsplit(url)
            if parts.scheme != "https" or not parts.hostname or parts.username is not None or not url.isascii():
                raise ValueError
            parts.port  # noqa: B018 raises ValueError where it is none
        except ValueError:
            raise HttpsError(Trouble.UNREACHABLE, f"{url[:80]!r} is not an https URL") from None
        factory = _Endpoints(self._reactor, self._addresses, self._options, self._public_only, limit + HEAD_MAX)
        headers = Headers({b"User-Agent": [b"relaymta"]})
        producer: IBodyProducer | None = None
        if octets is not None:
            headers.addRawHeader(b"Content-Type", media.encode("ascii"))
            producer = _Octets(octets)
        # interface and implementation agree; mypy-zope cannot see it through @implementer of a private class
        agent = Agent.usingEndpointFactory(self._reactor, cast(Any, factory))
        try:
            response = await agent.request(method.encode(), url.encode(), headers, producer)
            body = _Body(limit)
            response.deliverBody(body)
            return Page(response.code, _media(response), await body.done)
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 whatever a peer or its certificate provokes is told as one kind
            if any(failure.check(CancelledError) for failure in getattr(error, "reasons", ())):
                raise CancelledError from None
            raise _explained(error, factory) from None
        finally:
            factory.abort()


def _media(response: IResponse) -> str:
    found: list[bytes] = response.headers.getRawHeaders(b"content-type") or [b""]
    return found[0].decode("latin-1").partition(";")[0].strip().lower()


def _explained(error: BaseException, endpoints: _Endpoints) -> HttpsError:
    """An error of the Agent, of TLS or of a socket as ours."""
    if endpoints.over:
        return HttpsError(Trouble.TOO_LARGE, "the answer is too large")
    reasons = [failure.value for failure in getattr(error, "reasons", ())]
    for one in (error, *reasons):
        if isinstance(one, HttpsError):
            return one
        if isinstance(one, SSL.Error):
            stranger = endpoints.creator is not None and endpoints.creator.stranger
            said = "the certificate is not for this name" if stranger else f"TLS failed: {_said(one)}"
            return HttpsError(Trouble.CERTIFICATE, said)
    for one in (*reasons, error):
        if isinstance(one, (ConnectError, ConnectionClosed, SchemeNotSupported)):
            return HttpsError(Trouble.UNREACHABLE, str(one)[:200])
    return HttpsError(Trouble.UNREACHABLE, f"{type(error).__name__}: {error}"[:200])


def _said(error: SSL.Error) -> str:
    """What OpenSSL says, such as "certificate verify failed"."""
    try:
        return "; ".join(str(entry[-1]) for entry in error.args[0]) or "no reason given"
    except (IndexError, TypeError):
        return str(error) or "no reason given"


class _Body(Protocol):
    """Gathers a body; `done` fires with it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self.done: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._limit:
            self._parts.append(data)
        elif not self.done.called:
            self._parts.clear()
            self.done.errback(HttpsError(Trouble.TOO_LARGE, f"the answer has more than {self._limit} octets"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):  # the latter: it ends where the stream does
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(reason)


@implementer(IBodyProducer)
class _Octets:
    """A body that is at hand."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.length = len(octets)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._octets)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass


class _Meter(ProtocolWrapper):
    """Counts what comes, header section included, and hangs up where it is too much."""

    factory: _Metered
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        if self.factory.count(len(data)):
            super().dataReceived(data)  # type: ignore[no-untyped-call]
        else:
            self.transport.abortConnection()


class _Metered(WrappingFactory):
    protocol = _Meter
    noisy = False

    def __init__(self, wrapped: Any, count: Callable[[int], bool]) -> None:
        super().__init__(wrapped)  # type: ignore[no-untyped-call]
        self.count = count


@implementer(IStreamClientEndpoint)
class _Place:
    """A host by name: its addresses, by our own resolver, one after the other."""

    def __init__(self, reactor: Any, addresses: Addresses, host: str, port: int, public_only: bool) -> None:
        self._reactor = reactor
        self._addresses = addresses
        self._host = host
        self._port = port
        self._public_only = public_only

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        trouble: Exception | None = None
        for address in await self._find():
            kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
            try:
                connected: IProtocol = await kind(self._reactor, address, self._port, CONNECT_SECONDS).connect(factory)
                return connected
            except ConnectError as error:
                trouble = HttpsError(Trouble.UNREACHABLE, f"{self._host} ({address}): {error}"[:200])
        raise trouble or HttpsError(Trouble.UNREACHABLE, f"{self._host} has no address that may be used")

    async def _find(self) -> list[str]:
        try:
            found = [str(ip_address(self._host))]
        except ValueError:
            answer = await self._addresses(self._host)
            if not answer.records:
                raise HttpsError(Trouble.UNREACHABLE, answer.text or f"{self._host} has no address") from None
            found = list(answer.records)
        usable = [one for one in found if not self._public_only or is_public(one)]
        return _both_families(usable)[:ADDRESSES_MAX]


def is_public(address: str) -> bool:
    """Whether it is one host of the internet, also where IPv6 holds an IPv4 address (RFC 4291 §2.5.5; 6to4; NAT64)."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if any(ip in network for network in _HOLDING_IPV4):
            inner = IPv4Address(ip.packed[-4:])
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


_HOLDING_IPV4: Final = (IPv6Network("::/96"), IPv6Network("64:ff9b::/96"))


def _both_families(addresses: list[str]) -> list[str]:
    """Of either family in turn: where one does not work from here, the other gets its try."""
    six, four = ([one for one in addresses if (":" in one) is wanted] for wanted in (True, False))
    return [one for pair in zip_longest(six, four) for one in pair if one is not None]


@implementer(IStreamClientEndpoint)
class _MeteredEndpoint:
    """An endpoint whose connection is metered."""

    def __init__(self, endpoint: IStreamClientEndpoint, metering: Metering) -> None:
        self._endpoint = endpoint
        self._metering = metering

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connected = self._endpoint.connect(cast(IProtocolFactory, _Metered(protocolFactory, self._metering.count)))
        return connected.addCallback(self._unwrapped)

    def _unwrapped(self, meter: Any) -> IProtocol:
        self._metering.meter = meter
        inner: IProtocol = meter.wrappedProtocol
        return inner


@implementer(IAgentEndpointFactory)
class Metering:
    """Where an Agent connects, for one request: to what `endpoint` makes of its URI, for `limit` octets in all."""

    def __init__(self, endpoint: Callable[[Any], IStreamClientEndpoint], limit: int) -> None:
        self._endpoint = endpoint
        self._left = limit
        self.meter: Any = None

    @property
    def over(self) -> bool:
        """Whether more came than allowed."""
        return self._left < 0

    def count(self, octets: int) -> bool:
        """Whether so many octets more may come."""
        self._left -= octets
        return self._left >= 0

    def abort(self) -> None:
        """End the connection, whatever the peer makes of it."""
        if self.meter is not None:
            self.meter.transport.abortConnection()

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:
        """For the Agent."""
        return cast(IStreamClientEndpoint, _MeteredEndpoint(self._endpoint(uri), self))


class _Endpoints(Metering):
    """The verified servers of the outer world."""

    def __init__(
        self, reactor: Any, addresses: Addresses, options: CertificateOptions, public_only: bool, limit: int
    ) -> None:
        super().__init__(self._secure, limit)
        self._reactor = reactor
        self._addresses = addresses
        self._options = options
        self._public_only = public_only
        self.creator: Verifying | None = None

    def _secure(self, uri: Any) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii").strip("[]")
        creator = self.creator = Verifying(self._options, host)
        place = _Place(self._reactor, self._addresses, host, uri.port, self._public_only)
        return wrapClientTLS(cast(Any, creator), cast(IStreamClientEndpoint, place))
