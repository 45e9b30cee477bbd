"""A submission listener: what leaves is complete, it leaves when it is due, and strangers are not served."""

from __future__ import annotations

import re
import smtplib
import sqlite3
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage

import pytest
from attrs import frozen

from relaymta.policy.quota import SCHEMA, SPANS
from tests.peers.client import Client
from tests.peers.daemon import Daemon
from tests.peers.postbox import Postbox
from tests.peers.programs import Swaks, free_port, wait_until

LISTENER = """
[[listener]]
name    = "submission"
address = "127.0.0.1:{port}"
profile = "submission"
tls     = "none"
auth    = "none"
future_release = "1h"
"""


@frozen
class Office:
    """A relay of two workers with a submission listener at `port`, and the server that all of its mail goes to."""

    daemon: Daemon
    sink: Postbox
    port: int


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """An office for all tests; each leaves its queue empty."""
    port = free_port()
    with Postbox() as sink:
        folder = tmp_path_factory.mktemp("submission") / "relay"
        daemon = Daemon(folder, sink=sink.port, workers=2, extra=LISTENER.format(port=port))
        yield Office(daemon.start(), sink, port)
        daemon.stop()


def header_of(content: bytes) -> str:
    """The header section of what arrived, less our Received field."""
    section = content.partition(b"\r\n\r\n")[0].decode()
    return re.sub(r"^Received: .*?\r\n(?=\S)", "", section, flags=re.DOTALL)


def test_a_program_submits_what_others_would_refuse(office: Office) -> None:
    """Python's smtplib: no Date, no Message-ID, a Bcc; and every recipient gets his copy, which names no blind one."""
    before = len(office.sink.taken)
    message = EmailMessage()
    message["From"] = "App <app@example.net>"
    message["To"] = "a@example.org"
    message.set_content("hello\n")
    text = message.as_string().replace("To: a@", "Bcc: hidden@example.com,\n secret@example.com\nTo: a@")
    with smtplib.SMTP("127.0.0.1", office.port) as client:
        client.sendmail("app@example.net", ["a@example.org", "hidden@example.com"], text)
    arrived = office.sink.wait_for(before + 1)[before]
    header = header_of(arrived.content)
    assert set(arrived.recipients) == {"a@example.org", "hidden@example.com"}
    assert re.match(r"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000\r\nMessage-ID: <", header)
    assert "From: App <app@example.net>\r\nTo: a@example.org\r\n" in header
    assert "bcc" not in header.lower() and "hidden" not in header and "secret" not in header
    assert arrived.content.endswith(b"\r\n\r\nhello\r\n")


def test_swaks_submits(office: Office, swaks: Swaks) -> None:
    """What a message has is left alone."""
    before = len(office.sink.taken)
    said = swaks(office.port, "--from", "app@example.net", "--to", "a@example.org", "--body", "hello")
    assert said.status == 0 and "FUTURERELEASE 3600 20" in said.transcript and "REQUIRETLS" not in said.transcript
    header = header_of(office.sink.wait_for(before + 1)[before].content)
    assert header.count("Date: ") == header.count("Message-Id: ") == 1 and "Message-ID: " not in header


def test_a_message_of_nobody_is_refused(office: Office) -> None:
    """RFC 5322 §3.6; the session goes on."""
    before = len(office.sink.taken)
    with Client(office.port) as client:
        client.begin("app@example.net")
        assert client.data(b"Subject: x\r\n\r\n") == "554 5.6.0 the message has no From field"
        client.begin("app@example.net")
        assert client.data(b"From: app@example.net\r\n\r\n").startswith("250 ")
    office.sink.wait_for(before + 1)


def test_a_stranger_is_not_served(relay: Callable[..., Daemon], postbox: Callable[..., Postbox]) -> None:
    """RFC 6409 §4.3: 530 at MAIL, whoever the mail is for; the mail exchanger beside it takes it."""
    port = free_port()
    daemon = relay(
        sink=postbox().port, networks="192.0.2.0/24", domains='"example.org"', extra=LISTENER.format(port=port)
    )
    with Client(port) as client:
        client.say("EHLO client.example.net")
        assert client.say("MAIL FROM:<a@example.net>") == "530 5.7.0 authentication required"
        assert client.say("RCPT TO:<a@example.org>").startswith("503 ")
    with Client(daemon.port) as client:
        client.begin("a@example.net", "a@example.org")
        assert "FUTURERELEASE" not in client.say("EHLO client.example.net")
        assert client.say("MAIL FROM:<a@example.net> HOLDFOR=60").startswith("555 5.5.4 ")


def submit_later(office: Office, seconds: int) -> str:
    """Submit a message with HOLDFOR; its queue id."""
    with Client(office.port) as client:
        client.begin("app@example.net", "a@example.org", options=f" HOLDFOR={seconds}")
        said = client.data(b"From: app@example.net\r\nSubject: later\r\n\r\n")
        assert said.startswith("250 2.0.0 queued as "), said
        return said.rpartition(" ")[2]


def test_a_message_leaves_when_it_was_wished(office: Office) -> None:
    """RFC 4865: not before a second has passed, and soon then."""
    before, began = len(office.sink.taken), time.monotonic()
    submit_later(office, 1)
    arrived = office.sink.wait_for(before + 1)[before]
    assert 1.0 <= arrived.at - began < 10


def test_a_wish_outlives_a_crash(office: Office) -> None:
    """After kill -9 of all processes the message waits for its time as before; the operator may send it early."""
    before = len(office.sink.taken)
    queue_id = submit_later(office, 3600)
    [row] = office.daemon.ask("queue", "list")
    office.daemon.kill_all()
    office.daemon.start()
    wait_until("the message", lambda: office.daemon.count("waiting") == 1)
    [again] = office.daemon.ask("queue", "list")
    assert (again["id"], again["due"], again["state"]) == (queue_id, row["due"], "waiting")
    assert 3500 < again["due"] - time.time() <= 3601 and again["reason"] == "not before its time of release"
    assert len(office.sink.taken) == before
    shown = office.daemon.run("relaymta", "queue", "show", queue_id).stdout
    assert re.search(r"^  release    20\d\d-", shown, re.MULTILINE)
    assert office.daemon.run("relaymta", "queue", "retry", queue_id).returncode == 0
    office.sink.wait_for(before + 1)


def test_the_operator_sees_what_accounts_have_sent(office: Office) -> None:
    """`quota list` and `quota reset`, asked of one of two workers; the counts are the host's."""
    daemon = office.daemon
    assert "no account" in daemon.run("relaymta", "quota", "list").stdout
    with sqlite3.connect(daemon.folder / "spool" / "state" / "quota.sqlite") as rows:
        rows.executescript(SCHEMA)
        now = int(time.time())
        slots = [(span, now // slot) for span, slot in SPANS.items()]
        rows.executemany("INSERT INTO sent VALUES ('app', ?, ?, 2, 30)", slots)
    assert daemon.ask("quota", "list") == [
        {"account": "app", "messages_hour": 2, "recipients_hour": 30, "messages_day": 2, "recipients_day": 30}
    ]
    assert re.search(r"^app +2 +30 +2 +30$", daemon.run("relaymta", "quota", "list").stdout, re.MULTILINE)
    done = daemon.run("relaymta", "quota", "reset", "app")
    assert (done.returncode, done.stdout) == (0, "app begins anew\n")
    done = daemon.run("relaymta", "quota", "reset", "app")
    assert (done.returncode, done.stderr) == (1, "relaymta: nothing is counted of app\n")
