"""Who a client is, where several ways say it: certificates, log-ins, XCLIENT and PROXY, with the real daemon."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define

from tests.net.certificates import make
from tests.peers.client import Client
from tests.peers.daemon import Daemon
from tests.peers.postbox import Postbox
from tests.peers.programs import free_port, wait_until
from tests.smtp.proxyheaders import version2

PROXY, SPEAKER, STRANGER, FRIEND = "127.0.0.8", "127.0.0.9", "127.0.0.3", "127.0.0.2"
LISTED = make("listed.example")
MINE = make("mine.example", kind="ec-other")
SHOP, POOR, BADGE, GONE, PASSWORD = "shop@ours.example", "poor", "badge@ours.example", "gone", "correct-horse"
ELSEWHERE = "victim@elsewhere.example"
MORE = """
[[listener]]
name = "submission"
address = "127.0.0.1:{submission}"
profile = "submission"
tls_client_certificates = true
xclient = ["{speaker}/32"]
proxy = ["{proxy}/32"]
[[listener]]
name = "lmtp"
address = "127.0.0.1:{lmtp}"
profile = "lmtp"
tls = "required"
auth = "optional"
[tls]
certificate = "{folder}/server.pem"
key = "{folder}/server.key"
[users]
file = "{folder}/users"
"""


@define
class Place:
    """The relay, its other ports, and where its mail goes. `keys` are the files of certificates by fingerprint."""

    folder: Path
    daemon: Daemon
    sink: Postbox
    submission: int
    lmtp: int

    def own(self, made: object) -> tuple[str, str]:
        """The files of a client's certificate."""
        assert made in (LISTED, MINE)
        return LISTED.write(self.folder, "listed") if made is LISTED else MINE.write(self.folder, "mine")

    def arrived(self, before: int) -> str:
        """The header of the next message, unfolded."""
        return " ".join(self.sink.wait_for(before + 1)[before].content.decode().split())

    def logged(self, text: str) -> None:
        """Wait for a piece of the log."""
        wait_until(text, lambda: text in self.daemon.log(), 10, self.daemon.log)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Accounts that may relay, may not, log in by certificate, and are disabled; FRIEND may relay by its address."""
    folder = tmp_path_factory.mktemp("whose")
    make("relay.example.org").write(folder, "server")
    (folder / "password").write_text(f"{PASSWORD}\n")
    (folder / "password").chmod(0o600)
    submission, lmtp = free_port(), free_port()
    with Postbox() as sink:
        daemon = Daemon(
            folder / "relay",
            sink=sink.port,
            networks=f"{FRIEND}/32",
            domains='"ours.example"',
            tls="starttls",
            listener=f'tls_client_certificates = true\nxclient = ["{SPEAKER}/32"]',
            relay=f'certificates = ["{LISTED.fingerprint}"]',
            extra=MORE.format(
                submission=submission, lmtp=lmtp, folder=folder, speaker=SPEAKER, proxy=PROXY
            ),
        )  # fmt: skip
        daemon.folder.mkdir()
        daemon.write()
        shown = ("--password-file", str(folder / "password"))
        for words in (
            (SHOP, "--sender", "ours.example", *shown),
            (POOR, "--no-relay", *shown),
            (BADGE, "--no-password", "--certificate", f"sha256:{MINE.fingerprint}", "--sender", BADGE),
            (GONE, *shown),
        ):
            added = daemon.run("relaymta", "user", "add", *words)
            assert added.returncode == 0, added.stderr
        users = folder / "users"
        users.write_text(re.sub(rf"(?m)^({GONE} .*)$", r"\1 disabled=yes", users.read_text()))
        daemon.start()
        yield Place(folder, daemon, sink, submission, lmtp)
        daemon.stop()


def send(client: Client, sender: str, recipient: str = ELSEWHERE) -> str:
    """MAIL, RCPT and a message; the first reply that is not as wished, or the last."""
    for line in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>"):
        said = client.say(line)
        if not said.startswith("250"):
            client.say("RSET")
            return said
    return client.data(f"From: <{sender}>\r\n\r\nhello\r\n".encode())


# Certificates


def test_a_certificate_is_an_account(place: Place) -> None:
    """RFC 4422 appendix A: EXTERNAL, and its account's rights; without the certificate there is no such offer."""
    before = len(place.sink.taken)
    with Client(place.submission) as client:
        assert "EXTERNAL" not in client.start_tls()
    with Client(place.submission) as client:
        assert "EXTERNAL" in client.start_tls(certificate=place.own(MINE))
        assert send(client, BADGE).startswith("530 5.7.0 ")
        assert client.say("AUTH EXTERNAL =").startswith("235 2.7.0 ")
        assert send(client, "boss@ours.example").startswith("550 5.7.1 badge@ours.example may not send as boss")
        assert send(client, BADGE).startswith("250 2.0.0 ")
    header = place.arrived(before)
    assert "with ESMTPSA id " in header and f"client certificate {MINE.fingerprint})" in header
    place.logged(f"account={BADGE} mechanism=EXTERNAL")


def test_a_listed_certificate_is_no_account(place: Place) -> None:
    """It relays by its fingerprint; EXTERNAL with it is refused, and so is another account's name."""
    before = len(place.sink.taken)
    with Client(place.submission) as client:
        client.start_tls(certificate=place.own(LISTED))
        assert client.say("AUTH EXTERNAL =").startswith("535 5.7.8 ")
        assert client.say("AUTH EXTERNAL YmFkZ2VAb3Vycy5leGFtcGxl").startswith("535 5.7.8 ")  # badge@ours.example
    with Client(place.daemon.port) as client:
        client.start_tls(certificate=place.own(LISTED))
        assert send(client, "a@elsewhere.example").startswith("250 2.0.0 ")
    place.arrived(before)


@pytest.mark.parametrize("made", [LISTED, MINE], ids=["listed", "account"])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_speakers_certificate_is_not_its_clients(place: Place, made: object, late: bool) -> None:
    """Whether STARTTLS comes before XCLIENT or after it, the client may neither relay nor say EXTERNAL by it."""
    before = len(place.sink.taken)
    with Client(place.submission, source=SPEAKER) as client:
        if not late:
            client.start_tls(certificate=place.own(made))
        client.say("EHLO client.example.net")
        assert client.say(f"XCLIENT ADDR={STRANGER}").startswith("220 ")
        offers = client.start_tls(certificate=place.own(made)) if late else client.say("EHLO client.example.net")
        assert "EXTERNAL" not in offers and "PLAIN" in offers
        assert client.say("AUTH EXTERNAL =").startswith("504 ")
        assert send(client, "a@elsewhere.example").startswith("530 ")
        assert client.log_in(SHOP, PASSWORD).startswith("235 ")  # what it shows itself counts
        assert send(client, SHOP).startswith("250 ")
    place.arrived(before)


# XCLIENT LOGIN


def spoken_for(login: str, port: int, client: str = STRANGER, *, tls: bool = True) -> Client:
    """A session in which the speaker has said who has logged in."""
    made = Client(port, source=SPEAKER)
    if tls:
        made.start_tls()
    else:
        made.say("EHLO proxy.example")
    said = made.say(f"XCLIENT ADDR={client} NAME=c.example LOGIN={login.replace('@', '+40')}")
    assert said.startswith("220 "), said
    made.say("EHLO c.example")
    return made


def test_a_login_of_xclient_has_its_accounts_rights(place: Place) -> None:
    """As after AUTH: it relays, it sends as itself alone, log and trace know it, and AUTH is not offered again."""
    before = len(place.sink.taken)
    with spoken_for(SHOP, place.submission) as client:
        assert "AUTH" not in client.say("EHLO c.example")
        assert send(client, "boss@elsewhere.example").startswith("550 5.7.1 shop@ours.example may not send as ")
        assert send(client, SHOP).startswith("250 ")
    header = place.arrived(before)
    assert f"from c.example ([{STRANGER}])" in header and "with ESMTPSA id " in header
    place.logged(f"authenticated client={STRANGER} account={SHOP} mechanism=XCLIENT")
    with spoken_for(POOR, place.daemon.port, FRIEND) as client:  # who has logged in is no longer its address
        assert send(client, "a@ours.example").startswith("550 5.7.1 relaying denied")
        assert send(client, "a@ours.example", "b@ours.example").startswith("250 ")
    place.arrived(before + 1)


@pytest.mark.parametrize("login", ["nobody", GONE])
def test_a_login_of_nobody_is_none(place: Place, login: str) -> None:
    """A name that the accounts do not have, or that is disabled: 530 where a log-in is a must, else as its network."""
    with spoken_for(login, place.submission) as client:
        assert "AUTH" in client.say("EHLO c.example")
        assert send(client, SHOP).startswith("530 ")
    place.logged(f'authentication-failed client={STRANGER} name={login} mechanism=XCLIENT reason="no such account"')
    with spoken_for(login, place.daemon.port) as client:
        assert send(client, SHOP).startswith("550 5.7.1 relaying denied")
    before = len(place.sink.taken)
    with spoken_for(login, place.daemon.port, FRIEND) as client:
        assert send(client, "a@elsewhere.example").startswith("250 ")
    assert "with ESMTPS id " in place.arrived(before)


def test_without_accounts_a_login_is_a_name(tmp_path: Path) -> None:
    """It is for routes and the log; a submission listener serves by network and certificate alone then."""
    port = free_port()
    extra = f'[[listener]]\nname = "inner"\naddress = "127.0.0.1:{port}"\nprofile = "submission"\ntls = "none"\n'
    extra += f'auth = "none"\nxclient = ["{SPEAKER}/32"]\n[[route]]\nlogin = "app"\nrecipient = "*"\n'
    extra += 'to = "discard"\n[[route]]\nrecipient = "*"\nto = "error:550 5.1.1 not for app"\n'
    daemon = Daemon(tmp_path / "relay", networks=f"{FRIEND}/32", extra=extra).start()
    try:
        with spoken_for("app", port, tls=False) as client:
            assert send(client, "a@elsewhere.example").startswith("530 ")
        with spoken_for("app", port, FRIEND, tls=False) as client:
            assert send(client, "a@elsewhere.example").startswith("250 ")
        wait_until("the discard", lambda: "discarded by a route" in daemon.log() or "fate=" in daemon.log())
        assert "fate=delivered" in daemon.log()
    finally:
        daemon.stop()


# PROXY and LMTP


def test_a_proxied_client_logs_in_under_tls(place: Place) -> None:
    """PROXY header, STARTTLS, AUTH: it is the client that log, trace and failures are about, and the account counts."""
    before = len(place.sink.taken)
    for password, code in (("wrong", "535"), (PASSWORD, "235")):
        with proxied(place.submission) as client:
            client.start_tls()
            assert client.log_in(SHOP, password).startswith(code)
            if code == "235":
                assert send(client, SHOP).startswith("250 ")
    header = place.arrived(before)
    assert f"from client.example.net ([{STRANGER}]) (using TLSv1.3" in header and "with ESMTPSA id " in header
    place.logged(f"authentication-failed client={STRANGER} name={SHOP} mechanism=PLAIN")
    place.logged(f"authenticated client={STRANGER} account={SHOP} mechanism=PLAIN")
    rows = place.daemon.ask("auth", "list")
    assert PROXY not in [row["address"] for row in rows]
    queue_id = header.partition(" id ")[2].partition(";")[0].split()[0]
    rows = place.daemon.ask("trace", queue_id)
    [accepted] = [row for row in rows if row["event"] == "message-accepted"]
    assert (accepted["client"], accepted["protocol"], accepted["account"]) == (STRANGER, "ESMTPSA", SHOP)


def proxied(port: int) -> Client:
    """A client behind the proxy."""
    made = Client.__new__(Client)
    made._sock = socket.create_connection(("127.0.0.1", port), 20, (PROXY, 0))
    made._sock.sendall(version2(STRANGER, 4711, "127.0.0.1"))
    made._stream = made._sock.makefile("rb")
    made.greeting = made.reply()
    return made


def test_lmtp_under_tls_with_a_login(place: Place) -> None:
    """TLS first where it is demanded, then AUTH; a reply for each recipient, and the account's rights."""
    before = len(place.sink.taken)
    with Client(place.lmtp) as client:
        client.say("LHLO client.example.net")
        assert client.say("MAIL FROM:<a@ours.example>").startswith("530 5.7.0 ")
        assert client.log_in(SHOP, PASSWORD).startswith("530 5.7.0 ")
    with Client(place.lmtp) as client:
        assert "AUTH " in client.start_tls("LHLO")
        assert send(client, "a@elsewhere.example").startswith("550 5.7.1 relaying denied")
        assert client.log_in(SHOP, PASSWORD).startswith("235 ")
        assert send(client, "a@elsewhere.example").startswith("550 5.7.1 shop@ours.example may not send as")
        client.say(f"MAIL FROM:<{SHOP}>")
        for recipient in (ELSEWHERE, "b@ours.example"):
            assert client.say(f"RCPT TO:<{recipient}>").startswith("250 ")
        assert client.data(f"From: <{SHOP}>\r\n\r\n".encode()).startswith("250 2.0.0 queued as ")
        assert client.reply().startswith("250 2.0.0 queued as ")
    header = place.arrived(before)
    assert "with LMTPSA id " in header
