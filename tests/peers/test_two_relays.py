"""Two relays of ours: one hands its mail to the other's submission port, with an account, over TLS that is verified."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define

from tests.net.certificates import make
from tests.net.nsd import NSD_MISSING, nsd
from tests.peers.client import Client
from tests.peers.daemon import Daemon
from tests.peers.policyhost import context_of
from tests.peers.postbox import Postbox
from tests.peers.programs import free_port, wait_until

pytestmark = [pytest.mark.peers, pytest.mark.skipif(bool(NSD_MISSING), reason=NSD_MISSING or "-")]

NAME, PASSWORD = "shop@site.test", "correct horse"
DNS = """
[dns]
servers = ["{server}"]
"""
TLS = """
[tls]
certificate = "{folder}/{name}.pem"
key = "{folder}/{name}.key"
[delivery]
tls_ca = "{folder}/ca.pem"
"""
SITE = """
[[listener]]
name = "submission"
address = "127.0.0.1:{submission}"
profile = "submission"
tls = "required"
[users]
file = "{folder}/users"
[auth]
delay = "10ms"
[[route]]
recipient = "careless.test"
to = "[careless.site.test]:{careless}"
tls = "opportunistic"
[[route]]
recipient = "*"
to = "[end.site.test]:{end}"
tls = "opportunistic"
"""
SHOP = """
[[listener]]
name = "tls"
address = "127.0.0.1:{tls}"
tls = "starttls"
[[route]]
recipient = "shop.test"
to = "[127.0.0.1]:{home}"
tls = "none"
[[route]]
recipient = "direct.test"
to = "[careless.site.test]:{careless}"
tls = "verify"
[[route]]
recipient = "*"
to = "[b.site.test]:{submission}"
tls = "verify"
account = "site"
[[account]]
name = "site"
username = "{name}"
password_file = "{folder}/secret"
[queue]
retry = ["1s"]
"""


@define
class Site:
    """`b` has the submission port, and `end` and `careless` behind it; the latter knows no REQUIRETLS.

    `start` makes a relay `a` that goes by `b`, listening with STARTTLS on its own `port`; bounces come to `home`.
    """

    folder: Path
    server: str
    b: Daemon
    submission: int
    end: Postbox
    careless: Postbox
    home: Postbox
    made: int = 0

    def start(self, workers: int = 0) -> tuple[Daemon, int]:
        """Another relay a, and its port with STARTTLS."""
        self.made += 1
        port = free_port()
        extra = DNS.format(server=self.server) + TLS.format(folder=self.folder, name="a")
        extra += SHOP.format(
            tls=port, home=self.home.port, careless=self.careless.port, submission=self.submission, name=NAME,
            folder=self.folder,
        )  # fmt: skip
        return Daemon(self.folder / f"a-{self.made}", workers=workers, extra=extra).start(), port


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The relay b with its account, and who is behind it."""
    folder = tmp_path_factory.mktemp("site")
    ca = make(ca=True, kind="rsa", common_name="authority")
    (folder / "ca.pem").write_bytes(ca.pem)
    for name in ("a", "b"):
        make(f"{name}.site.test", by=ca).write(folder, name)
    context = context_of(folder, make("end.site.test", "careless.site.test", by=ca))
    zone = "\n".join(f"{name} A 127.0.0.1" for name in ("b", "end", "careless"))
    with (
        nsd({"site.test": zone}) as server,
        Postbox(context=context, offers=("REQUIRETLS",)) as end,
        Postbox(context=context) as careless,
        Postbox() as home,
    ):
        submission = free_port()
        extra = DNS.format(server=server) + TLS.format(folder=folder, name="b")
        extra += SITE.format(submission=submission, folder=folder, end=end.port, careless=careless.port)
        b = Daemon(folder / "b-relay", workers=2, networks="192.0.2.0/24", extra=extra)
        b.folder.mkdir()
        b.write()
        (folder / "password").write_text(f"{PASSWORD}\n")
        words = ("--sender", "site.test", "--password-file", str(folder / "password"))
        added = b.run("relaymta", "user", "add", NAME, *words)
        assert added.returncode == 0, added.stderr
        b.start()
        try:
            yield Site(folder, server, b, submission, end, careless, home)
        finally:
            b.stop()


def a_letter(
    port: int, sender: str, recipient: str, *, header: str = "", options: str = "", tls: bool = False
) -> str:
    """Hand one message in; its queue id."""
    with Client(port) as client:
        if tls:
            client.start_tls()
        client.begin(sender, recipient, options=options)
        said = client.data(f"From: <{sender}>\r\nSubject: a letter\r\n{header}\r\nhello\r\n".encode())
        assert said.startswith("250 2.0.0 queued as "), said
        return said.rpartition(" ")[2]


def notice(home: Postbox, before: int) -> str:
    """The notice that comes home, unfolded."""
    return " ".join(home.wait_for(before + 1)[before].content.decode().split())


@pytest.fixture(scope="module")
def shop(site: Site) -> Iterator[tuple[Daemon, int]]:
    """A relay a whose password is right, and its port with STARTTLS."""
    (site.folder / "secret").write_text(f"{PASSWORD}\n")
    daemon, port = site.start()
    yield daemon, port
    daemon.stop()


def test_it_logs_in_by_scram_and_has_its_rights(site: Site, shop: tuple[Daemon, int]) -> None:
    """The strongest mechanism that both know; the account may send as its own domain, and as nobody else."""
    a, _ = shop
    before, at_home = len(site.end.taken), len(site.home.taken)
    a_letter(a.port, "someone@site.test", "r@end.test")
    [message] = site.end.wait_for(before + 1)[before:]
    assert b"with ESMTPSA id " in message.content and b"correct" not in message.content
    wait_until("the log-in", lambda: f"account={NAME} mechanism=SCRAM-SHA-256" in site.b.log(), 10, site.b.log)
    a_letter(a.port, "boss@shop.test", "r@end.test")
    text = notice(site.home, at_home)
    assert "Status: 5.7.1" in text and f"{NAME} may not send as boss@shop.test, only as site.test" in text
    assert len(site.end.taken) == before + 1
    wait_until("its proof", lambda: "(verified: PKIX)" in a.log(), 10, a.log)


def test_requiretls_is_passed_on(site: Site, shop: tuple[Daemon, int]) -> None:
    """RFC 8689 §3: offered over TLS alone, demanded of each next hop in turn, and passed on to each."""
    a, port = shop
    with Client(port) as client:
        assert "REQUIRETLS" not in client.say("EHLO client.example.net")
        assert client.say("MAIL FROM:<x@site.test> REQUIRETLS").startswith("5")
    before = len(site.end.taken)
    a_letter(port, "someone@site.test", "r@end.test", options=" REQUIRETLS", tls=True)
    a_letter(port, "someone@site.test", "r@end.test", tls=True)
    first, second = sorted(site.end.wait_for(before + 2)[before:], key=lambda one: one.options, reverse=True)
    assert first.tls and " REQUIRETLS" in first.options and " REQUIRETLS" not in second.options


def test_requiretls_that_is_not_offered_comes_back(site: Site, shop: tuple[Daemon, int]) -> None:
    """RFC 8689 §4.2.1 and §5: 5.7.30 from the relay that cannot pass it on; the notice has the header alone.

    It asks for REQUIRETLS itself, and is delivered also where that is not to be had.
    """
    _, port = shop
    for recipient, where in (("r@careless.test", site.end), ("r@direct.test", site.home)):
        sender = "someone@site.test" if where is site.end else "someone@shop.test"
        before = len(where.taken)
        a_letter(port, sender, recipient, options=" REQUIRETLS", tls=True)
        text = notice(where, before)
        assert "Status: 5.7.30" in text and f"final-recipient: rfc822; {recipient}" in text.lower()
        assert "hello" not in text and (" REQUIRETLS" in where.taken[before].options) is (where is site.end)
    a_letter(port, "someone@site.test", "r@careless.test", tls=True)
    assert site.careless.wait_for(1)[0].tls


@pytest.mark.parametrize("workers", [0, 3])
def test_a_wrong_password_waits_and_bans_nobody(site: Site, workers: int) -> None:
    """Mail waits, `explain` says why, and b hears of a wrong password once: not from each worker or message."""
    secret = site.folder / "secret"
    secret.write_text("wrong\n")
    failed, sent = " authentication-failed ", 12
    before, tried = len(site.end.taken), site.b.log().count(failed)
    a, _ = site.start(workers)
    try:
        for _ in range(sent):
            a_letter(a.port, "someone@site.test", "r@end.test")
        # those of each worker that are first under way; then its lane is suspended
        wait_until("deferrals", lambda: len(shards_deferred(a)) == (workers or 1), 20, a.log)
        so_far = a.log().count(" recipient-deferred ")
        a.ask("queue", "retry", "--all")
        wait_until("more of them", lambda: a.log().count(" recipient-deferred ") > so_far, 20, a.log)
        assert site.b.log().count(failed) == tried + 1
        for _ in range(3):  # whichever worker answers
            rows = a.ask("explain", "r@end.test", "--sender", "someone@site.test")
            [step] = [row for row in rows if row["step"] == "login"]
            assert step["result"] == rows[-1]["result"] == "waits" and "535 5.7.8" in step["text"]
        [row] = site.b.ask("auth", "list")
        assert (row["offences"], row["until"]) == (1, 0)
        secret.write_text(f"{PASSWORD}\n")
        a.ask("queue", "retry", "--all")
        assert len(site.end.wait_for(before + sent)) == before + sent
    finally:
        a.stop()
        site.b.run("relaymta", "auth", "unlock", "127.0.0.1")


def shards_deferred(a: Daemon) -> set[str]:
    """The workers that put something off; a queue id ends with the number of its shard."""
    return set(re.findall(r"(\d\d) recipient-deferred ", a.log()))
