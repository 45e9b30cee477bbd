"""Policy over real sockets: MTA-STS, REQUIRETLS, TLS-Required, exceptions, and who may share a connection."""

from __future__ import annotations

import functools
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from twisted.internet.defer import Deferred

from relaymta.delivery.settings import Day, Settings, TlsException
from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.net.dns import Answer as DnsAnswer
from relaymta.net.dns import Security as Vouched
from relaymta.net.dns import State
from relaymta.routing.mx import FAILURES_MAX, Host, Refusal
from relaymta.routing.route import TlsLevel
from tests.delivery.loopback import HOST, Loopback
from tests.delivery.network import REFUSES, Finder, house, route_to
from tests.delivery.test_security import Mode, Policy, World
from tests.net.pki import Issued, Presents, issue
from tests.smtp.scripted import Server

TLS = ("STARTTLS", "PIPELINING")
REQUIRETLS = ("STARTTLS", "PIPELINING", "REQUIRETLS")


@functools.cache
def root() -> Issued:
    """The authority that is believed."""
    return issue("believed", authority=True)


def leaf(name: str = HOST, **more: Any) -> Presents:
    """A server's certificate of it."""
    return Presents((issue(name, root(), names=[name], **more),))


STRANGER = Presents((issue(HOST, names=[HOST]),))


class Believing(Loopback):
    """With one authority of our own."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(tempfile.mkdtemp(prefix="relaymta-"))
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "ca.pem").write_bytes(root().pem)
        self.believe()

    def believe(self, **more: Any) -> None:
        """Deliveries that believe it."""
        self.deliveries = self.make(str(self.folder / "ca.pem"), **more)

    def publish(self, mode: Mode, *mx: str) -> None:
        """b.test has an MTA-STS policy."""
        self.believe(sts=World(policies={"b.test": Policy(mode, mx or (HOST,))}))


class MtaStsTests(Believing):
    """RFC 8461, with a policy as net.mtasts would give it."""

    async def test_enforced_and_as_it_should_be(self) -> None:
        """A host that the policy names, with a certificate of a known authority: delivered and verified."""
        self.publish(Mode.ENFORCE)
        self.listen(lambda: Server(offers=TLS), leaf())
        (outcome,) = await self.deliver("a@b.test")
        assert outcome.fate is Fate.RELAYED and outcome.tls.endswith("(verified: PKIX, by MTA-STS)")
        [told] = self.checked()
        assert (told.domain, told.policy, told.mx_patterns, told.result) == ("b.test", "sts", (HOST,), "")
        assert (told.source, told.policy_domain) == ("127.0.0.1", "")
        assert told.terms == ("version: STSv1",)

    async def test_enforced_and_not_as_it_should_be(self) -> None:
        """RFC 8461 §5: each fault defers with its own reason and result; nothing is said, nothing goes in clear."""
        self.publish(Mode.ENFORCE)
        for certificate, result, text in (
            (leaf("other.test"), "certificate-host-mismatch", f"the certificate is not for {HOST}"),
            (leaf(expired=True), "certificate-expired", "it has expired"),
            (leaf(early=True), "certificate-expired", "it is not yet valid"),
            (STRANGER, "certificate-not-trusted", "it is signed by itself"),
        ):
            self.listen(lambda: Server(offers=TLS), certificate)
            (outcome,) = await self.deliver("a@b.test")
            assert (outcome.fate, outcome.status) == (Fate.DEFERRED, "4.7.5") and text in outcome.text
            assert self.checked()[-1].result == result
            assert self.checked()[-1].source == "127.0.0.1"  # RFC 8460 §4.4, sending-mta-ip
            assert self.servers[-1].commands == ["EHLO us.test", "STARTTLS", "(handshake)"]
        self.listen()
        (outcome,) = await self.deliver("a@b.test")
        assert (outcome.fate, self.checked()[-1].result) == (Fate.DEFERRED, "starttls-not-supported")
        assert self.checked()[-1].source == "127.0.0.1"
        self.listen(lambda: Server(offers=TLS))
        (outcome,) = await self.deliver("a@b.test")
        assert (outcome.fate, self.checked()[-1].result) == (Fate.DEFERRED, "validation-failure")

    async def test_enforced_for_other_hosts(self) -> None:
        """RFC 8461 §5: a host that the policy does not name is passed over without a word."""
        self.publish(Mode.ENFORCE, "other.test")
        self.listen(lambda: Server(offers=TLS), leaf())
        (outcome,) = await self.deliver("a@b.test")
        assert outcome.fate is Fate.DEFERRED and "does not name" in outcome.text and not self.servers
        assert self.checked()[-1].result == "validation-failure"

    async def test_testing_delivers_and_tells(self) -> None:
        """RFC 8461 §5.1: mail goes as if there were no policy; what would have failed is reported."""
        self.publish(Mode.TESTING)
        for certificate, result in (
            (leaf(), ""),
            (leaf(expired=True), "certificate-expired"),
            (leaf("other.test"), "certificate-host-mismatch"),
            (STRANGER, "certificate-not-trusted"),
        ):
            self.publish(Mode.TESTING)
            self.listen(lambda: Server(offers=TLS), certificate)
            (outcome,) = await self.deliver("a@b.test")
            assert outcome.fate is Fate.RELAYED and outcome.tls and "verified" not in outcome.tls
            assert (self.checked()[-1].policy, self.checked()[-1].result) == ("sts", result)
        self.publish(Mode.TESTING)
        self.listen()
        (outcome,) = await self.deliver("a@b.test")
        assert outcome.fate is Fate.RELAYED and self.checked()[-1].result == "starttls-not-supported"

    async def test_a_broken_handshake_is_counted_before_clear_text(self) -> None:
        """Opportunistic fall-back is a failure for the report, once, though the mail goes through."""
        self.publish(Mode.TESTING)
        self.listen(lambda: Server(offers=TLS))
        (outcome,) = await self.deliver("a@b.test")
        assert outcome.fate is Fate.RELAYED and outcome.tls == ""
        assert [(told.result, told.source) for told in self.checked()] == [("validation-failure", "127.0.0.1")]
        await self.deliveries.close(1.0)
        assert len(self.servers) == 2

    async def test_a_connection_counts_once(self) -> None:
        """RFC 8460 §4.3 counts sessions: three messages over one are one."""
        self.listen(lambda: Server(offers=TLS), leaf())
        for _ in range(3):
            await self.deliver("a@b.test")
        [told] = self.checked()
        assert (told.policy, told.result) == ("no-policy-found", "")


class RequireTlsTests(Believing):
    """RFC 8689 on the way out."""

    def send(self, route: Any = None, **wishes: Any) -> Any:
        """A message that demands TLS."""
        return self.deliver("a@b.test", route=route, requiretls=True, **wishes)

    async def test_it_is_passed_on(self) -> None:
        """RFC 8689 §4.2.1: a verified host that offers it gets the message, and the demand with it."""
        self.listen(lambda: Server(offers=REQUIRETLS), leaf(), named=True)
        (outcome,) = await self.send()
        assert outcome.fate is Fate.RELAYED and outcome.tls.endswith("(verified: PKIX)")
        assert self.servers[0].taken[0].mail == "FROM:<s@from.test> REQUIRETLS"

    async def fails(self, status: str, **wishes: Any) -> Outcome:
        """It is returned to its sender."""
        (outcome,) = await self.send(**wishes)
        assert (outcome.fate, outcome.scope, outcome.status) == (Fate.FAILED, Scope.MESSAGE, status), outcome
        assert not any(server.taken for server in self.servers)
        return outcome

    async def test_nobody_who_keeps_to_it(self) -> None:
        """No REQUIRETLS is 5.7.30; no TLS, and no proof, 5.7.10."""
        self.listen(lambda: Server(offers=TLS), leaf(), named=True)
        assert "does not offer REQUIRETLS" in (await self.fails("5.7.30")).text
        self.listen(lambda: Server(offers=("REQUIRETLS",)), named=True)
        await self.fails("5.7.10")
        self.listen(lambda: Server(offers=REQUIRETLS), STRANGER, named=True)
        await self.fails("5.7.10")
        self.listen(lambda: Server(offers=REQUIRETLS), leaf())
        assert "neither DNSSEC nor MTA-STS" in (await self.fails("5.7.10")).text
        self.listen(lambda: Server(offers=REQUIRETLS), leaf(), named=True)
        await self.fails("5.7.10", route=route_to(tls=TlsLevel.NONE))

    async def test_the_next_host_may_keep_to_it(self) -> None:
        """RFC 8689 §4.2.1: each host of the list is tried."""
        self.listen(lambda: Server(offers=TLS), leaf(), named=True)
        self.listen(lambda: Server(offers=REQUIRETLS), leaf(), named=True, beside=True)
        (outcome,) = await self.send()
        assert outcome.fate is Fate.RELAYED and len(self.servers[1].taken) == 1

    async def test_a_host_that_is_down_keeps_it_waiting(self) -> None:
        """One host says no and another cannot be asked: the message waits, in whichever order they come."""
        down = Host("mx2.b.test", 1, 0, ("127.0.0.1",), named=True)
        self.listen(lambda: Server(offers=TLS), leaf(), named=True)
        [up] = self.finder.hosts["b.test"]  # type: ignore[misc]
        for order in ((up, down), (down, up)):
            self.deliveries = self.make(str(self.folder / "ca.pem"))
            self.finder.hosts["b.test"] = order
            (outcome,) = await self.send()
            assert (outcome.fate, outcome.status) == (Fate.DEFERRED, "4.4.1"), order

    async def test_the_null_sender_is_not_bound(self) -> None:
        """RFC 8689 §4.2.1: a notice goes where it can, and asks for TLS where that is understood."""
        self.listen(lambda: Server(offers=TLS), STRANGER)
        (outcome,) = await self.send(sender="")
        assert outcome.fate is Fate.RELAYED and self.servers[0].taken[0].mail == "FROM:<>"

    async def test_its_connections_are_its_own(self) -> None:
        """A connection that was good enough for plain mail is not lent to what demands more, nor the other way."""
        self.listen(lambda: Server(offers=REQUIRETLS), leaf(), named=True)
        await self.deliver("a@b.test")
        (outcome,) = await self.send()
        assert "verified" in outcome.tls and len(self.servers) == 2
        (outcome,) = await self.send()
        assert "verified" in outcome.tls and len(self.servers) == 2  # the second demand finds the first one's
        assert [len(server.taken) for server in self.servers] == [1, 2]


class OtherWishesTests(Believing):
    """TLS-Required: No, and exceptions."""

    async def test_tls_required_no_is_for_the_message_alone(self) -> None:
        """RFC 8689 §4.2.2: it passes the policy over; the next plain message does not get its connection."""
        self.publish(Mode.ENFORCE)
        self.listen(lambda: Server(offers=TLS), STRANGER)
        (outcome,) = await self.deliver("a@b.test", tls_optional=True)
        assert outcome.fate is Fate.RELAYED and not self.checked()
        (outcome,) = await self.deliver("a@b.test")
        assert outcome.fate is Fate.DEFERRED and len(self.servers[0].taken) == 1
        (outcome,) = await self.deliver("a@b.test", tls_optional=True, requiretls=True)
        assert outcome.fate is not Fate.RELAYED  # RFC 8689 §4.1: REQUIRETLS overrules the header

    async def test_an_exception_opens_a_way_until_its_day_is_over(self) -> None:
        """An operator's exception delivers what the domain's policy would hold, and the day after it is held again."""
        self.listen(lambda: Server(offers=TLS), STRANGER)
        today = datetime.now(UTC).date()
        sts = World(policies={"b.test": Policy()})
        for until, fate in ((today, Fate.RELAYED), (today.replace(year=today.year - 1, day=1), Fate.DEFERRED)):
            exception = TlsException(TlsLevel.ENCRYPT, "why", Day.read(until), domain="b.test")
            self.believe(sts=sts, exemptions=[exception])
            (outcome,) = await self.deliver("a@b.test")
            assert outcome.fate is fate

    async def test_authorities_that_cannot_be_read_make_mail_wait(self) -> None:
        """A file that went away is our own fault: 4.3.5, and never in clear."""
        self.listen(lambda: Server(offers=TLS), leaf())
        self.deliveries = self.make(str(self.folder / "gone.pem"))
        (outcome,) = await self.deliver("a@b.test", route=route_to(tls=TlsLevel.VERIFY))
        assert (outcome.fate, outcome.status) == (Fate.DEFERRED, "4.3.5") and not self.servers


# Without sockets


def test_two_domains_with_one_mx_and_two_policies() -> None:
    """kumomta issue 484: b.test's policy bars the host for b.test; c.test gets its mail through."""
    world = World(policies={"b.test": Policy(mx=("other.test",))})
    place = house(Server(), sts=world)
    place.finder.hosts["c.test"] = place.finder.hosts["b.test"]
    [barred] = place.deliver("a@b.test")
    [through] = place.deliver("a@c.test", route=route_to("c.test"))
    assert (barred.fate, through.fate) == (Fate.DEFERRED, Fate.RELAYED)
    assert [told.policy for told in place.checked] == ["sts", "no-policy-found"]


def test_no_policy_is_asked_for_on_a_connection_that_stands() -> None:
    """The hot path: the second message of a lane asks nobody anything."""
    world = World()
    place = house(Server(), sts=world, tlsa=world)
    for _ in range(3):
        place.deliver("a@b.test")
    assert world.asked == ["STS b.test"] and len(place.checked) == 1


def test_a_connection_from_before_a_policy_serves_nobody_after_it() -> None:
    """RFC 8461 §5: a policy that came late counts from the next message on, whatever connections stand."""
    world = World()
    place = house(Server(), sts=world)
    place.deliver("a@b.test")
    world.policies["b.test"] = Policy(mx=("other.test",))
    place.deliveries.policies_changed()
    [barred] = place.deliver("a@b.test")
    assert barred.fate is Fate.DEFERRED and "does not name" in barred.text
    world.policies.clear()
    place.deliveries.policies_changed()
    assert [place.deliver("a@b.test")[0].fate for _ in range(2)] == [Fate.RELAYED] * 2
    assert len(place.checked) == 2  # the barred one and the first: the connection was found again by its key
    assert world.asked == ["STS b.test"] * 3


class Late(World):
    """A policy that comes while a message goes without it."""

    places: ClassVar[list[Any]] = []

    async def policy(self, domain: str) -> Policy | None:
        found = await super().policy(domain)
        for place in self.places:
            self.policies["b.test"] = Policy(mx=("other.test",))
            place.deliveries.policies_changed()
        return found


def test_a_policy_that_comes_while_a_connection_is_opened_counts_for_the_next_message() -> None:
    """The connection was decided upon before it."""
    world = Late()
    place = house(Server(), sts=world)
    Late.places = [place]
    assert [place.deliver("a@b.test")[0].fate for _ in range(2)] == [Fate.RELAYED, Fate.DEFERRED]


@pytest.mark.parametrize("first", [Server, REFUSES])
def test_more_hosts_than_one_attempt_tries(first: Any) -> None:
    """REQUIRETLS is not given up while hosts are left that were not asked (RFC 8689 §4.2.1)."""
    place = house(first, first, first, settings=Settings(max_addresses=2))
    hosts = place.finder.hosts["b.test"]
    assert isinstance(hosts, tuple)
    place.finder.hosts["b.test"] = tuple(
        Host(host.name, host.port, host.preference, host.addresses, named=True) for host in hosts
    )
    [outcome] = place.deliver("a@b.test", requiretls=True)
    assert outcome.fate is Fate.DEFERRED


def test_a_look_up_that_failed_keeps_a_demand_waiting() -> None:
    """A host whose addresses could not be asked for might have done."""
    named = Host("mx0.b.test", 25, 0, ("192.0.2.0",), named=True)
    lazy = Host("mx1.b.test", 25, 1, named=True)
    finder = Finder({"b.test": (named, lazy)}, {"mx1.b.test": Refusal("4.4.3", False, "name server trouble")})
    place = house(Server(), finder=finder)
    [outcome] = place.deliver("a@b.test", requiretls=True)
    assert (outcome.fate, outcome.status) == (Fate.DEFERRED, "4.4.3")


def test_tlsa_that_cannot_be_asked_for_ends_an_attempt() -> None:
    """Fifty hosts whose TLSA records nobody answers for do not hold on to a message, which waits."""
    hosts = tuple(Host(f"mx{n}.b.test", 25, n, (f"192.0.2.{n + 1}",), True, named=True) for n in range(50))
    failed: Any = DnsAnswer(State.FAILED, security=Vouched.FAILED, text="SERVFAIL")
    world = World({f"_25._tcp.{host.name}": failed for host in hosts})
    place = house(Server(), finder=Finder({"b.test": hosts}), tlsa=world)
    [outcome] = place.deliver("a@b.test")
    assert (outcome.fate, outcome.status) == (Fate.DEFERRED, "4.4.3") and len(world.asked) == FAILURES_MAX


class Hanging(World):
    """A name server that never says anything about TLSA."""

    def tlsa(self, name: str) -> Deferred[Any]:
        return Deferred() if "mx0.b" in name else super().tlsa(name)


def test_stalwart_1578_a_tlsa_look_up_that_hangs_holds_up_its_own_mail_alone() -> None:
    """stalwart issue 1578: the queue stood still on TLSA look-ups; here other mail goes on beside them."""
    place = house(Server(), tlsa=Hanging())
    for name in ("b.test", "c.test"):
        host = Host(f"mx0.{name}", 25, 0, ("192.0.2.0",), True, named=True, canonical=f"mx0.{name}")
        place.finder.hosts[name] = (host,)
    waiting = place.start("a@b.test")
    [through] = place.deliver("a@c.test", route=route_to("c.test"))
    assert through.fate is Fate.RELAYED and not waiting.called
