"""Routes, pure: how rules are written, which one matches, and what lane comes of it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaymta.mail.address import Address, parse_mailbox
from relaymta.mail.reply import Reply
from relaymta.routing.route import Hop, Route, TlsLevel, Transport
from relaymta.routing.router import Router
from relaymta.routing.settings import HostSettings, Pattern, RouteSettings, Target, Texts, parse_target


def rule(to: str | list[str] = "discard", **terms: Any) -> RouteSettings:
    """A [[route]] table as the loader makes it."""
    for key in {"recipient", "sender", "login"} & terms.keys():
        terms[key] = Texts.read(terms[key])
    settings = RouteSettings(Texts.read(to), **terms)
    assert list(settings.check()) == []
    return settings


def routed(router: Router, recipient: str, sender: str | None = "s@sender.test", login: str = "") -> Route:
    """The route of one recipient."""
    return router.route(parse_mailbox(recipient), (sender and parse_mailbox(sender)) or None, login)


def number(route: Route) -> int:
    """Which rule it was; 0 is none."""
    return int(route.rule.split()[1]) if route.rule.startswith("route ") else 0


# How `to` is written


@pytest.mark.parametrize(
    ("text", "hop", "written"),
    [
        ("relay.example", Hop("relay.example", 25, True, "", True), "relay.example"),
        ("Relay.Example:587", Hop("relay.example", 587, True, "", True), "relay.example:587"),
        ("[relay.example]", Hop("relay.example", 25, False, "", True), "[relay.example]:25"),
        ("[relay.example]:587", Hop("relay.example", 587, False, "", True), "[relay.example]:587"),
        ("[10.0.0.5]:25", Hop("10.0.0.5", 25, False, "", True), "[10.0.0.5]:25"),
        ("10.0.0.5:2525", Hop("10.0.0.5", 2525, False, "", True), "[10.0.0.5]:2525"),
        ("[2001:DB8::1]:25", Hop("2001:db8::1", 25, False, "", True), "[2001:db8::1]:25"),
        ("[IPv6:2001:db8::1]", Hop("2001:db8::1", 25, False, "", True), "[2001:db8::1]:25"),
        ("b\u00fccher.example", Hop("xn--bcher-kva.example", 25, True, "", True), "xn--bcher-kva.example"),
        ("localhost:2525", Hop("localhost", 2525, True, "", True), "localhost:2525"),
    ],
)
def test_smtp_next_hops(text: str, hop: Hop, written: str) -> None:
    """host, host:port, [host]:port and addresses; brackets mean no MX look-up, addresses never have one."""
    assert parse_target([text]) == Target(Transport.SMTP, (hop,))
    assert str(hop) == written


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("lmtp:unix:/run/lmtp", Hop("", 0, False, "/run/lmtp", True)),
        ("lmtp:mail.example:2003", Hop("mail.example", 2003, False, "", True)),
        ("lmtp:mail.example", Hop("mail.example", 24, False, "", True)),
        ("lmtp:[::1]:24", Hop("::1", 24, False, "", True)),
    ],
)
def test_lmtp_next_hops(text: str, hop: Hop) -> None:
    """LMTP goes to a socket or a host, never by MX, and never to port 25 unasked (RFC 2033 §5)."""
    assert parse_target([text]) == Target(Transport.LMTP, (hop,))


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("error:550 5.1.1 no such user", Reply(550, "5.1.1", "no such user")),
        ("error:450 4.2.0 later: \u00fc", Reply(450, "4.2.0", "later: \u00fc")),
        ("error:551 gone", Reply(551, "5.0.0", "gone")),
        ("error:550", Reply(550, "5.0.0", "mail for this address is refused")),
    ],
)
def test_error_routes(text: str, reply: Reply) -> None:
    """error: takes a reply; without an enhanced code the plainest of its class is taken."""
    assert parse_target([text]) == Target(Transport.ERROR, reply=reply)


def test_mx_and_discard() -> None:
    """The two words that stand for themselves; "mx" may have others behind it."""
    assert parse_target(["mx"]) == Target(Transport.SMTP, (None,))
    assert parse_target(["discard"]) == Target(Transport.DISCARD)
    assert parse_target(["mx", "[10.0.0.5]"]).hops == (None, Hop("10.0.0.5", 25, False, "", True))


@pytest.mark.parametrize(
    "to",
    [
        [],
        [""],
        ["host:"],
        ["host:0"],
        ["host:65536"],
        ["host:smtp"],
        ["[host"],
        ["host]"],
        ["[]"],
        ["ho st"],
        ["-host"],
        ["2001:db8::1"],
        ["a" * 64 + ".test"],
        ["lmtp:"],
        ["lmtp:unix:"],
        ["lmtp:unix:run/lmtp"],
        ["lmtp:unix:/" + "x" * 120],
        ["error:"],
        ["error:no such user"],
        ["error:250 fine"],
        ["error:550 4.1.1 mixed"],
        ["error:550 5.1.1 two\r\nlines"],
        ["discard", "mx"],
        ["mx", "error:550 no"],
        ["mx", "lmtp:unix:/run/lmtp"],
        ["relay.test", "relay.test"],
        [f"h{number}.test" for number in range(21)],
    ],
)
def test_what_cannot_be_meant_is_refused(to: list[str]) -> None:
    """Every mistake in `to` is a ValueError with a sentence, when the file is read and not when mail comes."""
    with pytest.raises(ValueError, match=r"expected|port|alone|either|twice|at most|go with|brackets"):
        RouteSettings(Texts(to), recipient=Texts(["*"]))


def test_an_address_without_brackets_is_told_how() -> None:
    """The complaint about 2001:db8::1 says what to write."""
    with pytest.raises(ValueError, match=r'write "\[2001:db8::1\]:25"'):
        parse_target(["2001:db8::1"])


@pytest.mark.parametrize(
    "text", ["", "a..b", "user@", "@@a.test", "us er@a.test", ".", "..a", "*.a.test", "[300.1.1.1]"]
)
def test_patterns_that_match_nothing_are_refused(text: str) -> None:
    """A pattern is a domain, .domain, user@domain or *."""
    with pytest.raises(ValueError):
        RouteSettings(Texts(["mx"]), recipient=Texts([text]))
    with pytest.raises(ValueError):
        RouteSettings(Texts(["mx"]), sender=Texts([text]))


def test_contradictions_are_told() -> None:
    """A rule for nobody in particular, the null sender as recipient, credentials where nobody is spoken to."""
    assert [key for key, _ in RouteSettings(Texts(["mx"])).check()] == [""]
    with pytest.raises(ValueError, match="no recipient"):
        RouteSettings(Texts(["mx"]), recipient=Texts(["<>"]))
    wrong = RouteSettings(Texts(["discard"]), recipient=Texts(["*"]), account="a", source="b")
    assert [key for key, _ in wrong.check()] == ["account", "source"]
    with pytest.raises(ValueError, match="no IP address"):
        HostSettings(own_addresses=("relay.test",))


def test_one_string_or_a_list() -> None:
    """`to = "mx"` and `to = ["mx"]` are the same; anything else is refused."""
    assert Texts.read("mx") == Texts.read(["mx"]) == Texts(["mx"])
    assert str(Texts(["a", "b"])) == "a, b"
    for wrong in (1, ["a", 1], None, {"a": "b"}):
        with pytest.raises(ValueError):
            Texts.read(wrong)


# Which rule matches


def test_without_a_rule_mail_goes_to_the_mx_of_its_domain() -> None:
    """RFC 5321 §5.1, each domain a lane of its own."""
    route = routed(Router(), "user@Example.ORG")
    assert route == Route(Transport.SMTP, (Hop("example.org"),))
    assert route.lane == "smtp:example.org"
    assert route.rule == "no [[route]] matches: MX of example.org"
    assert route.hops[0].configured is False


def test_the_first_match_wins() -> None:
    """Rules are read from top to bottom."""
    router = Router(
        [
            rule(recipient="boss@example.org"),
            rule(recipient=["example.org", "example.net"]),
            rule(recipient=".example.org"),
            rule(recipient="*", sender="@bulk.test"),
            rule(recipient="example.com"),
        ]
    )
    assert number(routed(router, "Boss@EXAMPLE.org")) == 1
    assert number(routed(router, "user@example.org")) == 2
    assert number(routed(router, "boss@example.net")) == 2
    assert number(routed(router, "user@a.b.example.org")) == 3
    assert number(routed(router, "user@example.com", "x@bulk.test")) == 4
    assert number(routed(router, "user@example.com")) == 5
    assert number(routed(router, "user@elsewhere.test")) == 0
    assert number(routed(router, "user@notexample.org")) == 0


def test_a_leading_dot_is_subdomains_alone() -> None:
    """ ".example.org" does not match example.org itself."""
    router = Router([rule(recipient=".example.org")])
    assert [number(routed(router, f"u@{domain}")) for domain in ("a.example.org", "example.org", "xexample.org")] == [
        1,
        0,
        0,
    ]


def test_all_conditions_must_hold() -> None:
    """recipient, sender and login together."""
    router = Router([rule(recipient="a.test", sender=["ceo@b.test", ".c.test"], login="shop")])
    assert number(routed(router, "u@a.test", "CEO@b.test", "shop")) == 1
    assert number(routed(router, "u@a.test", "x@y.c.test", "shop")) == 1
    assert number(routed(router, "u@a.test", "x@b.test", "shop")) == 0
    assert number(routed(router, "u@a.test", "ceo@b.test")) == 0
    assert number(routed(router, "u@z.test", "ceo@b.test", "shop")) == 0


def test_the_null_sender_has_a_pattern() -> None:
    """ "<>" is bounces alone, "*" is every sender, a domain is never the null sender's."""
    router = Router([rule(sender="<>"), rule(recipient="b.test", sender="*"), rule(sender=".test")])
    assert number(routed(router, "u@a.test", None)) == 1
    assert number(routed(router, "u@b.test", "s@x.org")) == 2
    assert number(Router([rule(sender="*")]).route(parse_mailbox("u@a.test"), None)) == 1
    assert number(Router([rule(sender=".test")]).route(parse_mailbox("u@a.test"), None)) == 0


def test_a_login_is_written_as_the_account_is_or_not() -> None:
    """Names of accounts have one form (RFC 4013, lower case), in a route as in an envelope; what is none is refused."""
    router = Router([rule(login=["Shop@Example.org", "I\u00adX"])])
    assert number(routed(router, "u@a.test", login="shop@example.org")) == 1
    assert number(routed(router, "u@a.test", login="ix")) == 1
    assert number(routed(router, "u@a.test", login="shop")) == 0
    with pytest.raises(ValueError, match="a name has no blanks"):
        rule(login="a b")


def test_any_login_is_not_no_login() -> None:
    """login = "*" is whoever logged in."""
    router = Router([rule(login="*")])
    assert number(routed(router, "u@a.test", login="shop")) == 1
    assert number(routed(router, "u@a.test")) == 0


def test_address_literals_are_matched_as_domains() -> None:
    """A rule may name [192.0.2.1]; "*" covers it, dotted patterns do not."""
    router = Router([rule(recipient="[192.0.2.1]")])
    assert number(routed(router, "u@[192.0.2.1]")) == 1
    assert number(routed(router, "u@[192.0.2.2]")) == 0
    assert routed(router, "u@[192.0.2.2]").lane == "smtp:[192.0.2.2]:25"
    assert routed(Router([rule("mx", recipient="*")]), "u@[IPv6:2001:db8::1]").lane == "smtp:[2001:db8::1]:25"


def test_an_address_without_domain_waits() -> None:
    """The bare <postmaster> that nobody completed is deferred, never bounced (RFC 5321 §4.5.1)."""
    postmaster = Address("postmaster", "")
    for router in (Router(), Router([rule("mx", recipient="*")])):
        route = router.route(postmaster, None)
        assert route.transport is Transport.ERROR and route.reply is not None and route.reply.transient
    assert Router([rule("[10.0.0.5]", recipient="*")]).route(postmaster, None).lane == "smtp:[10.0.0.5]:25"


def test_a_rule_says_why() -> None:
    """explain shows the rule's number and its conditions."""
    router = Router([rule("mx", recipient=["a.test", ".b.test"], sender="c.test")])
    assert routed(router, "u@a.test", "x@c.test").rule == "route 1 (recipient a.test, .b.test; sender c.test)"


# Lanes


@pytest.mark.parametrize(
    ("to", "terms", "lane"),
    [
        ("mx", {}, "smtp:example.org"),
        ("[10.0.0.5]:25", {}, "smtp:[10.0.0.5]:25"),
        (["[10.0.0.5]", "backup.test:587"], {}, "smtp:[10.0.0.5]:25,backup.test:587"),
        ("lmtp:unix:/run/lmtp", {}, "lmtp:unix:/run/lmtp"),
        ("lmtp:mail.test:2003", {}, "lmtp:[mail.test]:2003"),
        ("discard", {}, "discard"),
        ("error:550 no", {}, "error"),
        ("mx", {"tls": TlsLevel.VERIFY}, "smtp:example.org;tls=verify"),
        ("[h.test]", {"account": "a", "source": "p"}, "smtp:[h.test]:25;account=a;source=p"),
    ],
)
def test_lanes(to: Any, terms: dict[str, Any], lane: str) -> None:
    """A lane names transport, next hops and all terms: connections are shared under equal ones only."""
    assert routed(Router([rule(to, recipient="*", **terms)]), "u@example.org").lane == lane


def test_equal_routes_are_equal_whatever_rule_chose_them() -> None:
    """The rule's name is for people."""
    one = routed(Router([rule("[10.0.0.5]", recipient="*")]), "u@a.test")
    two = routed(Router([rule("discard", recipient="b.test"), rule("[10.0.0.5]:25", recipient="a.test")]), "u@a.test")
    assert one == two and hash(one) == hash(two) and one.rule != two.rule


def test_a_domain_is_looked_at_once() -> None:
    """The same Route object comes for every user of a domain: nothing is computed for a message."""
    router = Router([rule("mx", recipient="boss@other.test"), rule("mx", recipient="*")])
    assert routed(router, "a@a.test") is routed(router, "b@A.test")
    assert routed(router, "x@other.test") is routed(router, "y@other.test")
    assert number(routed(router, "boss@other.test")) == 1


def test_the_memory_of_domains_is_bounded() -> None:
    """A bulk sender to a million domains does not fill the memory."""
    router = Router()
    for number_ in range(45_000):
        router.route(Address("u", f"d{number_}.test"), None)
    assert len(router._known) <= 20_000


# Against the plainest reading

DOMAINS = ["a.test", "b.a.test", "c.b.a.test", "other.test"]
PATTERN = st.sampled_from(["*", *DOMAINS, ".test", ".a.test", ".b.a.test", "u@a.test", "v@b.a.test"])
RULE = st.builds(
    lambda recipient, sender, login: (recipient, sender, login),
    st.lists(PATTERN, max_size=3),
    st.lists(st.one_of(PATTERN, st.just("<>")), max_size=2),
    st.lists(st.sampled_from(["*", "shop"]), max_size=1),
).filter(any)


def plainly(text: str, address: Address | None) -> bool:
    """Whether a pattern matches, read word by word."""
    if text == "*":
        return True
    if address is None or text == "<>":
        return address is None and text == "<>"
    if "@" in text:
        return str(address) == text
    return address.domain.endswith(text) if text.startswith(".") else address.domain == text


@given(
    st.lists(RULE, max_size=6),
    st.lists(
        st.tuples(
            st.builds(Address, st.sampled_from("uv"), st.sampled_from(DOMAINS)),
            st.one_of(st.none(), st.builds(Address, st.sampled_from("uv"), st.sampled_from(DOMAINS))),
            st.sampled_from(["", "shop", "other"]),
        ),
        max_size=6,
    ),
)
def test_the_router_says_what_reading_the_rules_says(rules: list[Any], mails: list[Any]) -> None:
    """For any rules and any mail, in any order, the index and its memory agree with the first match by hand."""
    router = Router([rule(recipient=recipient, sender=sender, login=login) for recipient, sender, login in rules])
    for recipient, sender, login in mails:
        expected = 0
        for position, (recipients, senders, logins) in enumerate(rules, 1):
            if recipients and not any(plainly(text, recipient) for text in recipients):
                continue
            if senders and not any(plainly(text, sender) for text in senders):
                continue
            if logins and not (login and ("*" in logins or login in logins)):
                continue
            expected = position
            break
        assert number(router.route(recipient, sender, login)) == expected


@given(st.text(max_size=30))
def test_no_text_is_fatal(text: str) -> None:
    """Whatever stands in the file is read or refused by a ValueError."""
    for read in (lambda: parse_target([text]), lambda: Pattern.of(text)):
        with suppress(ValueError):
            read()
