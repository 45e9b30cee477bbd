"""Accounts at next hops: who gets a log-in, what a refusal costs, and that no message is bounced for our password."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from relaymta.delivery.account import AccountSettings
from relaymta.delivery.login import BACKOFFS
from relaymta.events import ConnectFailed, LoginRefused
from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.routing.mx import Host
from relaymta.routing.route import Hop, Route, TlsLevel
from relaymta.smtp.sasl_client import Mechanism
from tests.delivery.network import Finder, House, house, route_to
from tests.smtp.auth_server import AuthServer
from tests.smtp.scripted import Server

PASSWORD = "pässword"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """The file with the right password."""
    path = tmp_path / "secret"
    path.write_text(PASSWORD + "\n")
    return path


def account(secret: Path, name: str = "smarthost", **more: Any) -> AccountSettings:
    """An account that may be shown in clear, for there is no TLS on this network."""
    return AccountSettings(name, "relay", str(secret), insecure=more.pop("insecure", True), **more)


def site(*servers: Any, accounts: tuple[AccountSettings, ...]) -> House:
    """Deliveries to next hops mx0.b.test, mx1.b.test ..., each a host of its own."""
    made = house(*servers, accounts=accounts)
    hosts = made.finder.hosts["b.test"]
    assert isinstance(hosts, tuple)
    made.finder.hosts.update({host.name: (host,) for host in hosts})
    return made


def route(*names: str, account: str = "smarthost", **more: Any) -> Route:
    """The operator's route over these hosts."""
    hops = tuple(Hop(name, mx=False, configured=True) for name in names or ("mx0.b.test",))
    return route_to(hops=hops, account=account, **more)


def told(outcomes: list[Outcome]) -> tuple[str, str, str]:
    """One outcome in short."""
    [one] = outcomes
    return one.fate.name, one.scope.name, one.status


def write(path: Path, text: str, stamp: int) -> None:
    """Change a secret, as an operator does some time later."""
    path.write_text(text)
    os.utime(path, ns=(stamp, stamp))


def test_a_route_with_an_account_logs_in_and_keeps_the_session(secret: Path) -> None:
    """One log-in serves many messages."""
    server = AuthServer()
    place = site(server, accounts=(account(secret),))
    for _ in range(3):
        assert told(place.deliver("a@b.test", route=route()))[0] == "RELAYED"
    assert server.logins == [("SCRAM-SHA-256", "relay")] and len(server.taken) == 3 and not place.events


def test_sessions_of_different_accounts_are_not_shared(secret: Path) -> None:
    """Who logged in as one does not send as the other, nor as nobody."""
    place = site(lambda: AuthServer(mechanisms="PLAIN"), accounts=(account(secret), account(secret, "other")))
    place.deliver("a@b.test", route=route())
    place.deliver("a@b.test", route=route(account="other"))
    assert told(place.deliver("a@b.test", route=route(account=""))) == ("FAILED", "MESSAGE", "5.7.0")  # MAIL: 530
    assert [len(one.logins) for one in place.network.servers] == [1, 1, 0]  # type: ignore[attr-defined]


def test_a_refused_log_in_defers_and_never_bounces(secret: Path) -> None:
    """RFC 4954 §6: 535 is about our credentials; the message waits with 4.7.8 and a reason."""
    place = site(lambda: AuthServer(password="changed"), accounts=(account(secret),))
    [outcome] = place.deliver("a@b.test", route=route())
    assert (outcome.fate, outcome.scope, outcome.status) == (Fate.DEFERRED, Scope.SITE, "4.7.8")
    assert outcome.reply is not None and outcome.reply.code == 535
    refused = [one for one in place.events if isinstance(one, LoginRefused)]
    assert refused == [
        LoginRefused("smarthost", "mx0.b.test", "535 5.7.8 authentication credentials invalid", BACKOFFS[0])
    ]
    assert PASSWORD not in repr(place.events) and PASSWORD not in repr(outcome)


def test_the_next_to_is_tried_where_a_log_in_is_refused(secret: Path) -> None:
    """Failover to the next `to`, whose log-in is its own."""
    place = site(AuthServer(password="changed"), AuthServer(), accounts=(account(secret),))
    [outcome] = place.deliver("a@b.test", route=route("mx0.b.test", "mx1.b.test"))
    assert (outcome.fate, outcome.host) == (Fate.RELAYED, "mx1.b.test")


@pytest.mark.parametrize("server", [lambda: Server(), lambda: AuthServer(mechanisms="GSSAPI")])
def test_a_host_that_cannot_log_us_in_is_passed_over(secret: Path, server: Callable[[], Server]) -> None:
    """No AUTH, or no mechanism in common: nothing is sent there without it."""
    place = site(server, AuthServer(), accounts=(account(secret),))
    [outcome] = place.deliver("a@b.test", route=route("mx0.b.test", "mx1.b.test"))
    assert (outcome.fate, outcome.host) == (Fate.RELAYED, "mx1.b.test")
    assert told(site(server, accounts=(account(secret),)).deliver("a@b.test", route=route())) == (
        "DEFERRED", "SITE", "4.7.0",
    )  # fmt: skip


def test_wrong_credentials_are_not_tried_for_each_message(secret: Path) -> None:
    """A back-off for each account and host, longer each time: an account is locked by less."""
    place = site(lambda: AuthServer(password="changed"), accounts=(account(secret),))
    dialled = place.network.dialled
    place.deliver("a@b.test", route=route())
    for _ in range(3):
        [outcome] = place.deliver("a@b.test", route=route())
        assert outcome.status == "4.7.8" and "was refused 0 s ago, and is not tried: 535" in outcome.text
    assert len(dialled) == 1
    for number, seconds in enumerate((*BACKOFFS, BACKOFFS[-1]), 1):
        place.network.advance(seconds - 1)
        place.deliver("a@b.test", route=route())
        assert len(dialled) == number
        place.network.advance(1)
        place.deliver("a@b.test", route=route())
        assert len(dialled) == number + 1


def test_a_host_with_many_addresses_is_asked_once(secret: Path) -> None:
    """The same password would be as wrong at its other addresses."""
    place = site(lambda: AuthServer(password="changed"), accounts=(account(secret),))
    addresses = tuple(f"192.0.2.{number}" for number in range(4))
    for address in addresses:
        place.network.places[address, 25] = lambda: AuthServer(password="changed")
    place.finder.hosts["mx0.b.test"] = (Host("mx0.b.test", 25, 0, addresses),)
    assert told(place.deliver("a@b.test", route=route())) == ("DEFERRED", "SITE", "4.7.8")
    assert len(place.network.dialled) == 1


def test_many_messages_at_once_are_one_wrong_log_in(secret: Path) -> None:
    """The first with a secret goes ahead, the others wait for it."""
    place = site(lambda: AuthServer(password="changed"), accounts=(account(secret),))
    waiting = [place.start("a@b.test", route=route()) for _ in range(5)]
    place.network.settle()
    assert all(one.called for one in waiting) and len(place.network.dialled) == 1
    place = site(AuthServer, accounts=(account(secret),))
    waiting = [place.start("a@b.test", route=route()) for _ in range(5)]
    place.network.settle()
    assert sum(len(one.taken) for one in place.network.servers) == 5
    assert len(place.network.dialled) > 1, "the others did not wait for each other"


def test_a_changed_secret_is_taken_at_once(secret: Path) -> None:
    """The back-off is for the secret that was refused; no reload is needed."""
    place = site(lambda: AuthServer(password="changed"), accounts=(account(secret),))
    place.deliver("a@b.test", route=route())
    write(secret, "changed\n", 10**18)
    assert told(place.deliver("a@b.test", route=route()))[0] == "RELAYED"


def test_a_host_that_refuses_a_log_in_is_not_ill(secret: Path) -> None:
    """Mail without an account goes there as before."""
    place = site(
        lambda: AuthServer(mechanisms="PLAIN", password="changed"), Server(), accounts=(account(secret),)
    )
    place.deliver("a@b.test", route=route())
    place.deliver("a@b.test", route=route_to("b.test"))
    assert place.network.dialled == [("192.0.2.0", 25), ("192.0.2.0", 25)]


def test_a_421_in_the_log_in_is_the_hosts_and_not_ours(secret: Path) -> None:
    """RFC 5321 §3.8: it goes away, and the account is not to blame."""
    server = lambda: AuthServer(answers=lambda verb, _: b"421 4.3.2 down\r\n" if verb == "AUTH" else None)  # noqa: E731
    place = site(server, accounts=(account(secret),))
    assert told(place.deliver("a@b.test", route=route())) == ("DEFERRED", "SITE", "4.3.2")
    assert [type(one) for one in place.events] == [ConnectFailed]


def test_a_secret_that_cannot_be_read_defers(tmp_path: Path) -> None:
    """The file is named, nobody is called, and nothing is remembered against the account."""
    place = site(AuthServer(), accounts=(account(tmp_path / "gone"),))
    [outcome] = place.deliver("a@b.test", route=route())
    assert outcome.status == "4.7.0" and f"{tmp_path}/gone cannot be read" in outcome.text
    assert not place.network.dialled


def test_no_log_in_where_nothing_proves_who_the_host_is(secret: Path) -> None:
    """Without `insecure` neither clear text nor any certificate will do, and nobody is called."""
    place = site(AuthServer(), accounts=(account(secret, insecure=False),))
    for level in (TlsLevel.NONE, TlsLevel.OPPORTUNISTIC, TlsLevel.ENCRYPT):
        [outcome] = place.deliver("a@b.test", route=route(tls=level))
        assert (outcome.fate, outcome.status) == (Fate.DEFERRED, "4.7.0")
        assert "nothing proves that it is this host" in outcome.text
    assert not place.network.dialled


def test_a_host_that_the_dns_alone_named_gets_no_log_in(secret: Path) -> None:
    """A forged MX has a good certificate for its own name: only DNSSEC, or the operator, can name a host."""
    place = house(Server(), accounts=(account(secret, insecure=False),))
    hop = Hop("b.test", mx=True, configured=True)
    [outcome] = place.deliver("a@b.test", route=route_to(hops=(hop,), account="smarthost", tls=TlsLevel.VERIFY))
    assert "nothing proves" in outcome.text and not place.network.dialled
    [host] = place.finder.hosts["b.test"]  # type: ignore[misc]
    place.finder.hosts["b.test"] = (attrs.evolve(host, secure=True),)
    [outcome] = place.deliver("a@b.test", route=route_to(hops=(hop,), account="smarthost", tls=TlsLevel.VERIFY))
    assert place.network.dialled and "TLS is demanded" in outcome.text
    [outcome] = place.deliver(
        "a@b.test", route=route_to(hops=(Hop("b.test"),), account="smarthost", tls=TlsLevel.VERIFY)
    )
    assert "nothing proves" in outcome.text  # not even then, where a recipient named the domain


# What is allowed


def test_only_allowed_mechanisms_are_used(secret: Path) -> None:
    """`mechanisms` narrows the choice."""
    server = AuthServer()
    place = site(server, accounts=(account(secret, mechanisms=(Mechanism.LOGIN,)),))
    place.deliver("a@b.test", route=route())
    assert server.tries == ["LOGIN"]


def test_the_finder_is_asked_as_ever(secret: Path) -> None:
    """An account changes nothing about which hosts are walked to."""
    place = site(AuthServer(), accounts=(account(secret),))
    assert isinstance(place.finder, Finder)
    place.deliver("a@b.test", route=route())
    assert place.finder.asked == ["mx0.b.test"]
