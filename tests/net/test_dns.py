"""The resolver against a scripted name server on loopback: what is asked, believed, kept, and tried elsewhere."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import globalLogPublisher
from twisted.names import dns
from twisted.trial.unittest import TestCase

from relaymta.config import Duration
from relaymta.net.dns import AAAA, MX, A, DnsSettings, Mx, Resolver, Security, State
from tests.net.nameserver import Asked, NameServer, Script, record, reply, soa

QUICK = (Duration(0.1), Duration(0.1), Duration(0.1))


class Skewed:
    """The reactor with a clock that a test may put forward, for what is kept; timers stay real."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def seconds(self) -> float:
        return float(reactor.seconds()) + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


def exchanger(asked: Asked) -> list[bytes]:
    """An MX for every name, nothing else."""
    if asked.kind == dns.MX:
        return [reply(asked, record(asked.name, dns.Record_MX(10, f"mx.{asked.name}")))]
    return [reply(asked, authority=[soa(asked.name)])]


def saying(rcode: int) -> Script:
    """A server that has one thing to say."""
    return lambda asked: [reply(asked, rcode=rcode)]


def silent(_: Asked) -> list[bytes]:
    """A server that never answers."""
    return []


class ResolverTestCase(TestCase):
    """Makes servers and resolvers, and closes them."""

    timeout = 20

    def setUp(self) -> None:
        self.skewed = Skewed()

    def server(self, script: Script = exchanger) -> NameServer:
        server = NameServer(script)
        self.addCleanup(lambda: Deferred.fromCoroutine(server.close()))
        return server

    def resolver(self, *servers: NameServer | str, **settings: Any) -> Resolver:
        addresses = tuple(server if isinstance(server, str) else server.address for server in servers)
        settings.setdefault("timeouts", (Duration(2.0),))
        resolver = Resolver(self.skewed, DnsSettings(servers=addresses, **settings))
        self.addCleanup(resolver.close)
        return resolver

    def dead(self) -> str:
        """The address of a server that is not there."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            return f"127.0.0.1:{sock.getsockname()[1]}"


class BelievingTests(ResolverTestCase):
    """Which replies count."""

    async def test_a_question_is_answered(self) -> None:
        """The plain case: one datagram there, one back."""
        server = self.server()
        answer = await self.resolver(server).mx("Example.Test.")
        self.assertEqual(answer.state, State.FOUND)
        self.assertEqual(answer.records, (Mx(10, "mx.example.test"),))
        self.assertEqual(len(server.asked), 1)
        self.assertEqual(server.asked[0].edns, 1232)

    async def test_forged_replies_are_dropped_while_we_wait_for_the_right_one(self) -> None:
        """Replies to another name, type or number do not end the question (RFC 5452 §9.1)."""

        def script(asked: Asked) -> Iterable[bytes]:
            evil = record("victim.test", dns.Record_MX(1, "evil.test"))
            yield reply(asked, evil, ident=asked.message.id ^ 1)
            yield reply(asked, evil, name="other.test")
            yield reply(asked, evil, kind=dns.TXT)
            yield b"garbage"
            yield from exchanger(asked)

        answer = await self.resolver(self.server(script)).mx("victim.test")
        self.assertEqual(answer.records, (Mx(10, "mx.victim.test"),))

    async def test_a_flood_of_forged_replies_moves_the_question_to_tcp(self) -> None:
        """Somebody who found our port may guess the number; over TCP there is nothing to guess."""

        def script(asked: Asked) -> Iterable[bytes]:
            if asked.tcp:
                return exchanger(asked)
            return [reply(asked, ident=(asked.message.id + number) % 65536) for number in range(1, 60)]

        server = self.server(script)
        answer = await self.resolver(server).mx("victim.test")
        self.assertEqual(answer.records, (Mx(10, "mx.victim.test"),))
        self.assertEqual([asked.tcp for asked in server.asked], [False, True])

    async def test_numbers_and_ports_differ_and_ports_are_unprivileged(self) -> None:
        """RFC 5452 §9.2: port and number are random; stock Twisted, as root, takes ports below 1024 too."""
        server = self.server()
        resolver = self.resolver(server)
        await gatherResults([resolver.mx(f"d{number}.test") for number in range(100)])
        self.assertTrue(all(asked.port >= 1024 for asked in server.asked))
        self.assertGreater(len({asked.port for asked in server.asked}), 90)
        self.assertGreater(len({asked.message.id for asked in server.asked}), 90)

    async def test_ad_is_kept_from_a_trusted_validator(self) -> None:
        """Stock Twisted loses AD; with `trust_ad` DO is set and AD is what says secure (RFC 7672 §2.1)."""

        def script(asked: Asked) -> Iterable[bytes]:
            return [reply(asked, record(asked.name, dns.Record_MX(1, "mx.test")), secure=True)]

        server = self.server(script)
        trusting = await self.resolver(server, trust_ad=True).mx("a.test")
        doubting = await self.resolver(server).mx("a.test")
        self.assertEqual((trusting.security, doubting.security), (Security.SECURE, Security.INSECURE))
        self.assertEqual([asked.dnssec for asked in server.asked], [True, False])

    async def test_an_unfollowed_alias_is_followed(self) -> None:
        """A server that stops at a CNAME is asked for its target; nobody vouched for that link."""

        def script(asked: Asked) -> Iterable[bytes]:
            if asked.name == "a.test":
                return [reply(asked, record("a.test", dns.Record_CNAME("b.test")), secure=True)]
            return [reply(asked, record(asked.name, dns.Record_A("192.0.2.1")), secure=True)]

        answer = await self.resolver(self.server(script), trust_ad=True).lookup("a.test", A)
        self.assertEqual((answer.records, answer.canonical), (("192.0.2.1",), "b.test"))
        self.assertEqual(answer.security, Security.INSECURE)

    async def test_endless_aliases_end(self) -> None:
        """A chain without end over many replies is a failure, not a life's work."""

        def script(asked: Asked) -> Iterable[bytes]:
            return [reply(asked, record(asked.name, dns.Record_CNAME("x." + asked.name)))]

        server = self.server(script)
        answer = await self.resolver(server).lookup("a.test", A)
        self.assertEqual(answer.state, State.FAILED)
        self.assertLess(len(server.asked), 10)

    async def test_localhost_is_never_asked_for(self) -> None:
        """RFC 6761 §6.3: localhost is loopback, and has no other records."""
        server = self.server()
        resolver = self.resolver(server)
        self.assertEqual((await resolver.addresses("localhost")).records, ("::1", "127.0.0.1"))
        self.assertEqual((await resolver.mx("a.localhost")).state, State.NODATA)
        self.assertEqual(server.asked, [])

    async def test_a_name_that_cannot_be_sent_does_not_exist(self) -> None:
        """Stock Twisted sends a name of 304 octets; such a name cannot exist, which is a no."""
        server = self.server()
        resolver = self.resolver(server)
        for name in ("x" * 64 + ".test", ".".join(["x" * 60] * 5), "a..b"):
            self.assertEqual((await resolver.mx(name)).state, State.NXDOMAIN)
        self.assertEqual(server.asked, [])

    async def test_ptr_turns_an_address_round(self) -> None:
        """RFC 1035 §3.5 and RFC 3596 §2.5."""

        def script(asked: Asked) -> Iterable[bytes]:
            return [reply(asked, record(asked.name, dns.Record_PTR("host.test")))]

        server = self.server(script)
        resolver = self.resolver(server)
        self.assertEqual((await resolver.ptr("192.0.2.1")).records, ("host.test",))
        await resolver.ptr("2001:db8::1")
        self.assertEqual(server.asked[0].name, "1.2.0.192.in-addr.arpa")
        self.assertTrue(server.asked[1].name.endswith("8.b.d.0.1.0.0.2.ip6.arpa"))


class KeepingTests(ResolverTestCase):
    """What is asked once and what again."""

    async def test_the_same_question_is_asked_once_while_it_is_under_way(self) -> None:
        """One question on the wire however many wait for it: no birthday paradox for a forger (RFC 5452 §5)."""
        server = self.server()
        resolver = self.resolver(server)
        answers = await gatherResults([resolver.mx("a.test"), resolver.mx("A.test."), resolver.mx("a.test")])
        self.assertEqual(len(server.asked), 1)
        self.assertTrue(answers[0] is answers[1] is answers[2])

    async def test_answers_are_kept(self) -> None:
        """createResolver()'s cache is never filled; ours answers the second question, and a plain call."""
        server = self.server()
        resolver = self.resolver(server)
        self.assertIsNone(resolver.cached("a.test", MX))
        answer = await resolver.mx("a.test")
        self.assertIs(resolver.cached("A.TEST", MX), answer)
        self.assertIs(self.successResultOf(resolver.mx("a.test")), answer)
        self.skewed.ahead += 299
        self.assertIs(resolver.cached("a.test", MX), answer)
        self.skewed.ahead += 2
        self.assertIsNone(resolver.cached("a.test", MX))
        await resolver.mx("a.test")
        self.assertEqual(len(server.asked), 2)

    async def test_a_no_is_kept_too(self) -> None:
        """RFC 2308 §5: NXDOMAIN and NODATA are answers."""
        server = self.server(lambda asked: [reply(asked, rcode=3, authority=[soa("test", 60)])])
        resolver = self.resolver(server)
        self.assertEqual((await resolver.mx("a.test")).state, State.NXDOMAIN)
        self.skewed.ahead += 59
        self.assertEqual((await resolver.mx("a.test")).state, State.NXDOMAIN)
        self.assertEqual(len(server.asked), 1)
        self.skewed.ahead += 2
        await resolver.mx("a.test")
        self.assertEqual(len(server.asked), 2)

    async def test_a_failure_is_kept_for_seconds(self) -> None:
        """RFC 2308 §7: a broken zone with a thousand messages is not asked for a thousand times, nor for long not."""
        server = self.server(saying(2))
        resolver = self.resolver(server)
        self.assertEqual((await resolver.mx("a.test")).state, State.FAILED)
        before = len(server.asked)
        await resolver.mx("a.test")
        self.assertEqual(len(server.asked), before)
        self.skewed.ahead += 31
        await resolver.mx("a.test")
        self.assertGreater(len(server.asked), before)

    async def test_addresses_of_both_families_are_asked_for_at_once(self) -> None:
        """A and AAAA in parallel, never ANY (RFC 8482); the result is known to a plain call afterwards."""

        def script(asked: Asked) -> Iterable[bytes]:
            payload = {dns.A: dns.Record_A("192.0.2.1"), dns.AAAA: dns.Record_AAAA("2001:db8::1")}[asked.kind]
            return [reply(asked, record(asked.name, payload))]

        server = self.server(script)
        resolver = self.resolver(server)
        answer = await resolver.addresses("mx.test")
        self.assertEqual(answer.records, ("2001:db8::1", "192.0.2.1"))
        self.assertIs(resolver.cached_addresses("MX.test"), answer)
        self.assertEqual(sorted(asked.kind for asked in server.asked), [dns.A, dns.AAAA])

    async def test_a_failing_aaaa_does_not_lose_a(self) -> None:
        """Broken servers that choke on AAAA are common; the A record is enough to deliver."""

        def script(asked: Asked) -> Iterable[bytes]:
            if asked.kind == dns.AAAA:
                return [reply(asked, rcode=2)]
            return [reply(asked, record(asked.name, dns.Record_A("192.0.2.1")))]

        answer = await self.resolver(self.server(script)).addresses("mx.test")
        self.assertEqual((answer.state, answer.records), (State.FOUND, ("192.0.2.1",)))

    async def test_a_silent_aaaa_does_not_hold_up_a(self) -> None:
        """Some servers never answer AAAA; a known A waits two seconds for it and not for all tries."""

        def script(asked: Asked) -> Iterable[bytes]:
            if asked.kind == dns.AAAA:
                return []
            return [reply(asked, record(asked.name, dns.Record_A("192.0.2.1")))]

        def call_later(delay: float, function: Callable[..., Any], *args: Any) -> Any:
            return reactor.callLater(0.05 if delay == 2.0 else delay, function, *args)

        self.skewed.callLater = call_later  # type: ignore[attr-defined]
        resolver = self.resolver(self.server(script), timeouts=(Duration(15.0),))
        begin = reactor.seconds()
        answer = await resolver.addresses("mx.test")
        self.assertEqual((answer.state, answer.records), (State.FOUND, ("192.0.2.1",)))
        self.assertLess(reactor.seconds() - begin, 5.0)

    async def test_servfail_for_tlsa_is_not_no_tlsa_maddy_292(self) -> None:
        """A TLSA look-up that failed is "could not ask"; taking it for a no was a way round DANE (maddy#292)."""
        resolver = self.resolver(self.server(saying(2)), trust_ad=True, timeouts=QUICK)
        answer = await resolver.tlsa("_25._tcp.mx.test")
        self.assertEqual((answer.state, answer.security, answer.secure), (State.FAILED, Security.FAILED, False))

    async def test_one_who_gives_up_does_not_end_the_question(self) -> None:
        """A cancelled wait is the waiter's own; the others get their answer."""
        resolver = self.resolver(self.server())
        first, second = resolver.mx("a.test"), resolver.mx("a.test")
        first.cancel()
        self.failureResultOf(first)
        self.assertEqual((await second).state, State.FOUND)

    async def test_forgetting_asks_again(self) -> None:
        """The operator may not want to wait for a ttl."""
        server = self.server()
        resolver = self.resolver(server)
        await resolver.mx("a.test")
        resolver.forget()
        await resolver.mx("a.test")
        self.assertEqual(len(server.asked), 2)


class FailingTests(ResolverTestCase):
    """What is tried elsewhere, and how a question ends that nobody answers."""

    async def test_servfail_and_refused_are_asked_at_the_next_server(self) -> None:
        """Stock Twisted takes the first server's SERVFAIL or REFUSED for the last word."""
        for rcode in (2, 5, 9):
            bad, good = self.server(saying(rcode)), self.server()
            answer = await self.resolver(bad, good).mx("a.test")
            self.assertEqual(answer.state, State.FOUND)
            self.assertEqual((len(bad.asked), len(good.asked)), (1, 1))

    async def test_a_single_server_is_asked_twice_after_servfail(self) -> None:
        """Many a SERVFAIL is a lost datagram further on; a second one is believed, as "could not ask"."""
        replies = [saying(2), exchanger]
        server = self.server(lambda asked: replies.pop(0)(asked))
        resolver = self.resolver(server, timeouts=QUICK)
        self.assertEqual((await resolver.mx("a.test")).state, State.FOUND)
        server.script = saying(2)
        answer = await resolver.mx("b.test")
        self.assertEqual((answer.state, answer.security), (State.FAILED, Security.FAILED))
        self.assertIn("SERVFAIL", answer.text)
        self.assertEqual(len(server.asked), 4)

    async def test_nxdomain_is_the_last_word(self) -> None:
        """A no is not asked elsewhere in the hope of a yes."""
        first, second = self.server(saying(3)), self.server()
        self.assertEqual((await self.resolver(first, second).mx("a.test")).state, State.NXDOMAIN)
        self.assertEqual(second.asked, [])

    async def test_a_dead_server_costs_nothing_but_the_first_question(self) -> None:
        """Stock Twisted waits a second for it every time; we are told ECONNREFUSED and remember."""
        good = self.server()
        resolver = self.resolver(self.dead(), good)
        begin = reactor.seconds()
        for number in range(5):
            self.assertEqual((await resolver.mx(f"d{number}.test")).state, State.FOUND)
        self.assertLess(reactor.seconds() - begin, 1.0)

    async def test_a_silent_server_is_left_for_the_next(self) -> None:
        """After the time of a try the next server is asked."""
        quiet, good = self.server(silent), self.server()
        resolver = self.resolver(quiet, good, timeouts=QUICK)
        self.assertEqual((await resolver.mx("a.test")).state, State.FOUND)
        self.assertEqual(len(quiet.asked), 1)

    async def test_silence_ends(self) -> None:
        """Each try has its time, and there is a last one: stock Twisted's defaults take a minute."""
        server = self.server(silent)
        answer = await self.resolver(server, timeouts=QUICK).mx("a.test")
        self.assertEqual((answer.state, answer.records), (State.FAILED, ()))
        self.assertIn("timed out", answer.text)
        self.assertEqual(len(server.asked), 3)
        self.assertEqual(len({asked.message.id for asked in server.asked}), 3)

    async def test_the_default_tries_take_fourteen_seconds(self) -> None:
        """2, 4 and 8 seconds: long enough for a slow zone, short enough for a lane."""
        self.assertEqual(DnsSettings().timeouts, (2.0, 4.0, 8.0))

    async def test_a_restarting_server_is_waited_for(self) -> None:
        """When every server refuses, the next try comes a second later and not at once."""
        waits: list[float] = []

        def call_later(delay: float, function: Callable[..., Any], *args: Any) -> Any:
            waits.append(delay)
            return reactor.callLater(min(delay, 0.05), function, *args)

        self.skewed.callLater = call_later  # type: ignore[attr-defined]
        answer = await self.resolver(self.dead(), timeouts=(5.0, 5.0, 5.0)).mx("a.test")
        self.assertEqual(answer.state, State.FAILED)
        self.assertEqual([wait for wait in waits if wait == 1.0], [1.0, 1.0])

    async def test_running_out_of_descriptors_hangs_nobody(self) -> None:
        """After EMFILE stock Twisted never answers that name again; ours fails at once and recovers in a second."""
        server = self.server()
        resolver = self.resolver(server)
        full = OSError(errno.EMFILE, "Too many open files")
        with patch("relaymta.net.dns_transport.socket.socket", side_effect=full):
            answers = await gatherResults([resolver.mx("a.test"), resolver.mx("a.test")])
        self.assertEqual([answer.state for answer in answers], [State.FAILED] * 2)
        self.assertIn("Too many open files", answers[0].text)
        self.skewed.ahead += 1.5
        self.assertEqual((await resolver.mx("a.test")).state, State.FOUND)

    async def test_questions_under_way_are_bounded(self) -> None:
        """Stock Twisted opens a descriptor for each of 4,000 questions; ours wait their turn."""
        held: list[Asked] = []

        def script(asked: Asked) -> Iterable[bytes]:
            held.append(asked)
            return []

        server = self.server(script)
        resolver = self.resolver(server, concurrency=3)
        waiting = gatherResults([resolver.mx(f"d{number}.test") for number in range(10)])
        most = 0
        while not waiting.called:
            await self.pause()
            most = max(most, len(held))
            if len(held) == 3 or len(server.asked) == 10:
                for asked in held:
                    server.say(asked, exchanger(asked)[0])
                held.clear()
        self.assertEqual(most, 3)
        self.assertEqual({answer.state for answer in await waiting}, {State.FOUND})

    def pause(self) -> Deferred[None]:
        """Let the reactor turn once."""
        done: Deferred[None] = Deferred()
        reactor.callLater(0, done.callback, None)
        return done

    async def test_closing_answers_all_who_wait(self) -> None:
        """At the end of the daemon nobody is left hanging, and no socket or timer stays behind."""
        resolver = self.resolver(self.server(silent), concurrency=1)
        waiting: list[Deferred[Any]] = [resolver.mx("a.test"), resolver.mx("b.test"), resolver.addresses("c.test")]
        resolver.close()
        self.assertEqual([(await one).state for one in waiting], [State.FAILED] * 3)
        self.assertIsNone(resolver.cached("a.test", MX))

    async def test_nothing_is_logged_for_a_question(self) -> None:
        """Stock Twisted writes four lines for each query."""
        server = self.server()
        resolver = self.resolver(server)
        lines: list[Any] = []
        ear: Any = lines.append
        globalLogPublisher.addObserver(ear)
        self.addCleanup(globalLogPublisher.removeObserver, ear)
        await resolver.mx("a.test")
        await self.resolver(self.dead(), server).mx("b.test")
        self.assertEqual(lines, [])

    async def test_a_bug_reaches_those_who_wait_and_clears_the_table(self) -> None:
        """An exception that no rule foresaw errs all who wait, and the name can be asked again."""
        resolver = self.resolver(self.server())
        with patch("relaymta.net.dns.query", side_effect=ZeroDivisionError):
            waiting = [resolver.mx("a.test"), resolver.mx("a.test")]
            for one in waiting:
                self.failureResultOf(one, ZeroDivisionError)
        self.assertEqual((await resolver.mx("a.test")).state, State.FOUND)


class TruncationTests(ResolverTestCase):
    """TCP, and servers without EDNS."""

    @staticmethod
    def big(asked: Asked) -> Iterable[bytes]:
        """A hundred MX records, over TCP alone; the truncated datagram has a record that must not count."""
        if asked.tcp:
            return [reply(asked, *(record(asked.name, dns.Record_MX(n, f"mx{n}.test")) for n in range(100)))]
        return [reply(asked, record(asked.name, dns.Record_MX(1, "first.test")), trunc=True)]

    async def test_a_truncated_answer_is_asked_for_over_tcp(self) -> None:
        """Stock Twisted asks over TCP what stands in the reply; we ask our own question again (RFC 7766 §5)."""
        server = self.server(self.big)
        answer = await self.resolver(server).mx("big.test")
        self.assertEqual(len(answer.records), 100)
        self.assertEqual([asked.tcp for asked in server.asked], [False, True])
        self.assertEqual({asked.name for asked in server.asked}, {"big.test"})

    async def test_many_truncated_answers_at_once(self) -> None:
        """Stock Twisted opens a connection for each and uses one."""
        server = self.server(self.big)
        resolver = self.resolver(server)
        answers = await gatherResults([resolver.mx(f"big{number}.test") for number in range(20)])
        self.assertEqual({len(answer.records) for answer in answers}, {100})

    async def test_a_tcp_connection_that_the_server_closes_fails_at_once(self) -> None:
        """Stock Twisted waits ten seconds for a reply on a closed connection."""
        server = self.server(lambda asked: [] if asked.tcp else [reply(asked, trunc=True)])
        begin = reactor.seconds()
        answer = await self.resolver(server).mx("a.test")
        self.assertEqual(answer.state, State.FAILED)
        self.assertIn("closed the connection", answer.text)
        self.assertLess(reactor.seconds() - begin, 2.0)

    async def test_the_time_for_tcp_is_bounded(self) -> None:
        """Connecting and waiting together have the time of the try."""
        server = self.server(lambda asked: [b"no reply to this"] if asked.tcp else [reply(asked, trunc=True)])
        begin = reactor.seconds()
        answer = await self.resolver(server, timeouts=QUICK).mx("a.test")
        self.assertEqual(answer.state, State.FAILED)
        self.assertIn("timed out over TCP", answer.text)
        self.assertLess(reactor.seconds() - begin, 2.0)

    async def test_a_server_without_tcp_is_left_for_the_next(self) -> None:
        """A firewall that takes TCP for zone transfers alone must not lose the answer where another server has it."""
        first, second = self.server(lambda asked: [] if asked.tcp else [reply(asked, trunc=True)]), self.server()
        resolver = self.resolver(first, second, timeouts=QUICK)
        self.assertEqual((await resolver.mx("a.test")).state, State.FOUND)

    async def test_a_server_that_knows_no_edns_is_asked_without(self) -> None:
        """RFC 6891 §6.2.2: FORMERR is answered with a plain query, and remembered."""
        server = self.server(lambda asked: [reply(asked, rcode=1)] if asked.edns else exchanger(asked))
        resolver = self.resolver(server)
        self.assertEqual((await resolver.mx("a.test")).state, State.FOUND)
        self.assertEqual((await resolver.mx("b.test")).state, State.FOUND)
        self.assertEqual([asked.edns for asked in server.asked], [1232, 0, 0])

    async def test_a_trusted_validator_is_never_asked_without_edns(self) -> None:
        """Without DO no AD comes back: one FORMERR would silently end DANE for all domains."""
        server = self.server(lambda asked: [reply(asked, rcode=1)] if asked.edns else exchanger(asked))
        answer = await self.resolver(server, trust_ad=True, timeouts=QUICK).mx("a.test")
        self.assertEqual(answer.state, State.FAILED)
        self.assertTrue(all(asked.dnssec for asked in server.asked))

    async def test_ipv6_servers_are_asked(self) -> None:
        """A name server may have an IPv6 address; one that cannot be reached is left for the next."""
        server = self.server()
        resolver = self.resolver("[2001:db8::1]:53", server, timeouts=QUICK)
        self.assertEqual((await resolver.lookup("a.test", AAAA)).state, State.NODATA)
        self.assertEqual((await resolver.mx("a.test")).state, State.FOUND)
