"""A web server over TLS on loopback, whose answers a test scripts, in the reactor of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.delivery.certificates import ServerSide

Answer = Callable[[Any], Any]  # a twisted.web request to bytes or NOT_DONE_YET


class WebServer:
    """Answers every request by `answer`; `asked` holds (method, host, path, body) of each. Close with close()."""

    def __init__(self, side: ServerSide, answer: Answer) -> None:
        self.asked: list[tuple[str, str, str, bytes]] = []
        self.headers: list[dict[bytes, list[bytes]]] = []
        self.answer = answer
        server = self

        class Everything(Resource):
            isLeaf = True

            def render(self, request: Any) -> Any:
                body = request.content.read()
                host = request.getRequestHostname().decode()
                server.asked.append((request.method.decode(), host, request.uri.decode(), body))
                server.headers.append(dict(request.requestHeaders.getAllRawHeaders()))
                return server.answer(request)

        site = Site(Everything())
        site.noisy = False
        self._connections: set[Any] = set()
        secure = TLSMemoryBIOFactory(side, False, cast(Factory, site))
        secure.noisy = False
        self._port = cast(Any, reactor).listenTCP(0, secure, interface="127.0.0.1")
        self.port: int = self._port.getHost().port

    async def close(self) -> None:
        """Listen no more."""
        await self._port.stopListening()


def text(octets: bytes, media: bytes = b"text/plain", status: int = 200) -> Answer:
    """The same page for everybody."""

    def answer(request: Any) -> bytes:
        request.setResponseCode(status)
        if media:
            request.setHeader(b"content-type", media)
        else:
            request.defaultContentType = None
        return octets

    return answer
