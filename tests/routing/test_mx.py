"""The hosts of a next hop, pure: order, implicit and null MX, ourselves, and every way in which there are none."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from relaymta.mail.address import parse_mailbox
from relaymta.routing.mx import ADDRESSES_MAX, HOSTS_MAX, Host, HostFinder, Refusal
from relaymta.routing.ourselves import Ourselves, is_local
from relaymta.routing.route import Hop
from relaymta.routing.router import Router
from relaymta.routing.settings import HostSettings, Prefer, RouteSettings, Texts
from tests.routing.zone import FAILED, NODATA, NXDOMAIN, Zone

US = Ourselves("relay.test", [("192.0.2.25", 25), ("127.0.0.1", 2525)])


def now(waiting: Any) -> Any:
    """The result of a coroutine that must not wait."""
    results: list[Any] = []
    Deferred.fromCoroutine(waiting).addBoth(results.append)
    assert results, "it waits"
    return results[0]


def finder(zone: Zone, ourselves: Ourselves = US, seed: int = 1, **settings: Any) -> HostFinder:
    """A finder with a fixed order of equals."""
    return HostFinder(zone, HostSettings(**settings), ourselves, Random(seed))


def found(zone: Zone, hop: Hop | str = "example.test", **more: Any) -> tuple[Host, ...]:
    """The hosts, all with their addresses."""
    hosts = finder(zone, **more)
    first = now(hosts.find(Hop(hop) if isinstance(hop, str) else hop))
    assert isinstance(first, tuple), first
    return tuple(now(hosts.resolve(host)) for host in first)


def refused(zone: Zone, hop: Hop | str = "example.test", **more: Any) -> tuple[str, bool]:
    """Status and permanence of the refusal."""
    answer = now(finder(zone, **more).find(Hop(hop) if isinstance(hop, str) else hop))
    assert isinstance(answer, Refusal), answer
    assert answer.text and answer.status[0] == ("5" if answer.permanent else "4")
    return answer.status, answer.permanent


def test_hosts_come_by_preference() -> None:
    """RFC 5321 §5.1: the lowest preference first."""
    zone = Zone(
        {"example.test": [(30, "c.test"), (10, "a.test"), (20, "b.test")]},
        {"a.test": ["192.0.2.1"], "b.test": ["192.0.2.2"], "c.test": ["192.0.2.3"]},
    )
    assert [(host.preference, host.name, host.addresses, host.port) for host in found(zone)] == [
        (10, "a.test", ("192.0.2.1",), 25),
        (20, "b.test", ("192.0.2.2",), 25),
        (30, "c.test", ("192.0.2.3",), 25),
    ]


def test_equals_come_in_random_order() -> None:
    """RFC 5321 §5.1: among equal preferences the load is spread."""
    names = [f"mx{number}.test" for number in range(4)]
    zone = Zone({"example.test": [(10, name) for name in names]}, {name: ["192.0.2.1"] for name in names})
    orders = {tuple(host.name for host in found(zone, seed=seed)) for seed in range(200)}
    assert len(orders) == 24
    assert {order[0] for order in orders} == set(names)


def test_a_domain_without_mx_is_its_own_host() -> None:
    """RFC 5321 §5.1: NODATA for MX means an implicit MX of preference 0."""
    zone = Zone(hosts={"example.test": ["192.0.2.1"]})
    assert found(zone) == (Host("example.test", 25, 0, ("192.0.2.1",)),)


def test_an_mx_forbids_the_implicit_one() -> None:
    """RFC 5321 §5.1: where MX records exist, the domain's own address is not used, however useless they are."""
    zone = Zone({"example.test": [(10, "gone.test")]}, {"example.test": ["192.0.2.1"]})
    assert refused(zone) == ("5.4.4", True)


def test_a_null_mx_is_final_at_once() -> None:
    """RFC 7505 §3: 5.1.10, and no address is asked for."""
    zone = Zone({"example.test": [(0, "")]}, {"example.test": ["192.0.2.1"]})
    assert refused(zone) == ("5.1.10", True)
    assert zone.asked == ["MX example.test"]


def test_a_null_mx_beside_others_is_no_null_mx() -> None:
    """RFC 7505 §3: it stands alone or means nothing."""
    zone = Zone({"example.test": [(0, ""), (10, "a.test")]}, {"a.test": ["192.0.2.1"]})
    assert [host.name for host in found(zone)] == ["a.test"]


def test_a_domain_that_does_not_exist_is_final() -> None:
    """NXDOMAIN says no: 5.1.2, and nothing more is asked."""
    zone = Zone()
    assert refused(zone) == ("5.1.2", True)
    assert zone.asked == ["MX example.test"]


def test_a_domain_with_nothing_is_final() -> None:
    """Neither MX nor address: nobody can ever take mail for it."""
    assert refused(Zone({"example.test": NODATA})) == ("5.1.2", True)


def test_name_server_trouble_is_temporary() -> None:
    """SERVFAIL and time-outs are "could not ask": 4.4.3, for the MX and for the address of an implicit one."""
    assert refused(Zone({"example.test": FAILED})) == ("4.4.3", False)
    assert refused(Zone({"example.test": NODATA}, {"example.test": FAILED})) == ("4.4.3", False)


def test_an_mx_host_without_address_is_passed_over() -> None:
    """One that does not exist, one that has no address, one whose look-up fails: the next is tried."""
    zone = Zone(
        {"example.test": [(1, "gone.test"), (2, "empty.test"), (3, "broken.test"), (4, "good.test")]},
        {"empty.test": NODATA, "broken.test": FAILED, "good.test": ["192.0.2.4"]},
    )
    assert [host.name for host in found(zone)] == ["good.test"]


def test_no_usable_mx_host_is_final_only_when_all_said_no() -> None:
    """RFC 5321 §5.1: none usable is an error, 5.4.4; but one that could not be asked keeps hope, 4.4.3."""
    exchangers: Any = {"example.test": [(1, "gone.test"), (2, "broken.test")]}
    assert refused(Zone(exchangers)) == ("5.4.4", True)
    assert refused(Zone(exchangers, {"broken.test": FAILED})) == ("4.4.3", False)


@pytest.mark.parametrize(
    "name",
    ["192.0.2.1", "2001:db8::1", "10.0.0.300", "a\r\nb.test", "\x1b[2j.test", "a b.test", "\\xff.test", "*.test"],
)
def test_an_mx_that_names_no_host_is_refused(name: str) -> None:
    """RFC 1035 §3.3.9: an exchanger is a name, and one that a host can have; others beside it are used."""
    assert refused(Zone({"example.test": [(1, name)]})) == ("5.4.4", True)
    zone = Zone({"example.test": [(1, name), (2, "a.test")]}, {"a.test": ["192.0.2.1"]})
    assert [host.name for host in found(zone)] == ["a.test"]


def test_a_host_named_twice_is_tried_once() -> None:
    """At its better preference."""
    zone = Zone({"example.test": [(20, "a.test"), (10, "a.test")]}, {"a.test": ["192.0.2.1"]})
    assert [(host.preference, host.name) for host in found(zone)] == [(10, "a.test")]


def test_the_hosts_looked_at_are_bounded() -> None:
    """A thousand MX records cost fifty hosts, the best ones, and one look-up."""
    names = [f"mx{number}.test" for number in range(1000)]
    zone = Zone(
        {"example.test": [(number, name) for number, name in enumerate(names)]}, {name: ["192.0.2.1"] for name in names}
    )
    hosts = now(finder(zone).find(Hop("example.test")))
    assert [host.name for host in hosts] == names[:HOSTS_MAX]
    assert zone.asked == ["MX example.test", "mx0.test"]


def test_addresses_of_a_host_are_bounded() -> None:
    """A host with a thousand addresses is tried at sixteen."""
    zone = Zone(hosts={"example.test": [f"198.51.{number // 250}.{number % 250 + 1}" for number in range(1000)]})
    assert len(found(zone)[0].addresses) == ADDRESSES_MAX


# Ourselves


def test_ourselves_in_the_mx_set_cut_it_at_our_preference() -> None:
    """RFC 5321 §5.1: our preference and all worse ones are left out, equals too."""
    exchangers: Any = {"example.test": [(10, "a.test"), (20, "relay.test"), (20, "equal.test"), (30, "worse.test")]}
    hosts: Any = {name: ["192.0.2.1"] for name in ("a.test", "equal.test", "worse.test")}
    assert [host.name for host in found(Zone(exchangers, hosts))] == ["a.test"]


def test_we_as_the_best_mx_are_a_loop() -> None:
    """RFC 5321 §5.1: 5.4.6, whether recognised by name or by address."""
    assert refused(Zone({"example.test": [(10, "RELAY.test".lower()), (20, "b.test")]})) == ("5.4.6", True)
    by_address = Zone({"example.test": [(10, "alias.test"), (20, "b.test")]}, {"alias.test": ["192.0.2.25"]})
    assert refused(by_address) == ("5.4.6", True)
    equal = Zone(
        {"example.test": [(10, "alias.test"), (10, "b.test")]}, {"alias.test": ["192.0.2.25"], "b.test": ["192.0.2.1"]}
    )
    assert {refused(equal, seed=seed) for seed in range(20)} == {("5.4.6", True)}


def test_we_as_the_implicit_mx_are_a_loop() -> None:
    """A domain whose address is ours, or that is our own name, comes back to us."""
    assert refused(Zone(hosts={"example.test": ["192.0.2.25"]})) == ("5.4.6", True)
    assert refused(Zone(hosts={"relay.test": ["192.0.2.99"]}), "relay.test") == ("5.4.6", True)


def test_ourselves_are_found_at_worse_preferences_when_their_turn_comes() -> None:
    """Addresses are looked up lazily; a backup MX that is us under another name ends the list there."""
    zone = Zone(
        {"example.test": [(10, "a.test"), (20, "b.test"), (20, "alias.test"), (30, "worse.test")]},
        {"a.test": ["192.0.2.1"], "b.test": ["192.0.2.2"], "alias.test": ["192.0.2.25"], "worse.test": ["192.0.2.3"]},
    )
    hosts = finder(zone)
    first, *others = now(hosts.find(Hop("example.test")))
    assert first.name == "a.test" and zone.asked == ["MX example.test", "a.test"]
    assert len(others) == 3
    for host in others:
        answer = now(hosts.resolve(host))
        assert isinstance(answer, Refusal) and (answer.status, answer.permanent) == ("4.4.6", False)


def test_a_host_that_is_refused_when_its_turn_comes_is_never_final() -> None:
    """The better ones may answer at the next attempt."""
    zone = Zone(
        {"example.test": [(10, "a.test"), (20, "gone.test"), (30, "broken.test"), (40, "good.test")]},
        {"a.test": ["192.0.2.1"], "broken.test": FAILED, "good.test": ["192.0.2.4"]},
    )
    hosts = finder(zone)
    answers = [now(hosts.resolve(host)) for host in now(hosts.find(Hop("example.test")))]
    assert [answer.status for answer in answers[1:3]] == ["4.4.4", "4.4.3"]
    assert not any(answer.permanent for answer in answers[1:3])
    assert answers[3].addresses == ("192.0.2.4",)
    assert now(hosts.resolve(answers[3])) is answers[3]


def test_our_address_at_another_port_is_somebody_else() -> None:
    """Another server of this machine: 192.0.2.25:10025 is not our port 25, 127.0.0.1:25 not our port 2525."""
    zone = Zone(hosts={"example.test": ["192.0.2.25"], "loop.test": ["127.0.0.1"], "relay.test": ["192.0.2.25"]})
    assert found(zone, Hop("example.test", 10025))[0].addresses == ("192.0.2.25",)
    assert found(zone, "loop.test")[0].addresses == ("127.0.0.1",)
    assert found(zone, Hop("relay.test", 26))[0].addresses == ("192.0.2.25",)
    assert refused(zone, Hop("loop.test", 2525)) == ("5.4.6", True)


def test_an_ipv4_mapped_address_of_ours_is_ours() -> None:
    """RFC 4291 §2.5.5.2: the kernel connects ::ffff:192.0.2.25 to 192.0.2.25."""
    assert refused(Zone(hosts={"example.test": ["::ffff:192.0.2.25"]})) == ("5.4.6", True)
    assert found(Zone(hosts={"example.test": ["::ffff:192.0.2.1"]}))[0].addresses == ("192.0.2.1",)


def test_a_listener_on_all_addresses_makes_every_local_address_ours() -> None:
    """0.0.0.0:25 takes what is sent to any address of this machine, loopback included."""
    everywhere = Ourselves("relay.test", [("0.0.0.0", 25)], local=lambda address: address.startswith(("127.", "10.")))
    assert refused(Zone(hosts={"example.test": ["127.0.0.1"]}), ourselves=everywhere) == ("5.4.6", True)
    assert refused(Zone(hosts={"example.test": ["10.0.0.1"]}), ourselves=everywhere) == ("5.4.6", True)
    assert found(Zone(hosts={"example.test": ["192.0.2.1"]}), ourselves=everywhere)
    assert found(Zone(hosts={"example.test": ["127.0.0.1"]}), Hop("example.test", 26), ourselves=everywhere)


def test_a_listener_with_a_name_is_some_address_of_ours() -> None:
    """`address = "localhost:25"`: which address that is, the kernel knows; every local one is taken for ours."""
    named = Ourselves("relay.test", [("localhost", 25)], local=lambda address: address.startswith("127."))
    assert refused(Zone(hosts={"example.test": ["127.0.0.1"]}), ourselves=named) == ("5.4.6", True)


def test_local_addresses_are_those_that_can_be_bound() -> None:
    """The kernel knows which addresses are ours."""
    assert is_local("127.0.0.1") and is_local("127.0.0.77")
    assert not is_local("192.0.2.1") and not is_local("2001:db8::1")


def test_names_and_addresses_before_a_nat_are_ours_on_any_port() -> None:
    """What we cannot see from inside is configured."""
    ours = Ourselves("relay.test", [("10.0.0.1", 2525)], names=["MX.test."], addresses=["198.51.100.1"])
    assert refused(Zone({"example.test": [(1, "mx.test")]}), ourselves=ours) == ("5.4.6", True)
    assert refused(Zone(hosts={"example.test": ["198.51.100.1"]}), ourselves=ours) == ("5.4.6", True)


# Which addresses


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "::ffff:0.0.0.0"])
def test_addresses_that_mean_no_host_are_never_connected_to(address: str) -> None:
    """0.0.0.0 would reach this very machine; a domain with nothing else is refused."""
    assert refused(Zone(hosts={"example.test": [address]})) == ("5.4.4", True)
    assert found(Zone(hosts={"example.test": [address, "192.0.2.1"]}))[0].addresses == ("192.0.2.1",)
    assert refused(Zone({"example.test": [(1, "a.test")]}, {"a.test": [address]})) == ("5.4.4", True)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_hosts_can_be_forbidden(address: str) -> None:
    """A public MX that leads to loopback is somebody's joke; the operator's own next hop is not."""
    zone = Zone({"example.test": [(1, "a.test")]}, {"a.test": [address]})
    assert found(zone)[0].addresses == (address,)
    assert refused(zone, loopback_hosts=False) == ("5.4.4", True)
    assert refused(Zone(), Hop(address, mx=False), loopback_hosts=False) == ("5.4.4", True)
    assert found(Zone(), Hop(address, mx=False, configured=True), loopback_hosts=False)
    assert found(zone, Hop("a.test", mx=False, configured=True), loopback_hosts=False)


def test_the_families_take_turns() -> None:
    """A host without working IPv6 is reached at the second address, not at the ninth."""
    zone = Zone(hosts={"example.test": ["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"]})
    for prefer, first in ((Prefer.IPV6, 6), (Prefer.IPV4, 4)):
        addresses = found(zone, prefer=prefer)[0].addresses
        families = [6 if ":" in address else 4 for address in addresses]
        assert families == [first, 10 - first] * 2
        assert set(addresses) == {"2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"}


def test_no_preference_is_a_toss() -> None:
    """With "any" both families come first, now and then."""
    zone = Zone(hosts={"example.test": ["2001:db8::1", "192.0.2.1"]})
    assert len({found(zone, seed=seed)[0].addresses for seed in range(30)}) == 2


@given(st.lists(st.ip_addresses(), max_size=30), st.sampled_from(list(Prefer)), st.integers(0, 1000))
def test_no_address_is_lost_or_invented(addresses: list[Any], prefer: Prefer, seed: int) -> None:
    """Whatever comes is a subset of the answer without repetition, and all of it below the bound."""
    zone = Zone(hosts={"example.test": [str(address) for address in addresses]})
    answer = now(finder(zone, seed=seed, prefer=prefer).find(Hop("example.test")))
    if isinstance(answer, tuple):
        got = answer[0].addresses
        plain = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
        meant = {str(ip) for ip in plain if not (ip.is_unspecified or ip.is_multicast)} - {"255.255.255.255"}
        assert len(set(got)) == len(got) == min(len(meant), ADDRESSES_MAX)
        assert set(got) <= meant


# Next hops of the operator


def configured(text: str) -> Hop:
    """A next hop as `to` names it."""
    route = Router([RouteSettings(Texts([text]), recipient=Texts(["*"]))]).route(parse_mailbox("u@x.test"), None)
    return route.hops[0]


@pytest.mark.parametrize("text", ["relay.example", "relay.example:587", "[relay.example]:587"])
@pytest.mark.parametrize("answer", [FAILED, NODATA, NXDOMAIN])
def test_dns_failure_of_a_configured_next_hop_is_temporary_maddy_845(text: str, answer: Any) -> None:
    """Whatever DNS says of a next hop that we named, the recipient is not to blame: mail waits (maddy#845)."""
    status, permanent = refused(Zone({"relay.example": answer}, {"relay.example": answer}), configured(text))
    assert not permanent
    assert status == ("4.4.3" if answer is FAILED else "4.3.5")


def test_every_other_fault_of_a_configured_next_hop_is_temporary_too() -> None:
    """Null MX, no usable address, ourselves: a mistake in the configuration bounces nobody's mail."""
    assert refused(Zone({"relay.example": [(0, "")]}), configured("relay.example")) == ("4.3.5", False)
    assert refused(Zone({"relay.example": [(1, "gone.test")]}), configured("relay.example")) == ("4.3.5", False)
    assert refused(Zone({"relay.example": [(1, "relay.test")]}), configured("relay.example")) == ("4.3.5", False)
    assert refused(Zone(), configured("[192.0.2.25]:25")) == ("4.3.5", False)
    assert refused(Zone(hosts={"relay.example": ["0.0.0.0"]}), configured("[relay.example]")) == ("4.3.5", False)


def test_a_host_in_brackets_has_no_mx() -> None:
    """`[host]:port`: the addresses of the host, whatever its MX."""
    zone = Zone({"relay.example": [(1, "a.test")]}, {"relay.example": ["192.0.2.7"], "a.test": ["192.0.2.8"]})
    assert found(zone, configured("[relay.example]:587")) == (Host("relay.example", 587, 0, ("192.0.2.7",)),)
    assert zone.asked == ["relay.example"]


def test_a_host_without_brackets_has_its_mx_and_port() -> None:
    """`host:port`: MX records are asked for, the port is used for each."""
    zone = Zone({"relay.example": [(1, "a.test")]}, {"a.test": ["192.0.2.8"]})
    assert found(zone, configured("relay.example:587")) == (Host("a.test", 587, 1, ("192.0.2.8",)),)


@pytest.mark.parametrize(
    ("text", "address", "port"), [("[10.0.0.5]:2525", "10.0.0.5", 2525), ("[2001:db8::1]:25", "2001:db8::1", 25)]
)
def test_an_address_is_connected_to(text: str, address: str, port: int) -> None:
    """No question is asked for `[10.0.0.5]:25`."""
    zone = Zone()
    assert found(zone, configured(text)) == (Host(address, port, 0, (address,)),)
    assert zone.asked == []


@pytest.mark.parametrize(("domain", "address"), [("[192.0.2.1]", "192.0.2.1"), ("[IPv6:2001:db8::1]", "2001:db8::1")])
def test_an_address_literal_is_connected_to(domain: str, address: str) -> None:
    """RFC 5321 §4.1.3: user@[192.0.2.1] goes to that address."""
    hop = Router().route(parse_mailbox(f"user@{domain}"), None).hops[0]
    assert found(Zone(), hop) == (Host(address, 25, 0, (address,)),)


def test_an_address_literal_of_ours_is_a_loop() -> None:
    """user@[our address] is mail for ourselves."""
    hop = Router().route(parse_mailbox("user@[192.0.2.25]"), None).hops[0]
    assert refused(Zone(), hop) == ("5.4.6", True)


def test_a_unix_socket_is_its_own_address() -> None:
    """`lmtp:unix:/run/lmtp` needs no look-up."""
    assert found(Zone(), configured("lmtp:unix:/run/lmtp")) == (Host("unix:/run/lmtp", 0, 0, ("unix:/run/lmtp",)),)


# DNSSEC and waiting


def test_security_needs_every_link() -> None:
    """RFC 7672 §2.2: the MX answer and the address answer must both be secure."""
    exchangers: Any = {"example.test": [(1, "a.test")]}
    hosts: Any = {"a.test": ["192.0.2.1"]}
    assert found(Zone(exchangers, hosts, secure=True))[0].secure
    assert not found(Zone(exchangers, hosts))[0].secure
    insecure_address = Zone({}, {"a.test": ["192.0.2.1"]})._answer_addresses("a.test")
    assert not found(Zone(exchangers, {"a.test": insecure_address}, secure=True))[0].secure


def test_who_vouches_for_a_hosts_name_is_kept_apart_from_its_addresses() -> None:
    """RFC 7672 §2.2.2: a signed name may stand for unsigned addresses; the operator's word counts as a name too."""
    exchangers: Any = {"example.test": [(1, "a.test")]}
    insecure = Zone({}, {"a.test": ["192.0.2.1"]})._answer_addresses("a.test")
    [host] = found(Zone(exchangers, {"a.test": insecure}, secure=True))
    assert host.named and not host.secure
    assert not found(Zone(exchangers, {"a.test": ["192.0.2.1"]}))[0].named
    [only] = found(Zone({}, {"a.test": ["192.0.2.1"]}), configured("[a.test]:25"))
    assert only.named and not only.secure
    [literal] = found(Zone(), configured("[192.0.2.1]:25"))
    assert literal.named and not literal.secure


def test_where_aliases_led_is_kept() -> None:
    """RFC 7672 §2.2.3, §3.2.2: the last name of each host's chain of aliases, and that of the domain's."""
    exchangers = Zone({"real.test": [(1, "a.test"), (2, "b.test")]})._answer_mx("real.test")
    addresses = Zone({}, {"end.test": ["192.0.2.1"]})._answer_addresses("end.test")
    hosts = found(Zone({"example.test": exchangers}, {"a.test": addresses, "b.test": addresses}))
    assert [host.name for host in hosts] == ["a.test", "b.test"]  # the second one was looked up in its turn
    assert {(host.canonical, host.next_hop) for host in hosts} == {("end.test", "real.test")}


def test_what_is_known_is_found_without_waiting() -> None:
    """A warm cache answers in a plain call's time: no question, no Deferred."""
    zone = Zone({"example.test": [(1, "a.test")]}, {"a.test": ["192.0.2.1"]}, slow=True)
    zone.known = True
    assert found(zone)[0].addresses == ("192.0.2.1",)
    assert zone.asked == []


@pytest.mark.parametrize("step", [0, 1])
def test_hosts_of_silent_name_servers_do_not_fill_the_room_for_questions(step: int) -> None:
    """Fifty of them, of one preference or of fifty, cost a few questions and make the message wait."""
    names = [f"mx{number}.test" for number in range(50)]
    exchangers: Any = {"example.test": [(1 + step * number, name) for number, name in enumerate(names)]}
    zone = Zone(exchangers, dict.fromkeys(names, FAILED), slow=True)
    results: list[Any] = []
    Deferred.fromCoroutine(finder(zone).find(Hop("example.test"))).addBoth(results.append)
    most = 0
    while not results:
        most = max(most, len(zone._waiting))
        zone.release()
    assert results[0].status == "4.4.3" and most <= 8 and len(zone.asked) <= 9
    # a good one before them is tried, and those behind it are not all asked for when its turn is over
    exchangers["example.test"].insert(0, (0, "good.test"))
    zone = Zone(exchangers, {**dict.fromkeys(names, FAILED), "good.test": ["192.0.2.1"]})
    hosts = finder(zone)
    first = now(hosts.find(Hop("example.test")))
    assert first[0].addresses == ("192.0.2.1",)
    zone.asked.clear()
    assert now(hosts.resolve(first[-1])).status == "4.4.3" and len(zone.asked) <= 8


def test_addresses_of_one_preference_are_asked_for_at_once() -> None:
    """The hosts of one preference cost one round trip, not one each."""
    names = [f"mx{number}.test" for number in range(5)]
    zone = Zone({"example.test": [(1, name) for name in names]}, {name: ["192.0.2.1"] for name in names}, slow=True)
    results: list[Any] = []
    Deferred.fromCoroutine(finder(zone).find(Hop("example.test"))).addBoth(results.append)
    zone.release()
    assert sorted(zone.asked[1:]) == names
    zone.release()
    assert len(results[0]) == 5
