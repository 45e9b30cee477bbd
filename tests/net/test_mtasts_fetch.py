"""Fetching policies from a real web server on loopback, with a CA of this run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.names import dns
from twisted.trial.unittest import TestCase
from twisted.web.server import NOT_DONE_YET

from relaymta.net.dns import DnsSettings, Resolver
from relaymta.net.dns_answer import Answer as DnsAnswer
from relaymta.net.dns_answer import State
from relaymta.net.https import Https, HttpsError, Trouble, is_public
from relaymta.net.mtasts_fetch import FETCH_ERROR, INVALID, WEBPKI_INVALID, Fetcher, FetchError
from relaymta.net.mtasts_policy import Mode, StsPolicy
from tests.delivery.certificates import ServerSide, authority
from tests.net.nameserver import Asked, NameServer, record, reply, soa
from tests.net.webserver import Answer, WebServer, text

POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: *.example.test\r\nmax_age: 86400\r\n"


def faulty(*, days: int = 1, names: tuple[str, ...] = ("mta-sts.example.test",)) -> ServerSide:
    """A certificate of our authority for mta-sts.example.test by its CN, that ends in so many days."""
    ours = authority()
    key = ec.generate_private_key(ec.SECP256R1())
    name = "mta-sts.example.test"
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ours.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
    )
    if names:
        alternative = x509.SubjectAlternativeName([x509.DNSName(one) for one in names])
        builder = builder.add_extension(alternative, critical=False)
    return ServerSide(key, builder.sign(ours.key, hashes.SHA256()))


class FetchTests(TestCase):
    """One fetch each."""

    timeout = 20

    def setUp(self) -> None:
        self.names = NameServer(self.resolve)
        self.addCleanup(self.names.close)
        self.resolver = Resolver(reactor, DnsSettings(servers=(self.names.address,)))
        self.addCleanup(self.resolver.close)
        self.https = Https(reactor, self.resolver.addresses, trust_root=authority().trusted)

    def resolve(self, asked: Asked) -> list[bytes]:
        """Every name that is not "nowhere" is this host."""
        if "nowhere" in asked.name or asked.kind != dns.A:
            return [reply(asked, authority=[soa(asked.name)])]
        return [reply(asked, record(asked.name, dns.Record_A("127.0.0.1")))]

    def serve(self, answer: Answer, name: str = "mta-sts.example.test") -> WebServer:
        """A web server with a certificate for `name`."""
        server = WebServer(authority().server(name), answer)
        self.addCleanup(server.close)
        return server

    async def fetch(self, answer: Answer, name: str = "mta-sts.example.test", seconds: float = 10.0) -> StsPolicy:
        """The policy of example.test where its server answers so."""
        self.server = self.serve(answer, name)
        return await Fetcher(self.https, port=self.server.port, seconds=seconds).fetch("example.test", "1")

    async def fails(self, *arguments: Any, **more: Any) -> FetchError:
        """The error of a fetch."""
        try:
            await self.fetch(*arguments, **more)
        except FetchError as error:
            return error
        raise AssertionError("it was fetched")

    async def test_a_policy_is_fetched(self) -> None:
        """RFC 8461 §3.3: GET /.well-known/mta-sts.txt at the policy host, over verified HTTPS."""
        policy = await self.fetch(text(POLICY, b"text/plain; charset=utf-8"))
        self.assertEqual((policy.mode, policy.mx, policy.id), (Mode.ENFORCE, ("*.example.test",), "1"))
        self.assertEqual(self.server.asked, [("GET", "mta-sts.example.test", "/.well-known/mta-sts.txt", b"")])

    async def test_a_certificate_for_another_name_is_refused(self) -> None:
        """RFC 8461 §3.3: valid for "mta-sts." and the domain."""
        error = await self.fails(text(POLICY), name="www.example.test")
        self.assertEqual(error.result, WEBPKI_INVALID)
        self.assertEqual(self.server.asked, [])

    async def test_an_unknown_authority_is_refused(self) -> None:
        """RFC 8461 §3.3: a chain to an authority that we trust; here only the system's are."""
        self.https = Https(reactor, self.resolver.addresses)
        error = await self.fails(text(POLICY))
        self.assertEqual(error.result, WEBPKI_INVALID)
        self.assertIn("certificate verify failed", str(error))

    async def test_an_expired_certificate_and_a_mere_common_name_are_refused(self) -> None:
        """RFC 8461 §3.3: non-expired, and the name is a DNS-ID of the certificate, never its CN."""
        for side in (faulty(days=-1), faulty(names=()), faulty(names=("*",)), faulty(names=("\x01", "*.*.test"))):
            server = WebServer(side, text(POLICY))
            self.addCleanup(server.close)
            with self.assertRaises(FetchError) as caught:
                await Fetcher(self.https, port=server.port).fetch("example.test", "1")
            self.assertEqual((caught.exception.result, server.asked), (WEBPKI_INVALID, []))
        server = WebServer(faulty(), text(POLICY))
        self.addCleanup(server.close)
        self.assertEqual((await Fetcher(self.https, port=server.port).fetch("example.test", "1")).id, "1")

    async def test_a_redirect_is_not_followed(self) -> None:
        """RFC 8461 §3.3: HTTP 3xx redirects MUST NOT be followed."""

        def answer(request: Any) -> bytes:
            request.redirect(b"https://mta-sts.example.test/elsewhere")
            request.setHeader(b"content-type", b"text/plain")
            return POLICY

        error = await self.fails(answer)
        self.assertEqual((error.result, len(self.server.asked)), (FETCH_ERROR, 1))
        self.assertIn("302", str(error))

    async def test_only_text_is_a_policy(self) -> None:
        """RFC 8461 §3.2: the media type is checked, and a status other than 200 is no policy."""
        for media, status in ((b"text/html", 200), (b"", 200), (b"text/plain", 201), (b"text/plain", 404)):
            error = await self.fails(text(POLICY, media, status))
            self.assertEqual(error.result, FETCH_ERROR)

    async def test_a_broken_policy_is_invalid(self) -> None:
        """RFC 8460 §4.3.2.2: sts-policy-invalid."""
        error = await self.fails(text(b"version: STSv1\n"))
        self.assertEqual(error.result, INVALID)

    async def test_too_much_is_not_read(self) -> None:
        """RFC 8461 §3.3: 64 KiB; what goes on for ever is cut, in the body and in the header."""
        error = await self.fails(text(POLICY + b"x: y\n" * 20000))
        self.assertEqual(error.result, FETCH_ERROR)
        self.assertIn("octets", str(error))

        def endless(request: Any) -> int:
            def more() -> None:
                if not request._disconnected:
                    request.write(b"x: y\n" * 5000)
                    reactor.callLater(0, more)

            request.setHeader(b"content-type", b"text/plain")
            more()
            return NOT_DONE_YET

        self.assertEqual((await self.fails(endless)).result, FETCH_ERROR)

        def heady(request: Any) -> bytes:
            request.setHeader(b"content-type", b"text/plain")
            for number in range(3000):
                request.responseHeaders.addRawHeader(b"x-%d" % number, b"y" * 60)
            return POLICY

        error = await self.fails(heady)
        self.assertIn("too large", str(error))

    async def test_no_octets_of_a_server_are_a_bug(self) -> None:
        """Each is a failure with a reason, within its time, and the connection is gone; nothing is logged."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
        for said in (
            b"\0\xff\r\n\r\n",
            b"hello\r\n",
            b"HTTP/1.1 200 " + b"x" * 100_000,
            b"HTTP/9.9 99999999999999999999 x\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nx",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
            head + b"no colon\r\n\r\n",
            head + b"X: y\r\n" * 40_000,
            head + b"Content-Length: -5\r\n\r\nabc",
            head + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            head + b"Content-Length: 99999999999999999999999999\r\n\r\nabcd",
            head + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffffffff\r\nabc\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\n3;" + b"x" * 40_000 + b"\r\nabc\r\n0\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        ):
            gone: Deferred[None] = Deferred()
            raw: Any = Protocol()
            raw.dataReceived = lambda _, it=raw, octets=said: it.transport.write(octets)
            raw.connectionLost = lambda *_, it=gone: it.callback(None)
            factory: Any = Factory()
            factory.noisy = False
            factory.buildProtocol = lambda _, it=raw: it
            net: Any = reactor
            port = net.listenSSL(0, factory, authority().server("mta-sts.example.test"), interface="127.0.0.1")
            fetcher = Fetcher(self.https, port=port.getHost().port, seconds=0.3)
            with self.assertRaises(FetchError, msg=said[:60]):
                await fetcher.fetch("example.test", "1")
            await gone.addTimeout(5.0, net)
            await port.stopListening()

    async def test_a_slow_server_is_left(self) -> None:
        """RFC 8461 §3.3: one minute for all of it; here less."""
        error = await self.fails(lambda request: NOT_DONE_YET, seconds=0.3)
        self.assertEqual(error.result, FETCH_ERROR)
        self.assertIn("0.3 s", str(error))

        def drip(request: Any) -> int:
            request.setHeader(b"content-type", b"text/plain")
            request.write(b"version: STSv1\n")
            return NOT_DONE_YET

        self.assertIn("0.3 s", str(await self.fails(drip, seconds=0.3)))

    async def test_a_host_without_address_or_server_is_a_failure(self) -> None:
        """Nobody there is told as such."""
        fetcher = Fetcher(self.https, port=9)
        for domain in ("nowhere.test", "example.test"):
            with self.assertRaises(FetchError) as caught:
                await fetcher.fetch(domain, "1")
            self.assertEqual(caught.exception.result, FETCH_ERROR)

    async def test_the_next_address_is_tried(self) -> None:
        """Where one address does not answer, another one does; of either family in turn."""
        tried = ["::1", "::2", "::3", "::4", "127.0.0.1"]

        def addresses(name: str) -> Any:
            return succeed(DnsAnswer(State.FOUND, tuple(tried), 60.0))

        self.https = Https(reactor, addresses, trust_root=authority().trusted)
        self.assertEqual((await self.fetch(text(POLICY))).mode, Mode.ENFORCE)

    async def test_an_end_by_the_end_of_the_stream(self) -> None:
        """A body without a declared length is taken as it came."""

        def answer(request: Any) -> int:
            request.setHeader(b"content-type", b"text/plain")
            request.setHeader(b"connection", b"close")
            request.clientproto = b"HTTP/1.0"
            request.write(POLICY)
            request.finish()
            return NOT_DONE_YET

        self.assertEqual((await self.fetch(answer)).max_age, 86400)

    async def test_posting_to_a_strangers_url(self) -> None:
        """A body is sent with its media type; addresses inside are not connected to where only public ones may be."""
        server = self.serve(text(b"thanks", status=201), name="reports.example.test")
        url = f"https://reports.example.test:{server.port}/tls?x=1"
        page = await self.https.post(url, b"report", "application/tlsrpt+gzip", limit=100, timeout=10)
        self.assertEqual((page.status, page.octets), (201, b"thanks"))
        self.assertEqual(server.asked, [("POST", "reports.example.test", "/tls?x=1", b"report")])
        self.assertEqual(server.headers[0][b"Content-Type"], [b"application/tlsrpt+gzip"])
        wary = Https(reactor, self.resolver.addresses, trust_root=authority().trusted, public_only=True)
        for name in ("reports.example.test", "127.0.0.1", "[::1]"):
            with self.assertRaises(HttpsError) as caught:
                await wary.post(f"https://{name}:{server.port}/", b"", "text/plain", limit=9, timeout=10)
            self.assertEqual(caught.exception.trouble, Trouble.UNREACHABLE)
        self.assertEqual(len(server.asked), 1)

    async def test_which_addresses_are_public(self) -> None:
        """Those of one host that the internet has; an IPv4 address inside an IPv6 one is looked at, too."""
        for inside in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.1.1", "100.64.0.1"):
            number = f"{int(ip_address(inside)):08x}"
            high, low = number[:4], number[4:]
            for address in (inside, f"::ffff:{inside}", f"::{inside}", f"64:ff9b::{inside}", f"2002:{high}:{low}::1"):
                self.assertFalse(is_public(address), address)
        for address in ("::1", "::", "fe80::1", "fec0::1", "fd00::1", "ff0e::1", "2001:db8::1", "2001::1"):
            self.assertFalse(is_public(address), address)
        for address in ("9.9.9.9", "2620:fe::fe", "::ffff:9.9.9.9", "64:ff9b::9.9.9.9"):
            self.assertTrue(is_public(address), address)

    async def test_what_is_no_https_url(self) -> None:
        """No other scheme, no password, no port that is none."""
        for url in ("http://a.test/", "https://", "https://u:p@a.test/", "https://a.test:x/", "ftp://a.test/"):
            with self.assertRaises(HttpsError):
                await self.https.get(url, limit=1, timeout=5)
