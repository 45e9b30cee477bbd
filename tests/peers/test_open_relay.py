"""A stranger relays nowhere, whatever the spelling; the relay's own networks and domains are served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.client import Client
from tests.peers.daemon import Daemon
from tests.peers.postbox import Postbox
from tests.peers.programs import wait_until

FRIEND, STRANGER = "127.0.0.2", "127.0.0.3"
TRICKS = [
    "victim@elsewhere.example",
    "victim%elsewhere.example@ours.example",
    "victim%elsewhere.example@relay.example.org",
    "elsewhere.example!victim@ours.example",
    "elsewhere.example!victim",
    '"victim@elsewhere.example"@ours.example',
    '"victim%elsewhere.example"@ours.example',
    '"elsewhere.example!victim"@ours.example',
    "@ours.example:victim@elsewhere.example",
    "@ours.example,@relay.example.org:victim@elsewhere.example",
    "victim@elsewhere.example@ours.example",
    "victim@[127.0.0.1]",
    "victim@[127.0.0.2]",
    "victim@[IPv6:::1]",
    "victim@localhost",
    "victim@sub.ours.example",
    "victim@ours.example.elsewhere.example",
    "victim@ours.example.",
    "victim@ours.example\0.elsewhere.example",
    "victim",
    '"victim@elsewhere.example"',
    "victim@elsewhere.example%ours.example",
    ":victim@elsewhere.example",
    "victim@",
    "@ours.example",
    "postmaster@elsewhere.example",
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Postbox]]:
    """A relay for 127.0.0.2 and for ours.example alone."""
    with Postbox() as sink:
        folder = tmp_path_factory.mktemp("open") / "relay"
        daemon = Daemon(
            folder, sink=sink.port, networks=f"{FRIEND}/32", domains='"ours.example", ".below.example"',
            listener="\n[listener.limits]\nerrors = 1000\n",
        )  # fmt: skip
        yield daemon.start(), sink
        daemon.stop()


@pytest.mark.parametrize("sender", ["a@elsewhere.example", "boss@ours.example", ""])
def test_every_trick_of_a_stranger_is_refused(house: tuple[Daemon, Postbox], sender: str) -> None:
    """Percent hack, bang path, quotes, source route, literal of ours: 5xx each, and no DATA after that."""
    daemon, sink = house
    before = len(sink.taken)
    with Client(daemon.port, source=STRANGER) as client:
        client.say("EHLO ours.example")
        assert client.say(f"MAIL FROM:<{sender}>").startswith("250")
        for trick in TRICKS:
            assert client.say(f"RCPT TO:<{trick}>").startswith("5"), trick
        assert client.say("DATA").startswith("5")
        assert client.say("RSET").startswith("250")
    assert len(sink.taken) == before


def test_the_plain_refusal_is_550_5_7_1(house: tuple[Daemon, Postbox]) -> None:
    """What grammar has nothing against is refused by policy, and the log says whom."""
    daemon, _ = house
    with Client(daemon.port, source=STRANGER) as client:
        client.say("EHLO client.example.net")
        client.say("MAIL FROM:<a@elsewhere.example>")
        for trick in (TRICKS[0], TRICKS[1], '"victim@elsewhere.example"@ours.example', "victim@[127.0.0.1]"):
            assert client.say(f"RCPT TO:<{trick}>").startswith("550 5.7.1 "), trick
    wait_until("its line in the log", lambda: "recipient=victim@elsewhere.example" in daemon.log())
    assert any(
        "command-refused" in line and "127.0.0.3" in line and "check=relaying" in line
        for line in daemon.log().splitlines()
    )


def test_a_stranger_reaches_our_own_domains_and_postmaster(house: tuple[Daemon, Postbox]) -> None:
    """Our domains, the subdomains of one with a dot, and <postmaster> are served for anyone (RFC 5321 §4.5.1)."""
    daemon, sink = house
    before = len(sink.taken)
    with Client(daemon.port, source=STRANGER) as client:
        client.begin("a@elsewhere.example", "u@ours.example", "u@OURS.Example", "u@deep.in.below.example", "postmaster")
        assert client.data(b"Subject: x\r\n\r\n").startswith("250 ")
    wait_until("all four", lambda: sum(len(one.recipients) for one in sink.taken[before:]) == 4)
    found = {one for message in sink.taken[before:] for one in message.recipients}
    assert "postmaster@relay.example.org" in found and "u@deep.in.below.example" in found


def test_a_friend_relays_to_anywhere(house: tuple[Daemon, Postbox]) -> None:
    """The named network may send anywhere; the address next to it may not, and neither may loopback itself."""
    daemon, sink = house
    before = len(sink.taken)
    with Client(daemon.port, source=FRIEND) as client:
        client.begin("a@elsewhere.example", "victim@elsewhere.example")
        assert client.data(b"Subject: x\r\n\r\n").startswith("250 ")
    assert sink.wait_for(before + 1)[before].recipients == ("victim@elsewhere.example",)
    for source in ("127.0.0.1", "127.0.0.4", STRANGER):
        with Client(daemon.port, source=source) as client:
            client.say("EHLO client.example.net")
            client.say("MAIL FROM:<a@elsewhere.example>")
            assert client.say("RCPT TO:<victim@elsewhere.example>").startswith("550 5.7.1 "), source
