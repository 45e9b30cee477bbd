"""The whole way, step by step: who may relay, which route, which hosts, what TLS, when again, and the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaymta.delivery.dial import Place
from relaymta.explanation.question import Question, QuestionError
from relaymta.net.dns import Answer, Mx, Security, State
from tests.explanation.rig import NOW, rig, short, step
from tests.routing.zone import FAILED, NXDOMAIN, Zone

SITE = Zone(
    mx={"b.test": [(20, "mx2.b.test"), (10, "mx1.b.test")]},
    hosts={"mx1.b.test": ["198.51.100.1", "2001:db8::1"], "mx2.b.test": ["198.51.100.2"]},
)


def test_the_common_way(tmp_path: Path) -> None:
    """From this host, without a rule, by MX: every step stands in its order, with its facts."""
    rows = rig(tmp_path, zone=SITE).explain("Bob@B.test")
    assert [name for name, _ in short(rows)] == [
        "recipient", "relay", "rewrite", "route", "account", "source", "mx",
        "host", "tls", "tls", "host", "tls", "lane", "retry", "verdict",
    ]  # fmt: skip
    assert step(rows, "recipient")["address"] == "Bob@b.test"
    assert step(rows, "relay")["client"] == "127.0.0.1" and "127.0.0.0/8" in step(rows, "relay")["text"]
    route = step(rows, "route")
    assert (route["number"], route["transport"], route["hops"], route["lane"]) == (
        None, "smtp", ["b.test"], "smtp:b.test",
    )  # fmt: skip
    assert step(rows, "mx")["records"] == [
        {"preference": 10, "host": "mx1.b.test"},
        {"preference": 20, "host": "mx2.b.test"},
    ]
    hosts = [row for row in rows if row["step"] == "host"]
    assert [(row["host"], row["preference"], sorted(row["addresses"])) for row in hosts] == [
        ("mx1.b.test", 10, ["198.51.100.1", "2001:db8::1"]),
        ("mx2.b.test", 20, ["198.51.100.2"]),
    ]
    assert rows[-1]["result"] == "ok" and "mx1.b.test" in rows[-1]["text"]


@pytest.mark.parametrize(
    ("text", "arguments", "result", "said"),
    [
        ("", {"client": "203.0.113.9"}, "fails", "203.0.113.9 is in none of relay.networks"),
        ("", {"client": "::1"}, "ok", "::1/128"),
        ('[relay]\nnetworks = ["203.0.113.0/24"]\n', {"client": "203.0.113.9"}, "ok", "203.0.113.0/24"),
        ('[relay]\ndomains = ["b.test"]\n', {"client": "203.0.113.9"}, "ok", "one of relay.domains"),
        ("", {"client": "203.0.113.9", "login": "alice"}, "ok", "alice is logged in"),
    ],
)
def test_who_may_relay(tmp_path: Path, text: str, arguments: dict[str, str], result: str, said: str) -> None:
    """RFC 5321 §3.6: by network, by domain, by log-in; a refusal ends the way with the reply of RCPT."""
    rows = rig(tmp_path, text, SITE).explain("bob@b.test", **arguments)
    assert step(rows, "relay")["result"] == result and said in step(rows, "relay")["text"]
    if result == "fails":
        assert short(rows)[-1] == ("verdict", "fails") and "550 5.7.1" in rows[-1]["text"] and len(rows) == 3


def test_a_routed_address_is_refused_to_strangers(tmp_path: Path) -> None:
    """The percent hack keeps its own reason."""
    text = '[relay]\ndomains = ["b.test"]\n'
    rows = rig(tmp_path, text, SITE).explain("a%c.test@b.test", client="203.0.113.9")
    assert step(rows, "relay")["text"].endswith("routing inside the local part")


def test_what_is_no_address(tmp_path: Path) -> None:
    """It would be refused at RCPT."""
    assert short(rig(tmp_path).explain("nobody")) == [("recipient", "fails"), ("verdict", "fails")]


def test_the_postmaster_is_somebody(tmp_path: Path) -> None:
    """RFC 5321 §4.5.1: taken from anybody, and goes where the configuration says."""
    rows = rig(tmp_path, zone=SITE).explain("<postmaster>", client="203.0.113.9")
    assert step(rows, "relay")["text"] == "the postmaster is refused to nobody"
    assert step(rows, "rewrite")["address"] == "postmaster@relay.example.org"


ROUTES = """
[[source]]
name = "pool"
addresses = ["192.0.2.7"]
[[route]]
recipient = "x@b.test"
sender = "news@from.test"
to = "error:550 5.1.1 no such user"
[[route]]
recipient = "y@b.test"
to = "discard"
[[route]]
recipient = "z@b.test"
to = "error:451 4.3.0 later"
[[route]]
recipient = "b.test"
to = ["[198.51.100.9]:2525", "lmtp.test:26"]
source = "pool"
tls = "encrypt"
[[route]]
recipient = "l.test"
to = "lmtp:unix:/run/lmtp"
"""


def test_the_rule_that_matches_is_named_with_its_terms(tmp_path: Path) -> None:
    """By number and conditions; a literal has no MX, a source without the family is told."""
    zone = Zone(hosts={"lmtp.test": ["2001:db8::2"]})
    rows = rig(tmp_path, ROUTES, zone).explain("bob@b.test")
    route = step(rows, "route")
    assert (route["number"], route["tls"], route["source"]) == (4, "encrypt", "pool")
    assert "recipient b.test" in route["text"] and "[198.51.100.9]:2525" in route["hops"]
    source, trouble = [row for row in rows if row["step"] == "source"]
    assert source["addresses"] == ["192.0.2.7"] and trouble["result"] == "waits"
    assert next(row["text"] for row in rows if row["step"] == "tls").endswith("TLS, with any certificate")
    assert step(rows, "mx")["state"] == "no such record" and rows[-1]["result"] == "ok"


def test_the_sender_chooses_among_routes(tmp_path: Path) -> None:
    """--sender is looked at as a route looks at it; without one it is the postmaster."""
    where = rig(tmp_path, ROUTES, Zone(hosts={"lmtp.test": ["192.0.2.2"]}))
    rows = where.explain("x@b.test", sender="news@from.test")
    assert rows[-1]["result"] == "fails" and rows[-1]["text"].endswith("550 5.1.1 no such user")
    assert step(where.explain("x@b.test"), "route")["number"] == 4
    assert step(where.explain("x@b.test", sender="<>"), "relay")["sender"] == "<>"


@pytest.mark.parametrize(
    ("address", "result", "said"),
    [("y@b.test", "ok", "thrown away"), ("z@b.test", "waits", "451 4.3.0 later")],
)
def test_routes_without_a_next_hop(tmp_path: Path, address: str, result: str, said: str) -> None:
    """Discard and error end the way."""
    rows = rig(tmp_path, ROUTES).explain(address)
    assert rows[-1]["result"] == result and said in rows[-1]["text"] and short(rows)[-2][0] == "route"


def test_a_socket_of_this_machine(tmp_path: Path) -> None:
    """LMTP over a UNIX socket asks no name server."""
    rows = rig(tmp_path, ROUTES).explain("bob@l.test")
    assert step(rows, "host")["addresses"] == ["/run/lmtp"] and rows[-1]["result"] == "ok"


@pytest.mark.parametrize(
    ("zone", "result", "said"),
    [
        (Zone(), "fails", "5.1.2 domain b.test does not exist"),
        (Zone(mx={"b.test": [(0, "")]}), "fails", "5.1.10 domain b.test accepts no mail (null MX)"),
        (Zone(mx={"b.test": FAILED}), "waits", "4.4.3 name server trouble"),
        (Zone(mx={"b.test": [(10, "mx.b.test")]}, hosts={"mx.b.test": FAILED}), "waits", "4.4.3"),
        (Zone(mx={"b.test": [(10, "mx.b.test")]}, hosts={"mx.b.test": NXDOMAIN}), "fails", "5.4.4"),
        (Zone(mx={"b.test": [(10, "mx.b.test")]}, hosts={"mx.b.test": ["192.0.2.25"]}), "fails", "5.4.6 mail for"),
        (Zone(hosts={"b.test": ["198.51.100.3"]}), "ok", "would go to b.test at 198.51.100.3"),
    ],
    ids=["nxdomain", "null-mx", "servfail", "host-servfail", "no-host", "loop", "implicit-mx"],
)
def test_what_the_name_servers_say(tmp_path: Path, zone: Zone, result: str, said: str) -> None:
    """RFC 5321 §5.1, RFC 7505: only an answer that says no is a no."""
    rows = rig(tmp_path, zone=zone).explain("bob@b.test")
    assert rows[-1]["result"] == result and said in rows[-1]["text"]
    assert any(row["step"] == "retry" for row in rows) is (result != "fails")


def test_one_next_hop_that_may_come_back_makes_the_message_wait(tmp_path: Path) -> None:
    """A mistake of the operator's is never the recipient's fault."""
    text = '[[route]]\nrecipient = "*"\nto = ["gone.test", "mx"]\n'
    rows = rig(tmp_path, text).explain("bob@b.test")
    assert rows[-1]["result"] == "waits" and [row["result"] for row in rows if row["step"] == "hosts"] == [
        "waits", "fails",
    ]  # fmt: skip


def test_hosts_beyond_one_attempt_are_told_and_not_asked_for(tmp_path: Path) -> None:
    """delivery.max_addresses bounds what one attempt tries."""
    rows = rig(tmp_path, "[delivery]\nmax_addresses = 2\n", SITE).explain("bob@b.test")
    assert [row["text"] for row in rows if row["step"] == "host"][-1] == (
        "not in one attempt, which tries 2 addresses: mx2.b.test"
    )


def test_what_dnssec_says_is_told_where_it_is_believed(tmp_path: Path) -> None:
    """Four values, never two."""
    text = "[dns]\ntrust_ad = true\n"
    secure = Zone(mx={"b.test": [(10, "mx.b.test")]}, hosts={"mx.b.test": ["198.51.100.1"]}, secure=True)
    rows = rig(tmp_path, text, secure).explain("bob@b.test")
    assert step(rows, "mx")["dnssec"] == "secure" and step(rows, "host")["secure"] is True
    assert step(rows, "host")["text"].endswith("; DNSSEC: secure")
    bogus: Answer[Mx] = Answer(State.FAILED, security=Security.BOGUS, text="signature expired")
    rows = rig(tmp_path, text, Zone(mx={"b.test": bogus})).explain("bob@b.test")
    assert step(rows, "mx")["dnssec"] == "bogus" and rows[-1]["result"] == "waits"
    assert "DNSSEC" not in step(rig(tmp_path, "", SITE).explain("bob@b.test"), "mx")["text"]


@pytest.mark.parametrize(
    ("level", "demanded", "said"),
    [
        ("none", False, "in clear, as the route says"),
        ("opportunistic", False, "TLS where it is offered"),
        ("encrypt", True, "TLS, with any certificate"),
        ("verify", True, "TLS, and relay.b.test must prove who it is"),
    ],
)
def test_the_tls_that_a_host_must_show(tmp_path: Path, level: str, demanded: bool, said: str) -> None:
    """As delivery.security has it for this host."""
    text = f'[[route]]\nrecipient = "*"\nto = "[relay.b.test]:587"\ntls = "{level}"\n'
    rows = rig(tmp_path, text, Zone(hosts={"relay.b.test": ["198.51.100.5"]})).explain("bob@b.test")
    tls = step(rows, "tls")
    assert tls["demanded"] is demanded and said in tls["text"] and tls["level"] == level


ACCOUNT = """
[[route]]
recipient = "*"
to = "{to}"
account = "smarthost"
tls = "verify"
[[account]]
name = "smarthost"
username = "relay"
password_file = "{file}"
"""


def test_the_account_is_told_and_its_secret_is_not(tmp_path: Path) -> None:
    """Name, mechanisms, and whether the secret can be read."""
    secret = tmp_path / "secret"
    secret.write_text("pencil-42\n")
    zone = Zone(hosts={"relay.b.test": ["198.51.100.5"]})
    where = rig(tmp_path, ACCOUNT.format(to="[relay.b.test]:587", file=secret), zone)
    rows = where.explain("bob@b.test")
    account = step(rows, "account")
    assert (account["account"], account["username"], account["result"]) == ("smarthost", "relay", "ok")
    assert account["mechanisms"] == ["SCRAM-SHA-256", "PLAIN", "LOGIN"] and "pencil" not in repr(rows)
    secret.unlink()
    rows = where.explain("bob@b.test")
    assert step(rows, "account")["result"] == "waits" and "cannot be read" in step(rows, "account")["text"]


def test_an_account_is_not_shown_to_a_host_that_only_the_dns_named(tmp_path: Path) -> None:
    """What delivery would refuse is told before."""
    secret = tmp_path / "secret"
    secret.write_text("pencil-42\n")
    zone = Zone(mx={"relay.b.test": [(10, "other.test")]}, hosts={"other.test": ["198.51.100.5"]})
    rows = rig(tmp_path, ACCOUNT.format(to="relay.b.test:587", file=secret), zone).explain("bob@b.test")
    assert step(rows, "login")["result"] == "waits" and rows[-1]["result"] == "waits"


def test_an_address_that_ails_is_told(tmp_path: Path) -> None:
    """What a running relay remembers of its peers."""
    where = rig(tmp_path, zone=SITE)
    where.deliveries.means.ailing.add(Place("mx1.b.test", "198.51.100.1", 25))
    assert step(where.explain("bob@b.test"), "ailing")["address"] == "198.51.100.1"


def test_the_lane_and_its_state(tmp_path: Path) -> None:
    """Suspended, open, unknown to the relay, or unknown since none runs."""
    state = {"lane": "x", "running": 1, "window": 5, "fresh": 2, "tickets": 3, "failures": 3, "until": NOW + 60}
    rows = rig(tmp_path, zone=SITE, lane=lambda name: state if name == "smtp:b.test" else {}).explain("bob@b.test")
    lane = step(rows, "lane")
    assert (lane["result"], lane["suspended_until"], lane["running"], lane["waiting"]) == ("waits", NOW + 60, 1, 5)
    assert "suspended until" in lane["text"]
    lane = step(rig(tmp_path, zone=SITE, lane=lambda _: {**state, "until": 0.0}).explain("bob@b.test"), "lane")
    assert lane["text"] == "smtp:b.test: open; 1 under way, window 5, 5 waiting" and lane["result"] == "info"
    lane = step(rig(tmp_path, zone=SITE, lane=lambda _: {}).explain("bob@b.test"), "lane")
    assert "nothing is known of it" in lane["text"] and lane["known"] is True
    lane = step(rig(tmp_path, zone=SITE).explain("bob@b.test"), "lane")
    assert lane["text"].endswith("unknown, since relaymta is not running") and lane["known"] is False


def test_the_retries_of_a_first_failure_now(tmp_path: Path) -> None:
    """Times of attempts, of the warning and of the end, from the schedule in force."""
    text = '[queue]\nretry = ["1m", "10m"]\nexpire = "1h"\nwarn_after = "30m"\n'
    retry = step(rig(tmp_path, text, SITE).explain("bob@b.test"), "retry")
    assert [at - NOW for at in retry["attempts"]] == [0, 60, 660, 1260, 1860, 2460, 3060]
    assert (retry["expires"] - NOW, retry["warns"] - NOW) == (3600, 1800)
    assert "7 attempts, after 1m, 10m, then every 10m" in retry["text"]
    text = '[queue]\nretry = ["1s"]\nexpire = "5d"\nwarn_after = "0s"\n'
    retry = step(rig(tmp_path, text, SITE).explain("bob@b.test"), "retry")
    assert "200 or more attempts" in retry["text"] and retry["warns"] is None and len(retry["attempts"]) == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "say whose mail"),
        ({"address": 5}, "address is a string"),
        ({"address": "a@b.test", "client": "here"}, '"here" is not an IP address'),
        ({"address": "a@b.test", "sender": "a\r\nb@c.test"}, "sender"),
    ],
)
def test_questions_that_make_no_sense(arguments: dict[str, object], said: str) -> None:
    """One line for who asked."""
    with pytest.raises(QuestionError, match=said):
        Question.of(arguments)
