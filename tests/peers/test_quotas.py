"""What an account may send, and how much: two workers, `relaymta user`, `quota` and `queue release`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from tests.peers.client import Client
from tests.peers.daemon import Daemon
from tests.peers.postbox import Postbox
from tests.peers.programs import wait_until

PASSWORD = "correct-horse"
USERS = """
[users]
file = "{folder}/users"
[users.quota]
messages_per_hour = {messages}
recipients_per_hour = 50
over = "{over}"
"""


@define
class Shop:
    """The relay, and where its mail goes."""

    folder: Path
    daemon: Daemon
    sink: Postbox

    def add(self, name: str, *words: str) -> None:
        """An account, which every worker knows soon."""
        read = self.daemon.log().count(" users-read ")
        words = ("--password-file", str(self.folder / "password"), *words)
        done = self.daemon.run("relaymta", "user", "add", name, *words)
        assert done.returncode == 0, done.stderr
        wait_until("both workers", lambda: self.daemon.log().count(" users-read ") >= read + 2, 10, self.daemon.log)

    def allow(self, messages: int, over: str = "hold") -> None:
        """Another default, in force by a reload."""
        self.daemon.write(extra=USERS.format(folder=self.folder, messages=messages, over=over))
        self.daemon.ask("reload")

    def send(self, account: str, count: int = 1, sender: str = "", author: str = "", to: int = 1) -> list[str]:
        """Messages in sessions of their own, so that both workers have some; the last reply of each."""
        return [self._send(account, sender or account, author or sender or account, to) for _ in range(count)]

    def _send(self, account: str, sender: str, author: str, to: int) -> str:
        with Client(self.daemon.port) as client:
            client.say("EHLO client.example.net")
            assert client.log_in(account, PASSWORD).startswith("235 ")
            lines = [f"MAIL FROM:<{sender.strip('<>')}>", *(f"RCPT TO:<r{number}@end.example>" for number in range(to))]
            for line in lines:
                said = client.say(line)
                if not said.startswith("250 "):
                    return said
            return client.data(f"From: <{author}>\r\n\r\nhello\r\n".encode())

    def held(self) -> list[dict[str, Any]]:
        """What waits for the operator."""
        return [row for row in self.daemon.ask("queue", "list") if row["state"] == "held"]

    def counted(self, account: str) -> tuple[int, int]:
        """Messages and recipients in the last hour."""
        rows = [row for row in self.daemon.ask("quota", "list") if row["account"] == account]
        return (rows[0]["messages_hour"], rows[0]["recipients_hour"]) if rows else (0, 0)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Three messages an hour for who has no quota of its own."""
    folder = tmp_path_factory.mktemp("quotas")
    (folder / "password").write_text(f"{PASSWORD}\n")
    (folder / "password").chmod(0o600)
    (folder / "users").touch(mode=0o600)
    with Postbox() as sink:
        daemon = Daemon(
            folder / "relay",
            sink=sink.port,
            workers=2,
            networks="192.0.2.0/24",
            listener='auth = "required"\nauth_in_clear = true',
            extra=USERS.format(folder=folder, messages=3, over="hold"),
        )
        yield Shop(folder, daemon.start(), sink)
        daemon.stop()


def test_nobody_sends_as_somebody_else(shop: Shop) -> None:
    """Neither in the envelope nor in From:, with or without an empty reverse-path; what was refused is not counted."""
    before = len(shop.sink.taken)
    shop.add("a@site.example", "--sender", "a@site.example")
    [said] = shop.send("a@site.example", sender="b@site.example")
    assert said == "550 5.7.1 a@site.example may not send as b@site.example, only as a@site.example"
    for sender in ("a@site.example", "<>"):
        [said] = shop.send("a@site.example", sender=sender, author="b@site.example")
        assert said.startswith("550 5.7.1 a@site.example may not send as b@site.example")
    wait_until("no count", lambda: shop.counted("a@site.example") == (0, 0))
    assert shop.send("a@site.example")[0].startswith("250 2.0.0 ")
    shop.sink.wait_for(before + 1)
    assert shop.counted("a@site.example") == (1, 1)


def test_beyond_the_quota_mail_is_held(shop: Shop) -> None:
    """Both workers count together; the fourth waits with its reason, and leaves when the operator lets it."""
    before = len(shop.sink.taken)
    shop.add("h@site.example")
    assert all(said.startswith("250 2.0.0 queued as ") for said in shop.send("h@site.example", 5))
    shop.sink.wait_for(before + 3)
    held = shop.held()
    assert [row["reason"] for row in held] == ["quota", "quota"] and len(shop.sink.taken) == before + 3
    assert shop.counted("h@site.example") == (3, 3)
    log = shop.daemon.log()
    assert log.count("account=h@site.example limit=messages_per_hour would_be=4 allowed=3 over=hold") == 2
    shown = shop.daemon.run("relaymta", "queue", "show", held[0]["id"]).stdout
    assert "quota" in shown and "h@site.example" in shown
    done = shop.daemon.run("relaymta", "quota", "reset", "h@site.example")
    assert done.stdout == "h@site.example begins anew\n"
    assert shop.daemon.run("relaymta", "queue", "release", *(row["id"] for row in held)).returncode == 0
    shop.sink.wait_for(before + 5)
    assert shop.counted("h@site.example") == (0, 0)
    assert not shop.held()


def test_an_accounts_own_quota_and_answer(shop: Shop) -> None:
    """Limits of its own go before the default, the others stay; over them it is refused where that is its answer."""
    before = len(shop.sink.taken)
    shop.add("r@site.example", "--recipients-per-hour", "4", "--over", "refuse")
    assert shop.send("r@site.example", to=5) == ["550 5.7.1 over quota: at most 4 recipients per hour"]
    assert shop.send("r@site.example", to=3)[0].startswith("250 ")
    assert shop.send("r@site.example", to=2) == [
        "451 4.7.1 over quota: at most 4 recipients per hour, try again later"
    ]
    assert shop.send("r@site.example")[0].startswith("250 ")
    shop.sink.wait_for(before + 2)
    assert shop.counted("r@site.example") == (2, 4)


def test_many_sessions_at_once_count_as_one(shop: Shop) -> None:
    """Eight clients that send everything in one go to both workers get no more through than one would."""
    before = len(shop.sink.taken)
    shop.add("p@site.example", "--messages-per-hour", "10", "--over", "refuse")
    text = b"From: <p@site.example>\r\n\r\nhello\r\n"
    one = b"MAIL FROM:<p@site.example>\r\nRCPT TO:<r@end.example>\r\nBDAT %d LAST\r\n%s" % (len(text), text)

    def burst(_: int) -> int:
        with Client(shop.daemon.port) as client:
            client.say("EHLO client.example.net")
            assert client.log_in("p@site.example", PASSWORD).startswith("235 ")
            client.send(one * 5)
            said = [client.reply() for _ in range(15)]
            return sum(reply.startswith("250 2.0.0 queued as ") for reply in said)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(burst, range(8))) == 10
    shop.sink.wait_for(before + 10)
    assert shop.counted("p@site.example") == (10, 10)


@pytest.mark.parametrize("size", [0, 200_000])
def test_who_leaves_before_the_answer_has_sent_all_the_same(shop: Shop, size: int) -> None:
    """What is delivered counts, whether its sender waits for the 250 or not."""
    name = f"l{size}@site.example"
    before = len(shop.sink.taken)
    shop.add(name, "--messages-per-hour", "2", "--over", "refuse")
    text = b"From: <%s>\r\n\r\n" % name.encode() + b"x" * 78 * (size // 78) + b"\r\n.\r\n"
    for _ in range(12):
        with Client(shop.daemon.port) as client:
            client.say("EHLO client.example.net")
            assert client.log_in(name, PASSWORD).startswith("235 ")
            for line in (f"MAIL FROM:<{name}>", "RCPT TO:<r@end.example>"):
                assert client.say(line).startswith("250 ")
            if client.say("DATA").startswith("354 "):
                client.send(text)
    wait_until("the count", lambda: shop.counted(name) == (2, 2), 20, shop.daemon.log)
    shop.sink.wait_for(before + 2)
    assert len(shop.sink.taken) == before + 2


def test_another_default_by_a_reload(shop: Shop) -> None:
    """In force at once, with what was counted before; also where an account has some limits of its own."""
    before = len(shop.sink.taken)
    shop.add("d@site.example")
    shop.add("e@site.example", "--recipients-per-hour", "40")
    for account in ("d@site.example", "e@site.example"):
        assert all(said.startswith("250 ") for said in shop.send(account, 3))
    shop.allow(3, "refuse")
    for account in ("d@site.example", "e@site.example"):
        [said] = shop.send(account)
        assert said == "451 4.7.1 over quota: at most 3 messages per hour, try again later"
    shop.allow(4)
    for account in ("d@site.example", "e@site.example"):
        assert all(said.startswith("250 ") for said in shop.send(account, 2))
    shop.sink.wait_for(before + 8)
    wait_until("two held", lambda: len(shop.held()) == 2)
    shop.allow(0)
    assert shop.send("d@site.example")[0].startswith("250 ")
    shop.sink.wait_for(before + 9)
    assert shop.daemon.run("relaymta", "queue", "delete", *(row["id"] for row in shop.held())).returncode == 0
