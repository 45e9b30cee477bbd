"""What a 250 said holds after kill -9, and what is kept beside the mail may fail without it."""

from __future__ import annotations

import base64
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.peers.client import Client, send_letter
from tests.peers.daemon import ENVIRONMENT, Daemon
from tests.peers.postbox import Postbox
from tests.peers.programs import free_port, wait_until

NAME, PASSWORD = "shop@example.org", "correct horse"
LARGE = b"a line of some length, again and again\r\n" * 8000
SUBMISSION = """
[[listener]]
name    = "submission"
address = "127.0.0.1:{port}"
profile = "submission"
tls     = "none"
auth    = "required"
auth_in_clear  = true
future_release = "1h"

[users]
file = "{users}"

[users.quota]
messages_per_hour = 2

[auth]
delay = "10ms"
"""


class Shop:
    """A relay with a submission listener at `port` and one account, whose third message of an hour is held."""

    def __init__(self, relay: Callable[..., Daemon], sink: Postbox, folder: Path) -> None:
        self.port, self.sink, users = free_port(), sink, folder / "users"
        users.touch(mode=0o600)
        self.daemon = relay(sink=sink.port, extra=SUBMISSION.format(port=self.port, users=users))
        added = subprocess.run(
            [sys.executable, "-m", "relaymta.cli.main", "-c", self.daemon.configuration, "user", "add", NAME],
            input=f"{PASSWORD}\n", capture_output=True, text=True, timeout=30, check=False, env=ENVIRONMENT,
        )  # fmt: skip
        assert added.returncode == 0, added.stderr
        wait_until("the account", lambda: "accounts=1" in self.daemon.log(), 10, self.daemon.log)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """One who has said EHLO."""
        with Client(self.port) as client:
            client.say("EHLO client.example.net")
            yield client

    def login(self, client: Client) -> str:
        """The answer to its log-in."""
        return client.say(b"AUTH PLAIN " + base64.b64encode(f"\0{NAME}\0{PASSWORD}".encode()))

    def send(self, client: Client, body: bytes = b"hello\r\n", options: str = "") -> str:
        """The reply to the end of data, or to DATA."""
        for line in (f"MAIL FROM:<{NAME}>{options}", "RCPT TO:<a@example.net>"):
            said = client.say(line)
            assert said.startswith("250"), said
        return client.data(f"From: {NAME}\r\nSubject: {options}\r\n\r\n".encode() + body)

    def rows(self) -> list[tuple[str, str]]:
        """Queue id and state of all that waits."""
        return sorted((row["id"], row["state"]) for row in self.daemon.ask("queue", "list"))

    def state(self, name: str) -> Path:
        """One of the databases."""
        return self.daemon.folder / "spool" / "state" / name


@pytest.fixture
def shop(relay: Callable[..., Daemon], postbox: Callable[..., Postbox], tmp_path: Path) -> Shop:
    """One."""
    return Shop(relay, postbox(), tmp_path)


def test_held_stays_held_and_a_release_its_time_over_two_crashes_in_a_row(shop: Shop) -> None:
    """kill -9 right behind the 250, small and streamed, and once more; then the operator lets them go, whole."""
    with shop.client() as client:
        assert shop.login(client).startswith("235 ")
        later = shop.send(client, LARGE, " HOLDFOR=3600")
        other = shop.send(client, options=" HOLDFOR=3600")
        held, large = shop.send(client), shop.send(client, LARGE)
        shop.daemon.kill()
    ids = [said.rpartition(" ")[2] for said in (later, other, held, large)]
    assert all(said.startswith("250 2.0.0 queued as ") for said in (later, other, held, large))
    expected = sorted(zip(ids, ("waiting", "waiting", "held", "held"), strict=True))
    for _ in range(2):
        shop.daemon.start()
        wait_until("all four", lambda: len(shop.rows()) == 4, 10, shop.daemon.log)
        assert shop.rows() == expected
        due = [row["due"] for row in shop.daemon.ask("queue", "list") if row["id"] in ids[:2]]
        assert all(3500 < at - time.time() <= 3601 for at in due)
        shop.daemon.kill()
    shop.daemon.start()
    assert shop.sink.taken == []
    for queue_id in ids[2:]:
        shop.daemon.ask("queue", "release", queue_id)
    for queue_id in ids[:2]:
        shop.daemon.ask("queue", "retry", queue_id)
    arrived = shop.sink.wait_for(4)
    assert sorted(len(one.content.partition(b"\r\n\r\n")[2]) for one in arrived) == [7, 7, len(LARGE), len(LARGE)]
    wait_until("an empty queue", lambda: shop.daemon.count("queued", "active") == 0, 10, shop.daemon.log)
    assert shop.daemon.count("difference") == 0 and len(shop.sink.taken) == 4
    assert "Traceback" not in shop.daemon.log() and "bug-caught" not in shop.daemon.log()


def test_databases_beside_the_mail_may_fail(shop: Shop) -> None:
    """Locked: those who need them come again, mail that does not goes on, a stop is prompt; damaged: begun anew."""
    with shop.client() as client:
        assert shop.login(client).startswith("235 ")
        assert shop.send(client).startswith("250 ")
        with closing(sqlite3.connect(shop.state("quota.sqlite"), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            client.say(f"MAIL FROM:<{NAME}>")
            client.say("RCPT TO:<a@example.net>")
            client.send(b"DATA\r\n")
            send_letter(shop.daemon.port, 1)  # nobody's account
            shop.sink.wait_for(2)
            assert client.reply().startswith("451 4.3.0 ")
            wait_until("its line", lambda: "state-failed" in shop.daemon.log(), 10, shop.daemon.log)
            assert "quota.sqlite cannot be used: database is locked" in shop.daemon.log()
        assert shop.send(client).startswith("250 ")
    shop.sink.wait_for(3)
    for name in ("quota.sqlite", "auth.sqlite"):
        for beside in ("-wal", "-shm"):
            shop.state(f"{name}{beside}").unlink(missing_ok=True)
        shop.state(name).unlink()
        shop.state(name).write_bytes(b"no database at all\n" * 500)
    with shop.client() as client:
        assert shop.login(client).startswith("235 ")
        assert [shop.send(client)[:4] for _ in range(2)] == ["250 "] * 2
        shop.sink.wait_for(5)
        with closing(sqlite3.connect(shop.state("quota.sqlite"), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            client.say(f"MAIL FROM:<{NAME}>")
            client.say("RCPT TO:<a@example.net>")
            client.send(b"DATA\r\n")
            client.close()
            began = time.monotonic()
            assert shop.daemon.stop() == 0
            assert time.monotonic() - began < 4.5  # before those who wait for the lock would be told
    log = shop.daemon.log()
    assert {name for name in ("quota.sqlite", "auth.sqlite") if f"{name}.damaged, and begun anew" in log} == {
        "quota.sqlite", "auth.sqlite",
    }  # fmt: skip
    assert "Traceback" not in log and "bug-caught" not in log
