"""Attempts: which hosts are walked to, which connections are used, and what becomes of every recipient."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred

from relaymta.delivery.settings import Settings, Source
from relaymta.events import BugCaught, ConnectFailed
from relaymta.mail.address import parse_mailbox
from relaymta.mail.envelope import Recipient
from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.mail.reply import Reply
from relaymta.routing.mx import FAILURES_MAX, Host, Refusal
from relaymta.routing.route import Hop, TlsLevel, Transport
from tests.delivery.network import HANGS, REFUSES, Finder, house, route_to
from tests.smtp.scripted import BODY, DROP, Server


def says(verb: str, reply: bytes, **more: object) -> Server:
    """A server that gives one answer of its own."""
    return Server(answers=lambda v, a: reply if v == verb else None, **more)  # type: ignore[arg-type]


def short(outcomes: list[Outcome]) -> list[tuple[str, str, str]]:
    """Outcomes in short."""
    return [(one.fate.name, one.scope.name, one.status) for one in outcomes]


RELAYED = ("RELAYED", "MESSAGE", "2.0.0")


# The common case


def test_a_message_is_relayed_and_the_outcome_tells_by_whom() -> None:
    """RELAYED with the peer's reply, its host and address."""
    place = house(Server())
    (outcome,) = place.deliver("a@b.test")
    assert outcome == Outcome(
        0, Fate.RELAYED, Scope.MESSAGE, "2.0.0", "taken by the peer", 1_700_000_000.0,
        Reply(250, "2.0.0", "taken"), "mx0.b.test", "192.0.2.0",
    )  # fmt: skip
    assert place.network.servers[0].taken[0].content == BODY and not place.events


def test_the_next_message_of_the_lane_uses_the_connection_that_stands() -> None:
    """Several messages go over one connection, without a name look-up between them."""
    place = house(Server())
    for _ in range(5):
        assert short(place.deliver("a@b.test")) == [RELAYED]
    assert place.network.dialled == [("192.0.2.0", 25)] and place.finder.asked == ["b.test"]
    assert place.deliveries.connections == 1


def test_a_connection_carries_so_many_messages_and_no_more() -> None:
    """`max_per_connection` ends a connection with QUIT."""
    place = house(Server, settings=Settings(max_per_connection=2))
    for _ in range(5):
        place.deliver("a@b.test")
    assert [len(server.taken) for server in place.network.servers] == [2, 2, 1]
    assert place.network.servers[0].commands[-1] == "QUIT"


def test_an_idle_connection_is_left_after_a_few_seconds() -> None:
    """QUIT comes within twice the idle time."""
    place = house(Server())
    place.deliver("a@b.test")
    place.network.pump([0.5] * 12)
    place.network.settle()
    assert place.network.servers[0].commands[-1] == "QUIT" and place.deliveries.connections == 0
    assert not place.network.getDelayedCalls()


def test_an_old_connection_is_left() -> None:
    """`reuse_time` bounds how long a destination is bound to one host."""
    place = house(Server, settings=Settings(reuse_time=10.0, idle_timeout=100.0))  # type: ignore[arg-type]
    place.deliver("a@b.test")
    place.network.advance(11.0)
    place.deliver("a@b.test")
    place.deliver("a@b.test")
    assert [len(server.taken) for server in place.network.servers] == [2, 1]


def test_lanes_that_lead_to_one_address_share_its_connections() -> None:
    """Two domains with the same MX use one connection, one after the other."""
    place = house(Server())
    place.finder.hosts["c.test"] = place.finder.hosts["b.test"]
    place.deliver("a@b.test")
    place.deliver("a@c.test", route=route_to("c.test"))
    assert len(place.network.dialled) == 1


def test_connections_are_not_shared_where_terms_differ() -> None:
    """Source, TLS and account set connections apart (lessons: policy by route, shared only under equal policy)."""
    sources = (Source("one", ("198.51.100.1",)), Source("two", ("198.51.100.2",)))
    place = house(Server, sources=sources)
    for more in ({"source": "one"}, {"source": "two"}, {"tls": TlsLevel.NONE}, {}):
        place.deliver("a@b.test", route=route_to(**more))
    assert len(place.network.dialled) == 4
    assert place.network.bound == [("198.51.100.1", 0), ("198.51.100.2", 0), None, None]


def test_a_connection_has_one_owner_at_a_time() -> None:
    """Two messages at once are two connections, also while RSET is owed (Haraka issue 1852)."""
    place = house(lambda: says("RCPT", b"550 5.1.1 who?\r\n"))
    assert short(place.deliver("a@b.test")) == [("FAILED", "RECIPIENT", "5.1.1")]
    first, second = place.start("b@b.test"), place.start("c@b.test")
    place.network.settle()
    assert first.called and second.called
    assert len(place.network.servers) == 2
    assert place.network.servers[0].commands.count("RSET") == 1
    for server in place.network.servers:
        said = [line.split()[0] for line in server.commands]
        assert said == [line for line in said if line in ("EHLO", "MAIL", "RCPT", "DATA", "RSET")]


# A connection that had ended


def test_a_connection_closed_while_idle_costs_nothing() -> None:
    """An idle connection that the peer closes is forgotten."""
    place = house(Server)
    place.deliver("a@b.test")
    next(iter(place.network.lines)).drop()
    assert short(place.deliver("a@b.test")) == [RELAYED]
    assert len(place.network.dialled) == 2 and not place.events


@pytest.mark.parametrize("ending", [DROP, b"421 4.4.2 too long idle\r\n"])
def test_a_reused_connection_that_ends_before_any_reply_is_replaced(ending: bytes) -> None:
    """The race with the peer's idle timer is tried again at once on a new connection, and nobody is told."""
    place = house(Server)
    place.deliver("a@b.test")
    place.network.servers[0].answers = lambda v, a: ending if v == "MAIL" else None
    assert short(place.deliver("b@b.test")) == [RELAYED]
    assert [len(server.taken) for server in place.network.servers] == [1, 1] and not place.events


def test_a_reused_connection_whose_host_has_trouble_sends_us_on() -> None:
    """A full disk told over a connection that stands is told of, and the next host is tried, not the same again."""
    place = house(Server, Server)
    place.deliver("a@b.test")
    place.network.servers[0].answers = lambda v, a: b"452 4.3.1 disk full\r\n" if v == "MAIL" else None
    (outcome,) = place.deliver("b@b.test")
    assert outcome.host == "mx1.b.test" and outcome.fate is Fate.RELAYED
    assert [type(event) for event in place.events] == [ConnectFailed] and len(place.network.dialled) == 2


def test_a_reused_connection_that_ends_after_the_dot_is_not_tried_again() -> None:
    """Once the end of data was sent nothing is sent a second time in this attempt."""
    place = house(Server)
    place.deliver("a@b.test")
    place.network.servers[0].answers = lambda v, a: DROP if v == "DOT" else None
    (outcome,) = place.deliver("b@b.test")
    assert outcome.unknown and short([outcome]) == [("DEFERRED", "HOST", "4.4.2")]
    assert len(place.network.servers) == 1


# The walk


def test_the_next_host_is_tried_when_one_cannot_be_reached() -> None:
    """RFC 5321 §5.1: hosts in order until one is reached; each failure is told."""
    place = house(REFUSES, HANGS, Server())
    (outcome,) = place.deliver("a@b.test")
    assert outcome.host == "mx2.b.test" and short([outcome]) == [RELAYED]
    assert [type(event) for event in place.events] == [ConnectFailed, ConnectFailed]
    first, second = place.events
    assert isinstance(first, ConnectFailed) and isinstance(second, ConnectFailed)
    assert (first.host, first.address, first.lane) == ("mx0.b.test", "192.0.2.0", "smtp:b.test")
    assert "refused" in first.reason and second.seconds == 30.0


@pytest.mark.parametrize(
    "server",
    [
        says("BANNER", b"554 5.3.2 no service\r\n"),
        says("BANNER", b"421 4.3.2 busy\r\n"),
        says("BANNER", b"220"),
        says("BANNER", DROP),
        says("BANNER", b"SSH-2.0-OpenSSH\r\n"),
        says("EHLO", b"421 4.3.2 busy\r\n"),
        says("EHLO", b"450 4.7.1 who?\r\n"),
        says("EHLO", DROP),
        says("MAIL", b"421 4.3.2 busy\r\n"),
        says("MAIL", b"452 4.3.1 disk full\r\n"),
        says("MAIL", DROP),
    ],
)
def test_the_next_host_is_tried_after_trouble_of_the_host(server: Server) -> None:
    """Greeting, EHLO, 421, a drop before anything was taken, and a full disk send us to the next host."""
    place = house(server, Server())
    (outcome,) = place.deliver("a@b.test")
    assert (outcome.host, outcome.fate) == ("mx1.b.test", Fate.RELAYED)


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (says("MAIL", b"550 5.7.1 no\r\n"), ("FAILED", "MESSAGE", "5.7.1")),
        (says("MAIL", b"450 4.7.1 grey\r\n"), ("DEFERRED", "MESSAGE", "4.7.1")),
        (says("RCPT", b"550 5.1.1 who?\r\n"), ("FAILED", "RECIPIENT", "5.1.1")),
        (says("RCPT", b"450 4.2.0 grey\r\n"), ("DEFERRED", "RECIPIENT", "4.2.0")),
        (says("RCPT", b"421 4.3.2 bye\r\n"), ("DEFERRED", "MESSAGE", "4.3.2")),
        (says("RCPT", DROP), ("DEFERRED", "HOST", "4.4.2")),
        (says("DATA", b"451 4.3.0 x\r\n"), ("DEFERRED", "MESSAGE", "4.3.0")),
        (says("DATA", b"554 5.6.0 x\r\n"), ("FAILED", "MESSAGE", "5.6.0")),
        (says("DOT", b"421 4.3.2 bye\r\n"), ("DEFERRED", "MESSAGE", "4.3.2")),
        (says("DOT", b"452 4.3.1 full\r\n"), ("DEFERRED", "MESSAGE", "4.3.1")),
        (says("DOT", b"554 5.7.1 spam\r\n"), ("FAILED", "MESSAGE", "5.7.1")),
        (says("DOT", DROP), ("DEFERRED", "HOST", "4.4.2")),
    ],
)
def test_what_concerns_the_message_ends_the_attempt(server: Server, expected: tuple[str, str, str]) -> None:
    """A word about the message or the recipient, a 421 or a drop in its midst defer or fail it, and no host more."""
    place = house(server, Server())
    (outcome,) = place.deliver("a@b.test")
    assert short([outcome]) == [expected] and len(place.network.dialled) == 1
    assert outcome.unknown is ("lost after the end of the message" in outcome.text)


def test_a_drop_after_the_dot_is_unknown() -> None:
    """Nobody knows who has the message: deferred, and marked so (postal issue 3016)."""
    (outcome,) = house(says("DOT", DROP)).deliver("a@b.test")
    assert outcome.unknown and outcome.fate is Fate.DEFERRED and outcome.reply is None


def test_a_421_in_the_midst_of_one_message_leaves_the_others_alone() -> None:
    """The next message goes over a new connection."""
    place = house(lambda: says("DATA", b"421 4.3.2 bye\r\n") if not place.network.servers else Server())
    assert short(place.deliver("a@b.test")) == [("DEFERRED", "MESSAGE", "4.3.2")]
    assert short(place.deliver("a@b.test")) == [RELAYED]


def test_when_every_host_has_trouble_it_is_the_sites() -> None:
    """The last answer stands, deferred also where it was a 554 greeting, and the scope is the site's."""
    place = house(REFUSES, says("BANNER", b"554 5.7.1 no service\r\n"))
    (outcome,) = place.deliver("a@b.test")
    assert short([outcome]) == [("DEFERRED", "SITE", "4.7.1")]
    assert outcome.reply == Reply(554, "5.7.1", "no service") and outcome.host == "mx1.b.test"


def test_not_more_addresses_are_tried_than_the_settings_say() -> None:
    """A site with many dead hosts costs a bounded time."""
    place = house(*[REFUSES] * 9, settings=Settings(max_addresses=3))
    assert short(place.deliver("a@b.test")) == [("DEFERRED", "SITE", "4.4.1")]
    assert len(place.network.dialled) == 3


def test_all_addresses_of_a_host_are_tried() -> None:
    """A multihomed host is tried at each of its addresses, IPv6 and IPv4 (RFC 5321 §5.1)."""
    place = house()
    place.finder.hosts["b.test"] = (Host("mx.b.test", 25, 0, ("2001:db8::1", "192.0.2.7")),)
    place.network.places["192.0.2.7", 25] = Server()
    (outcome,) = place.deliver("a@b.test")
    assert place.network.dialled == [("2001:db8::1", 25), ("192.0.2.7", 25)] and outcome.address == "192.0.2.7"


def test_addresses_of_a_worse_host_are_looked_up_when_its_turn_comes() -> None:
    """No look-up for hosts that are not needed; one that has no address is passed over."""
    place = house(REFUSES)
    first = place.finder.hosts["b.test"]
    assert isinstance(first, tuple)
    place.finder.hosts["b.test"] = (*first, Host("none.b.test", 25, 5), Host("late.b.test", 25, 9))
    place.finder.lazy = {"none.b.test": Refusal("4.4.4", False, "no address"), "late.b.test": ("192.0.2.9",)}
    place.network.places["192.0.2.9", 25] = Server()
    (outcome,) = place.deliver("a@b.test")
    assert outcome.host == "late.b.test" and place.finder.asked == ["b.test", "none.b.test", "late.b.test"]


def test_hosts_that_cannot_be_asked_for_end_an_attempt() -> None:
    """A site with fifty hosts of silent name servers does not hold on to us for a quarter of an hour."""
    lazy = {f"mx{number}.b.test": Refusal("4.4.3", False, "name server trouble") for number in range(50)}
    hosts = {"b.test": tuple(Host(name, 25, number) for number, name in enumerate(lazy))}
    place = house(finder=Finder(hosts, lazy))  # type: ignore[arg-type]
    [outcome] = place.deliver("a@b.test")
    assert (outcome.fate, outcome.status) == (Fate.DEFERRED, "4.4.3") and len(place.finder.asked) == 1 + FAILURES_MAX


def test_a_host_that_failed_comes_last_for_a_while() -> None:
    """A dead first MX costs one message its connect timeout, and not every message."""
    settings = Settings(max_per_connection=1, host_backoff=60.0)  # type: ignore[arg-type]
    place = house(HANGS, Server, settings=settings)
    for _ in range(3):
        assert short(place.deliver("a@b.test")) == [RELAYED]
    assert [address for address, _ in place.network.dialled] == ["192.0.2.0", "192.0.2.1", "192.0.2.1", "192.0.2.1"]
    place.network.advance(61.0)
    place.network.places["192.0.2.0", 25] = Server
    place.deliver("a@b.test")
    assert place.network.dialled[-1] == ("192.0.2.0", 25)


def test_next_hops_are_tried_in_order() -> None:
    """The second `to` of a route serves when the first cannot (config: ordered failover)."""
    place = house(REFUSES)
    place.finder.hosts["backup.test"] = (Host("backup.test", 587, 0, ("192.0.2.99",)),)
    place.network.places["192.0.2.99", 587] = Server()
    (outcome,) = place.deliver("a@b.test", route=route_to("b.test", "backup.test"))
    assert outcome.host == "backup.test" and outcome.fate is Fate.RELAYED


def test_no_host_at_all_is_the_sites_trouble() -> None:
    """A finder that names no host defers."""
    assert short(house().deliver("a@b.test")) == [("DEFERRED", "SITE", "4.4.4")]


@pytest.mark.parametrize(
    ("refusals", "expected"),
    [
        ([Refusal("5.1.2", True, "no such domain")], ("FAILED", "SITE", "5.1.2")),
        ([Refusal("5.1.10", True, "null MX")], ("FAILED", "SITE", "5.1.10")),
        ([Refusal("5.4.6", True, "loop")], ("FAILED", "SITE", "5.4.6")),
        ([Refusal("4.4.3", False, "SERVFAIL")], ("DEFERRED", "SITE", "4.4.3")),
        ([Refusal("5.1.2", True, "x"), Refusal("4.4.3", False, "SERVFAIL")], ("DEFERRED", "SITE", "4.4.3")),
        ([Refusal("4.4.3", False, "SERVFAIL"), Refusal("5.1.2", True, "x")], ("DEFERRED", "SITE", "4.4.3")),
    ],
)
def test_refused_names_become_outcomes(refusals: list[Refusal], expected: tuple[str, str, str]) -> None:
    """A no of the DNS fails (RFC 7505, NXDOMAIN); "do not know" among several defers (maddy issue 845)."""
    names = [f"hop{number}.test" for number in range(len(refusals))]
    place = house(finder=Finder(dict(zip(names, refusals, strict=True))))
    assert short(place.deliver("a@b.test", route=route_to(*names))) == [expected]


def test_a_dead_host_beside_a_refused_name_defers() -> None:
    """What could not be reached may come back, whatever the other next hop's name says."""
    place = house(REFUSES)
    place.finder.hosts["gone.test"] = Refusal("5.1.2", True, "no such domain")
    assert short(place.deliver("a@b.test", route=route_to("b.test", "gone.test"))) == [("DEFERRED", "SITE", "4.4.1")]


# Recipients


def test_each_recipient_has_its_outcome_in_the_order_of_the_batch() -> None:
    """Only the batch's indices are tried, each once, and the answer is in their order."""
    server = Server(answers=lambda v, a: b"550 5.1.1 who?\r\n" if "bad" in a else None)
    outcomes = house(server).deliver("a@b.test", "bad@b.test", "c@b.test", "d@b.test", indices=(3, 1, 0))
    assert [one.recipient for one in outcomes] == [3, 1, 0]
    assert [one.fate for one in outcomes] == [Fate.RELAYED, Fate.FAILED, Fate.RELAYED]
    assert server.taken[0].recipients == ("TO:<d@b.test>", "TO:<a@b.test>")


def test_refused_recipients_keep_their_outcome_when_the_walk_goes_on() -> None:
    """A 550 of the first host stands; only who is pending goes to the next one, and no one twice."""
    first = Server(
        recipients_max=2, answers=lambda v, a: b"550 5.1.1 who?\r\n" if "bad" in a else DROP if v == "RSET" else None
    )
    count: list[int] = []

    def answers(verb: str, argument: str) -> bytes | None:
        if verb == "RCPT" and "bad" in argument:
            return b"550 5.1.1 who?\r\n"
        if verb == "MAIL":
            count.append(1)
            return b"421 4.3.2 enough\r\n" if len(count) == 2 else None
        return None

    first.answers = answers
    second = Server()
    outcomes = house(first, second).deliver("bad@b.test", "a@b.test", "b@b.test", "c@b.test", "d@b.test")
    assert [one.fate.name for one in outcomes] == ["FAILED"] + ["RELAYED"] * 4
    taken = [name for server in (first, second) for one in server.taken for name in one.recipients]
    assert sorted(taken) == [f"TO:<{name}@b.test>" for name in "abcd"]


def test_what_mailmax_leaves_over_goes_over_further_connections() -> None:
    """A peer that allows one transaction a connection gets as many connections (RFC 9422 §4.1)."""
    place = house(lambda: Server(offers=("PIPELINING", "LIMITS MAILMAX=1 RCPTMAX=2")))
    assert short(place.deliver(*[f"r{n}@b.test" for n in range(5)])) == [RELAYED] * 5
    assert [len(server.taken) for server in place.network.servers] == [1, 1, 1]


def test_more_recipients_than_a_transaction_may_have() -> None:
    """`max_recipients` splits into consecutive transactions on one connection."""
    place = house(Server(), settings=Settings(max_recipients=2))
    assert short(place.deliver(*[f"r{n}@b.test" for n in range(5)])) == [RELAYED] * 5
    assert [len(one.recipients) for one in place.network.servers[0].taken] == [2, 2, 1]


# Content


def test_eight_bit_content_is_converted_for_a_peer_that_wants_seven() -> None:
    """8-bit content goes to a peer without 8BITMIME as quoted-printable or base64 (RFC 6152 §3)."""
    content = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    content += b"Content-Transfer-Encoding: 8bit\r\n\r\nh\xc3\xa4\r\n"
    place = house(Server(offers=("PIPELINING",)))
    for _ in range(2):  # over a new connection, and over one that stands
        assert short(place.deliver("a@b.test", content=content)) == [RELAYED]
    for taken in place.network.servers[0].taken:
        assert taken.content.isascii() and b"h=C3=A4" in taken.content
    assert len(place.network.servers) == 1


def test_what_cannot_be_converted_fails() -> None:
    """5.6.3 where the peer wants seven bits and the content has no seven-bit form."""
    content = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: message/partial; id=x; number=1\r\n"
    content += b"Content-Transfer-Encoding: 8bit\r\n\r\n\xc3\xa4\r\n"
    place = house(Server(offers=()))
    assert short(place.deliver("a@b.test", content=content)) == [("FAILED", "MESSAGE", "5.6.3")]
    assert not place.network.servers[0].taken


def test_a_message_above_the_peers_size_fails_without_another_host() -> None:
    """5.3.4, for good (RFC 1870)."""
    place = house(Server(offers=("SIZE 10",)), Server())
    assert short(place.deliver("a@b.test")) == [("FAILED", "MESSAGE", "5.3.4")]
    assert len(place.network.dialled) == 1


def test_smtputf8_fails_only_for_those_who_need_it() -> None:
    """5.6.7 for a non-ASCII address at a peer without SMTPUTF8, the others are served (RFC 6531 §3.2)."""
    outcomes = house(Server()).deliver("j\u00fcrgen@b.test", "a@b.test", smtputf8=True)
    assert short(outcomes) == [("FAILED", "MESSAGE", "5.6.7"), RELAYED]


class Unreadable:
    """Content on a broken disk."""

    size = 500_000
    eightbit = True

    def chunks(self) -> Iterator[bytes]:
        raise OSError(5, "Input/output error")
        yield b""

    def header(self) -> bytes:
        raise OSError(5, "Input/output error")


def test_content_that_cannot_be_read_defers() -> None:
    """Our own disk's trouble is nobody else's, whether it shows before MAIL or behind 354."""
    place = house(Server)
    for more in ({"smtputf8": True}, {}):
        (outcome,) = place.deliver("a@b.test", content=Unreadable(), **more)
        assert short([outcome]) == [("DEFERRED", "MESSAGE", "4.3.0")] and "could not be read" in outcome.text
    assert not [event for event in place.events if isinstance(event, BugCaught)]
    assert not any(server.taken for server in place.network.servers)


def test_dsn_duties_are_told() -> None:
    """`dsn` says whether the peer offered DSN and so took over the duties (RFC 3461 §5.2.2)."""
    assert [house(Server(offers=offers)).deliver("a@b.test")[0].dsn for offers in ((), ("DSN",))] == [False, True]


# Other transports


def test_lmtp_delivers_and_speaks_of_each_recipient() -> None:
    """LMTP over a UNIX socket: DELIVERED, and one answer for each recipient (RFC 2033)."""
    server = Server(lmtp=True, answers=lambda v, a: b"452 4.2.2 full\r\n" if v == "DOT" and "b@" in a else None)
    place = house()
    place.network.places["/run/lmtp", 0] = server
    route = route_to(transport=Transport.LMTP, hops=(Hop("", 0, mx=False, path="/run/lmtp"),))
    for _ in range(2):
        outcomes = place.deliver("a@b.test", "b@b.test", route=route)
        assert short(outcomes) == [("DELIVERED", "RECIPIENT", "2.0.0"), ("DEFERRED", "RECIPIENT", "4.2.2")]
    assert outcomes[0].host == "unix:/run/lmtp" and outcomes[0].address == ""
    assert server.commands[0] == "LHLO us.test" and len(place.network.dialled) == 1


def test_lmtp_over_tcp() -> None:
    """LMTP goes to a host and port as well."""
    place = house()
    place.finder.hosts["store.test"] = (Host("store.test", 24, 0, ("192.0.2.50",)),)
    place.network.places["192.0.2.50", 24] = Server(lmtp=True)
    route = route_to(transport=Transport.LMTP, hops=(Hop("store.test", 24, mx=False),))
    assert short(place.deliver("a@b.test", route=route)) == [("DELIVERED", "RECIPIENT", "2.0.0")]


def test_discard_and_error_need_no_peer() -> None:
    """DISCARD delivers to nobody; ERROR says what the operator wrote."""
    place = house()
    assert short(place.deliver("a@b.test", route=route_to(transport=Transport.DISCARD, hops=()))) == [
        ("DELIVERED", "RECIPIENT", "2.0.0")
    ]
    for reply, expected in (
        (Reply(550, "5.1.1", "no such user"), ("FAILED", "RECIPIENT", "5.1.1")),
        (Reply(450, "4.2.1", "later"), ("DEFERRED", "RECIPIENT", "4.2.1")),
    ):
        (outcome,) = place.deliver("a@b.test", route=route_to(transport=Transport.ERROR, hops=(), reply=reply))
        assert short([outcome]) == [expected] and outcome.reply == reply
    assert not place.network.dialled


# Sources and TLS


def test_addresses_of_another_family_than_the_source_are_passed_over() -> None:
    """A source without IPv6 does not use up the tries on IPv6 addresses."""
    place = house(sources=(Source("four", ("198.51.100.1",)),))
    addresses = (*[f"2001:db8::{number}" for number in range(8)], "192.0.2.7")
    place.finder.hosts["b.test"] = (Host("mx.b.test", 25, 0, addresses),)
    place.network.places["192.0.2.7", 25] = Server()
    assert short(place.deliver("a@b.test", route=route_to(source="four"))) == [RELAYED]
    assert place.network.dialled == [("192.0.2.7", 25)]


def test_dane_waits_where_there_are_no_records() -> None:
    """A route that demands DANE never falls back: the message is deferred with a clear text, nobody is dialled."""
    place = house(Server())
    (outcome,) = place.deliver("a@b.test", route=route_to(tls=TlsLevel.DANE))
    assert short([outcome]) == [("DEFERRED", "SITE", "4.7.4")] and "DANE" in outcome.text
    assert not place.network.dialled


@pytest.mark.parametrize("level", [TlsLevel.ENCRYPT, TlsLevel.VERIFY])
def test_a_route_that_demands_tls_never_goes_in_clear(level: TlsLevel) -> None:
    """No STARTTLS, no mail: the next host is tried, and then it waits."""
    place = house(Server(), Server())
    assert short(place.deliver("a@b.test", route=route_to(tls=level))) == [("DEFERRED", "SITE", "4.7.4")]
    assert len(place.network.dialled) == 2
    assert not any(line.startswith("MAIL") for server in place.network.servers for line in server.commands)


# Bugs and ends


def test_a_bug_defers_and_is_told() -> None:
    """An exception that no rule foresaw becomes DEFERRED 4.3.0 and BugCaught, never a bounce or a loss."""
    place = house(Server(offers=("DSN",)))
    bad = Recipient(parse_mailbox("a@b.test"), orcpt="rfc822;\r\nx")
    for _ in range(2):
        assert short(place.deliver(bad)) == [("DEFERRED", "MESSAGE", "4.3.0")]
        assert short(place.deliver("a@b.test")) == [RELAYED]
    assert [type(event) for event in place.events] == [BugCaught, BugCaught]
    assert place.deliveries.connections == 1


def test_close_takes_leave_and_waits() -> None:
    """Idle peers get QUIT, what runs comes to its end, and nothing new is begun."""
    place = house(Server)
    place.deliver("a@b.test")
    running = place.start("b@b.test")
    closed = place.deliveries.close()
    assert not closed.called and not running.called
    (late,) = place.deliver("c@b.test")
    assert short([late]) == [("DEFERRED", "MESSAGE", "4.3.2")]
    place.network.settle()
    assert running.called and closed.called and place.deliveries.connections == 0
    assert not place.network.getDelayedCalls()
    assert place.network.servers[0].commands[-1] == "QUIT" and len(place.network.servers[0].taken) == 2


def test_close_cuts_what_takes_too_long() -> None:
    """After its limit, what runs is cut off; its end is as unknown as any lost connection's."""
    silent = Server(answers=lambda v, a: b"" if False else None)
    place = house(silent, settings=Settings())
    silent.answers = lambda v, a: b"2" if v == "DOT" else None
    outcomes: list[list[Outcome]] = []
    place.start("a@b.test").addCallback(outcomes.append)
    place.network.settle()
    closed = place.deliveries.close(limit=5.0)
    assert not closed.called and not outcomes
    place.network.advance(5.0)
    place.network.settle()
    assert closed.called and outcomes[0][0].unknown and not place.network.getDelayedCalls()


def test_close_cuts_what_is_connecting() -> None:
    """An attempt that waits for a dead host ends with the limit and goes to no other."""
    place = house(HANGS, HANGS)
    outcomes: list[list[Outcome]] = []
    place.start("a@b.test").addCallback(outcomes.append)
    place.network.settle()
    closed = place.deliveries.close(limit=5.0)
    place.network.advance(5.0)
    place.network.settle()
    assert closed.called and short(outcomes[0]) == [("DEFERRED", "MESSAGE", "4.3.2")]
    assert len(place.network.dialled) == 1 and not place.network.getDelayedCalls()


def test_close_does_not_wait_for_a_name_server() -> None:
    """An attempt that waits for a name is given up with the limit; its late answer changes nothing."""
    waiting: Deferred[tuple[Host, ...]] = Deferred()

    class Slow(Finder):
        async def find(self, hop: Hop) -> tuple[Host, ...]:
            return await waiting

    place = house(Server(), finder=Slow({}))
    outcomes: list[list[Outcome]] = []
    place.start("a@b.test").addCallback(outcomes.append)
    closed = place.deliveries.close(limit=5.0)
    place.network.advance(5.0)
    assert closed.called and short(outcomes[0]) == [("DEFERRED", "MESSAGE", "4.3.2")]
    waiting.callback((Host("mx0.b.test", 25, 0, ("192.0.2.0",)),))
    place.network.settle()
    assert len(outcomes) == 1 and not place.network.dialled
