"""By MX, with a real name server and hosts on port 25 that behave as hosts do: well, badly, and not at all."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from attrs import define, field

from tests.net.nsd import NSD_MISSING, nsd
from tests.peers.client import Client, send_letter
from tests.peers.daemon import Daemon
from tests.peers.letters import letter, number_of, without_trace
from tests.peers.nameserver import BrokenNameserver
from tests.peers.postbox import Act, Answer, Delivered, Postbox, Visit, welcome
from tests.peers.programs import wait_until

NET = "127.0.0.{}"
HOME = 170  # where the sender's own mail goes

SETTINGS = """
[dns]
servers = ["{server}"]
timeouts = ["1s"]

[queue]
retry = ["1s"]

[delivery]
connect_timeout = "2s"
greeting_timeout = "2s"
ehlo_timeout = "2s"
mail_timeout = "2s"
rcpt_timeout = "2s"
data_timeout = "2s"
block_timeout = "2s"
end_timeout = "2s"
host_backoff = "1s"
"""


def _why_not() -> str:
    if NSD_MISSING:
        return NSD_MISSING
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((NET.format(HOME), 25))
        except OSError as error:
            return f"port 25 of {NET.format(HOME)} cannot be bound ({error.strerror}): run as root"
    return ""


WHY_NOT = _why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "-")


def _zone() -> str:
    """The domains, each named after what its hosts do; hN is 127.0.0.N."""
    lines = [f"home A {NET.format(HOME)}", f"h{HOME} A {NET.format(HOME)}"]
    lines += [f"h{host} A {NET.format(host)}" for host in range(171, 230)]
    lines += [
        "order MX 30 h171", "order MX 10 h172", "order MX 20 h173",
        "equal MX 10 h174", "equal MX 10 h175",
        "refuses MX 10 h176", "refuses MX 20 h177",
        "banner4 MX 10 h178", "banner4 MX 20 h179",
        "banner5 MX 10 h180", "banner5 MX 20 h181",
        "says421 MX 10 h182", "says421 MX 20 h183",
        "hangs MX 10 h184", "hangs MX 20 h185",
        "silent MX 10 h186", "silent MX 20 h187",
        "dotdrop MX 10 h188", "dotdrop MX 20 h189",
        "dothang MX 10 h190",
        "rcpt5 MX 10 h191",
        "mixed MX 10 h192",
        "implicit A 127.0.0.193",
        "null MX 0 .",
        "nohost MX 10 nowhere",
        "nomail TXT none",
        "mail5 MX 10 h194",
        "dot5 MX 10 h195", "dot5 MX 20 h196",
        "greylist MX 10 h197",
        "drops MX 10 h198", "drops MX 20 h199",
        "alias CNAME order",
        "shared MX 10 h200", "shared2 MX 10 h200",
    ]  # fmt: skip
    return "\n".join(lines)


@define
class Town:
    """The relay, the sender's own server, and hosts that a test opens."""

    daemon: Daemon
    home: Postbox
    _hosts: list[Postbox] = field(factory=list)

    def host(self, number: int, answer: Answer = welcome) -> Postbox:
        """A server on port 25 of the host `number`."""
        self._hosts.append(Postbox(answer, NET.format(number), 25).start())
        return self._hosts[-1]

    def close(self) -> None:
        """Close the hosts of one test."""
        for host in self._hosts:
            host.stop()
        self._hosts.clear()

    def send(self, domain: str, number: int = 1, local: str = "bob") -> str:
        """A letter to somebody at domain.town.test; the queue id."""
        return send_letter(
            self.daemon.port, number, sender="alice@home.town.test", recipient=f"{local}@{domain}.town.test"
        )

    def outcomes(self, queue_id: str) -> list[dict[str, object]]:
        """What trace tells of the recipients; it tells of a notice about them too."""
        rows = [row for row in self.daemon.ask("trace", queue_id) if row.get("id") == queue_id]
        return [row for row in rows if row["event"] in ("recipient-deferred", "recipient-settled")]

    def settled(self, queue_id: str) -> dict[str, object]:
        """The end of a message's only recipient, waited for."""
        wait_until("its end", lambda: f"{queue_id} recipient-settled" in self.daemon.log(), 30, self.daemon.log)
        return self.outcomes(queue_id)[-1]

    def deferred(self, queue_id: str) -> dict[str, object]:
        """The first deferral, waited for; then the message is deleted."""
        wait_until("a deferral", lambda: f"{queue_id} recipient-deferred" in self.daemon.log(), 30, self.daemon.log)
        told = self.outcomes(queue_id)[0]
        self.daemon.ask("queue", "delete", queue_id)
        return told

    def notice(self, about: str) -> tuple[EmailMessage, dict[str, str], dict[str, str]]:
        """The DSN about a recipient at the sender's own server: it, its message fields, its recipient fields."""
        found: list[Delivered] = []

        def there() -> bool:
            found[:] = [one for one in self.home.taken if f"rfc822; {about}".encode() in one.content]
            return bool(found)

        wait_until(f"a notice about {about}", there, 30, self.daemon.log)
        [delivered] = found
        assert (delivered.sender, delivered.recipients) == ("", ("alice@home.town.test",))
        message = message_from_bytes(delivered.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        assert message.get_content_type() == "multipart/report"
        assert message["Auto-Submitted"].startswith("auto-replied")
        status = message.get_payload(1).get_payload()  # type: ignore[union-attr]
        return message, dict(status[0].items()), dict(status[1].items())  # type: ignore[union-attr, index]


@pytest.fixture(scope="module")
def _town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with nsd({"town.test": _zone()}) as server, Postbox(host=NET.format(HOME), port=25) as home:
        folder = tmp_path_factory.mktemp("mx") / "relay"
        daemon = Daemon(folder, extra=SETTINGS.format(server=server))
        yield Town(daemon.start(), home)
        daemon.stop()


@pytest.fixture
def town(_town: Town) -> Iterator[Town]:
    """The town, with no hosts but the sender's own."""
    yield _town
    _town.close()
    assert _town.home.faults == []


def saying(at: str, answer: str | Act) -> Answer:
    """A server that answers so at one stage, and well elsewhere."""
    return lambda _visit, stage, _argument: answer if stage == at else None


def test_the_lowest_preference_gets_it_all(town: Town) -> None:
    """With three hosts up, the one with the lowest number gets the mail (RFC 5321 §5.1); a CNAME leads there too."""
    third, first, second = town.host(171), town.host(172), town.host(173)
    for number in range(3):
        town.send("order", number)
    town.send("alias", 3)
    assert sorted(number_of(one.content) for one in first.wait_for(4)) == [0, 1, 2, 3]
    assert second.visits == third.visits == []


def test_equal_preference_is_shared(town: Town) -> None:
    """Hosts of one preference are taken in random order (RFC 5321 §5.1): of 24 new visits, both get some."""
    one, other = town.host(174), town.host(175)
    for number in range(24):
        town.send("equal", number)
        wait_until(f"letter {number}", lambda n=number + 1: len(one.taken) + len(other.taken) >= n)  # type: ignore[misc]
        for box in (one, other):  # so that the next letter needs a new connection
            box.drop_visits()
    assert one.taken and other.taken
    assert len(one.taken) + len(other.taken) == 24


@pytest.mark.parametrize(
    ("domain", "first", "answer"),
    [
        ("banner4", 178, saying("CONNECT", "450 4.3.2 not now")),
        ("banner5", 180, saying("CONNECT", "554 5.3.2 no mail here")),
        ("says421", 182, saying("EHLO", "421 4.3.2 closing")),
        ("hangs", 184, saying("CONNECT", Act.HANG)),
        ("silent", 186, saying("MAIL", Act.HANG)),
        ("drops", 198, saying("CONNECT", Act.DROP)),
    ],
)
def test_the_next_host_takes_it(town: Town, domain: str, first: int, answer: Answer) -> None:
    """A host that is busy, refuses at the door, hangs or drops is passed over for the next, at once."""
    bad, good = town.host(first, answer), town.host(first + 1)
    queue_id = town.send(domain)
    assert number_of(good.wait_for(1)[0].content) == 1
    assert bad.visits and not bad.taken
    settled = town.settled(queue_id)
    assert (settled["fate"], settled["host"], settled["attempts"]) == ("relayed", f"h{first + 1}.town.test", 1)


def test_a_host_that_refuses_connections_is_passed_over(town: Town) -> None:
    """Nobody listens at the first host: the second takes it in the same attempt."""
    good = town.host(177)
    queue_id = town.send("refuses")
    good.wait_for(1)
    assert town.settled(queue_id)["attempts"] == 1


def test_no_mx_is_the_address_itself(town: Town) -> None:
    """A domain with an address and no MX is its own host (RFC 5321 §5.1)."""
    host = town.host(193)
    town.send("implicit")
    assert number_of(host.wait_for(1)[0].content) == 1


@pytest.mark.parametrize(("domain", "number"), [("dotdrop", 188), ("dothang", 190)])
def test_no_answer_to_the_dot_leaves_it_with_us(town: Town, domain: str, number: int) -> None:
    """Dropped or silent after the dot: nobody knows who has it, so it is deferred, and never bounced."""
    act = Act.DROP if domain == "dotdrop" else Act.HANG
    mood: list[str | Act | None] = [act]
    host = town.host(number, lambda _visit, stage, _: mood[0] if stage == "DOT" else None)
    queue_id = town.send(domain, local=domain)
    wait_until("a deferral", lambda: f"{queue_id} recipient-deferred" in town.daemon.log(), 30, town.daemon.log)
    [first, *_] = town.outcomes(queue_id)
    assert first["status"] == "4.4.2"
    mood[0] = None
    assert number_of(host.wait_for(1)[0].content) == 1
    assert town.settled(queue_id)["fate"] == "relayed"
    assert not any(f"{domain}@".encode() in one.content for one in town.home.taken)


def test_a_refused_recipient_is_told_to_the_sender(town: Town) -> None:
    """550 to RCPT: a DSN with the right fields is at the sender's own server (RFC 3464 §2)."""
    town.host(191, saying("RCPT", "550 5.1.1 no such user here"))
    queue_id = town.send("rcpt5", 5)
    message, about, recipient = town.notice("bob@rcpt5.town.test")
    assert about["Reporting-MTA"] == "dns; relay.example.org"
    assert recipient["Final-Recipient"] == "rfc822; bob@rcpt5.town.test"
    assert (recipient["Action"], recipient["Status"]) == ("failed", "5.1.1")
    assert recipient["Remote-MTA"] == "dns; h191.town.test"
    assert recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user here"
    assert message["To"] == "alice@home.town.test" and message["From"].endswith("<mailer-daemon@relay.example.org>")
    returned = message.get_payload(2).as_bytes()  # type: ignore[union-attr]
    assert b"Subject: letter 5 of 500 octets" in returned
    assert town.settled(queue_id)["fate"] == "failed"


def test_one_recipient_refused_another_taken(town: Town) -> None:
    """In one transaction one recipient is refused and one taken: one is relayed, the other told of, neither twice."""

    def picky(_visit: Visit, stage: str, argument: str) -> str | None:
        return "550 5.1.1 no carol here" if stage == "RCPT" and "carol" in argument else None

    host = town.host(192, picky)
    with Client(town.daemon.port) as client:
        client.begin("alice@home.town.test", "bob@mixed.town.test", "carol@mixed.town.test")
        assert client.data(letter(7)).startswith("250 ")
    assert host.wait_for(1)[0].recipients == ("bob@mixed.town.test",)
    _, _, recipient = town.notice("carol@mixed.town.test")
    assert recipient["Status"] == "5.1.1"
    assert not any(b"rfc822; bob@mixed.town.test" in one.content for one in town.home.taken)


@pytest.mark.parametrize(
    ("domain", "hosts", "stage", "reply", "status"),
    [
        ("mail5", (194,), "MAIL", "550 5.7.1 not from you", "5.7.1"),
        ("dot5", (195, 196), "DOT", "554 5.6.0 no", "5.6.0"),
    ],
)
def test_a_refused_message_is_told_and_no_other_host_asked(
    town: Town, domain: str, hosts: tuple[int, ...], stage: str, reply: str, status: str
) -> None:
    """5yz to MAIL or to the dot is final: another host of the site is not tried."""
    boxes = [town.host(number, saying(stage, reply)) for number in hosts]
    town.send(domain)
    _, _, recipient = town.notice(f"bob@{domain}.town.test")
    assert (recipient["Status"], recipient["Diagnostic-Code"]) == (status, f"smtp; {reply}")
    assert [len(box.visits) for box in boxes] == [1] + [0] * (len(boxes) - 1)


def test_greylisting_is_waited_out(town: Town) -> None:
    """451 to the first RCPT, 250 to the next: arrives by the retry, and nobody is told anything."""
    first = iter(["451 4.7.1 greylisted"])
    host = town.host(197, lambda _visit, stage, _: next(first, None) if stage == "RCPT" else None)
    queue_id = town.send("greylist")
    assert number_of(host.wait_for(1)[0].content) == 1
    fates = [(row["event"], row.get("fate", "")) for row in town.outcomes(queue_id)]
    assert fates[0] == ("recipient-deferred", "") and fates[-1] == ("recipient-settled", "relayed")


@pytest.mark.parametrize(
    ("domain", "status"),
    [("null", "5.1.10"), ("not-there", "5.1.2"), ("nomail", "5.1.2"), ("nohost", "5.4.4")],
)
def test_a_domain_without_mail_is_told_at_once(town: Town, domain: str, status: str) -> None:
    """Null MX (RFC 7505 §4.2), no such domain, neither MX nor address, an MX that leads nowhere: DSN, no retry."""
    queue_id = town.send(domain)
    _, _, recipient = town.notice(f"bob@{domain}.town.test")
    assert (recipient["Action"], recipient["Status"]) == ("failed", status)
    assert "Remote-MTA" not in recipient
    assert town.settled(queue_id)["attempts"] == 1


def test_two_domains_on_one_host(town: Town) -> None:
    """Recipients in two domains get a transaction each, also when the same host serves both."""
    host = town.host(200)
    with Client(town.daemon.port) as client:
        client.begin("alice@home.town.test", "a@shared.town.test", "b@shared2.town.test", "c@shared.town.test")
        assert client.data(letter(3)).startswith("250 ")
    taken = host.wait_for(2)
    assert sorted(one.recipients for one in taken) == [
        ("a@shared.town.test", "c@shared.town.test"), ("b@shared2.town.test",),
    ]  # fmt: skip
    assert {without_trace(one.content) for one in taken} == {letter(3)}


@pytest.mark.parametrize("domain", ["silent.example", "broken.example"])
def test_a_name_server_that_fails_or_is_silent_defers(relay: Callable[..., Daemon], domain: str) -> None:
    """SERVFAIL and no answer at all are not "no such domain": the mail waits (maddy#845)."""
    with BrokenNameserver() as server:
        town = Town(relay(extra=SETTINGS.format(server=server.address)), Postbox())
        queue_id = send_letter(town.daemon.port, 1, sender="alice@home.example", recipient=f"bob@{domain}")
        began = time.monotonic()
        told = town.deferred(queue_id)
        assert time.monotonic() - began < 15
        assert told["status"] == "4.4.3"
        assert server.asked > 0
    assert "notice-queued" not in town.daemon.log()
