"""The queue as its operator sees it and steers it: retries, expiry, notices, hold, delete, reload, stop; by command."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.client import Client, send_letter
from tests.peers.daemon import Daemon
from tests.peers.letters import letter, number_of, without_trace
from tests.peers.postbox import Postbox
from tests.peers.programs import wait_until

LATER = "450 4.2.1 mailbox busy"


def busy(_visit: object, stage: str, _argument: str) -> str | None:
    """Puts off every recipient."""
    return LATER if stage == "RCPT" else None


def busy_for_others(_visit: object, stage: str, argument: str) -> str | None:
    """Puts off every recipient but the sender, who gets notices."""
    return LATER if stage == "RCPT" and "sender@" not in argument else None


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Postbox]]:
    """A relay whose retries are an hour away, and a server."""
    with Postbox() as sink:
        daemon = Daemon(
            tmp_path_factory.mktemp("operator") / "relay", sink=sink.port, extra='\n[queue]\nretry = ["1h"]\n'
        )
        yield daemon.start(), sink
        daemon.stop()


@pytest.fixture
def waiting(house: tuple[Daemon, Postbox]) -> Iterator[tuple[Daemon, Postbox, list[str]]]:
    """Three letters (11, 12, 13) that were put off once and wait; whatever is left of them is deleted."""
    daemon, sink = house
    sink.answer = busy
    ids = [
        send_letter(daemon.port, number, recipient=f"r{number}@d{number}.example.org", sender=f"s{number}@example.net")
        for number in (11, 12, 13)
    ]
    wait_until("three on disk", lambda: daemon.count("waiting") == 3)
    sink.answer = lambda *_: None
    yield daemon, sink, ids
    daemon.ask("queue", "delete", "--all")
    assert daemon.count("queued", "active", "difference") == 0


def _states(daemon: Daemon) -> dict[str, str]:
    return {row["id"]: row["state"] for row in daemon.ask("queue", "list")}


def _letters(sink: Postbox, before: int, wanted: int) -> list[int]:
    return sorted(number_of(one.content) for one in sink.wait_for(before + wanted)[before:])


def test_the_queue_is_listed_and_shown(waiting: tuple[Daemon, Postbox, list[str]]) -> None:
    """List says who waits for whom and why; show tells the story of one, its header included."""
    daemon, _, ids = waiting
    rows = {row["id"]: row for row in daemon.ask("queue", "list")}
    assert list(rows) and set(rows) == set(ids)
    row = rows[ids[1]]
    assert (row["sender"], row["recipients"]) == ("s12@example.net", ["r12@d12.example.org"])
    assert (row["state"], row["attempts"]) == ("waiting", 1)
    assert LATER in row["reason"]
    assert 2500 < row["due"] - time.time() < 4600
    [shown] = daemon.ask("queue", "show", ids[1])
    assert [entry["event"] for entry in shown["story"]] == ["attempted"]
    assert "Subject: letter 12 of 500 octets" in shown["header"]
    table = daemon.run("relaymta", "queue", "list").stdout
    assert ids[0] in table and "3 messages" in table
    assert ids[0] in daemon.run("mailq").stdout


def test_retry_now(waiting: tuple[Daemon, Postbox, list[str]]) -> None:
    """Retry attempts what it names at once, and leaves the rest."""
    daemon, sink, ids = waiting
    before = len(sink.taken)
    assert daemon.ask("queue", "retry", ids[0])[0]["changed"]
    assert _letters(sink, before, 1) == [11]
    wait_until("its end", lambda: ids[0] not in _states(daemon))
    daemon.ask("queue", "retry", "--domain", "d13.example.org")
    assert _letters(sink, before, 2) == [11, 13]
    wait_until("its end", lambda: _states(daemon) == {ids[1]: "waiting"})


def test_hold_and_release(waiting: tuple[Daemon, Postbox, list[str]]) -> None:
    """What is on hold is attempted by nothing, until it is released."""
    daemon, sink, ids = waiting
    before = len(sink.taken)
    daemon.ask("queue", "hold", "--sender", "s12@example.net", "--reason", "looks odd")
    assert _states(daemon) == {ids[0]: "waiting", ids[1]: "held", ids[2]: "waiting"}
    assert daemon.ask("queue", "list", "--held")[0]["reason"] == "looks odd"
    daemon.ask("queue", "retry", "--all")
    assert _letters(sink, before, 2) == [11, 13]
    wait_until("their end", lambda: _states(daemon) == {ids[1]: "held"})
    daemon.ask("queue", "release", ids[1])
    daemon.ask("queue", "retry", ids[1])
    assert _letters(sink, before, 3) == [11, 12, 13]


def test_delete_tells_nobody(waiting: tuple[Daemon, Postbox, list[str]]) -> None:
    """What is deleted is gone: not delivered, and no notice of it."""
    daemon, sink, ids = waiting
    before = len(sink.taken)
    assert len(daemon.ask("queue", "delete", ids[0], ids[2])) == 2
    assert _states(daemon) == {ids[1]: "waiting"}
    daemon.ask("queue", "retry", "--all")
    assert _letters(sink, before, 1) == [12]
    wait_until("an empty queue", lambda: _states(daemon) == {})
    assert len(sink.taken) == before + 1


def test_an_unknown_id_is_said_so(house: tuple[Daemon, Postbox]) -> None:
    """A command that found nothing to do says so and exits 1; one without any choice is wrong usage."""
    daemon, _ = house
    done = daemon.run("relaymta", "queue", "delete", "0000000000000")
    assert done.returncode == 1 and "not in the queue" in done.stdout + done.stderr
    assert daemon.run("relaymta", "queue", "delete").returncode == 2


def test_trace_tells_the_whole_way(house: tuple[Daemon, Postbox]) -> None:
    """Trace of a queue id: its session, accepted, relayed where and with which words; of a session id: that one."""
    daemon, sink = house
    sink.answer = lambda *_: None
    queue_id = send_letter(daemon.port, 21)
    wait_until("its end", lambda: f"{queue_id} message-finished" in daemon.log())
    told = daemon.ask("trace", queue_id)
    rows = [row for row in told if row.get("id") == queue_id]
    assert [row["event"] for row in rows] == ["message-accepted", "recipient-settled", "message-finished"]
    assert rows[1]["address"].startswith("127.0.0.1") and rows[1]["reply"] == "250 2.0.0 taken"
    assert "session-opened" in {row["event"] for row in told}
    about = {row["event"] for row in daemon.ask("trace", rows[0]["session"])}
    assert {"session-opened", "session-closed"} <= about
    assert daemon.run("relaymta", "trace", "0000000000000").returncode == 1


def test_stats_for_people_and_programs(house: tuple[Daemon, Postbox]) -> None:
    """Stats count what came and went, and the ledger's difference is 0."""
    daemon, sink = house
    sink.answer = lambda *_: None
    before = daemon.count("accepted")
    send_letter(daemon.port, 22)
    wait_until("its end", lambda: daemon.count("queued", "active") == 0)
    [row] = daemon.ask("stats")
    assert row["queue"]["accepted"] == before + 1
    assert row["queue"]["difference"] == 0
    said = daemon.run("relaymta", "stats").stdout
    assert "accepted" in said and "ledger difference" in said


def test_a_temporary_failure_is_retried_until_it_is_taken(
    relay: Callable[..., Daemon], postbox: Callable[..., Postbox]
) -> None:
    """Put off twice, then taken: one letter arrives, once, on the third attempt."""
    answers = [LATER, "451 4.3.0 later"]
    sink = postbox(lambda _visit, stage, _argument: answers.pop(0) if stage == "RCPT" and answers else None)
    daemon = relay(sink=sink.port, extra='\n[queue]\nretry = ["1s"]\n')
    queue_id = send_letter(daemon.port, 1)
    assert number_of(sink.wait_for(1)[0].content) == 1
    wait_until("its end", lambda: f"{queue_id} message-finished" in daemon.log())
    rows = [row for row in daemon.ask("trace", queue_id) if row["event"].startswith("recipient-")]
    assert [row["event"] for row in rows] == ["recipient-deferred"] * 2 + ["recipient-settled"]
    assert rows[-1]["attempts"] == 3
    assert len(sink.taken) == 1


def test_a_delay_is_told_and_then_the_end(relay: Callable[..., Daemon], postbox: Callable[..., Postbox]) -> None:
    """After warn_after the sender hears of the delay, once; after expire of the failure, with what was last said."""
    sink = postbox(busy_for_others)
    daemon = relay(sink=sink.port, extra='\n[queue]\nretry = ["1s"]\nwarn_after = "1500ms"\nexpire = "7s"\n')
    queue_id = send_letter(daemon.port, 1)
    delayed, failed = (one.content for one in sink.wait_for(2))
    assert b"\r\nAction: delayed\r\n" in delayed and b"\r\nStatus: 4.2.1\r\n" in delayed
    assert b"\r\nWill-Retry-Until: " in delayed
    assert b"\r\nAction: failed\r\n" in failed
    assert b"\r\nStatus: 4.2.1\r\n" in failed  # the last words, not 4.4.7: they say more (reports.status)
    assert b"\r\nDiagnostic-Code: smtp; 450 4.2.1 mailbox busy\r\n" in failed
    assert letter(1, 500).partition(b"\r\n\r\n")[2] in failed  # the whole message comes back
    assert all(one.sender == "" and one.recipients == ("sender@example.net",) for one in sink.taken)
    wait_until("its end", lambda: daemon.count("queued", "active") == 0)
    assert len(sink.taken) == 2
    rows = [row for row in daemon.ask("trace", queue_id) if row.get("id") == queue_id]
    [settled] = [row for row in rows if row["event"] == "recipient-settled"]
    assert settled["fate"] == "expired"


def test_a_success_notice_where_it_was_asked_for(relay: Callable[..., Daemon], postbox: Callable[..., Postbox]) -> None:
    """NOTIFY=SUCCESS goes on to a peer with DSN; NOTIFY=NEVER keeps a failure from being told (RFC 3461 §5.2)."""
    sink = postbox(
        lambda _visit, stage, argument: "550 5.1.1 no" if stage == "RCPT" and "nobody@" in argument else None
    )
    daemon = relay(sink=sink.port)
    with Client(daemon.port) as client:
        client.say("EHLO client.example.net")
        assert client.say("MAIL FROM:<sender@example.net>").startswith("250")
        assert client.say("RCPT TO:<nobody@example.org> NOTIFY=NEVER").startswith("250")
        assert client.say("RCPT TO:<bob@example.org> NOTIFY=SUCCESS").startswith("250")
        assert client.data(letter(1)).startswith("250")
    sink.wait_for(1)
    wait_until("its end", lambda: daemon.count("queued", "active") == 0)
    assert len(sink.taken) == 1
    assert "notice-queued" not in daemon.log()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_changed_route_reaches_mail_that_waits(
    relay: Callable[..., Daemon], postbox: Callable[..., Postbox], workers: int
) -> None:
    """A mended route takes effect on what waits already (OpenSMTPD#275), by `relaymta reload`."""
    dead, alive = postbox(busy), postbox()
    daemon = relay(sink=dead.port, workers=workers, extra='\n[queue]\nretry = ["1h"]\n')
    for number in range(4):
        send_letter(daemon.port, number)
    wait_until("four on disk", lambda: daemon.count("waiting") == 4)
    daemon.write(sink=alive.port)
    assert daemon.ask("reload") == [{"reloaded": True}]
    wait_until("all four with the new workers", lambda: daemon.count("waiting") == 4)
    daemon.ask("queue", "retry", "--all")
    assert sorted(number_of(one.content) for one in alive.wait_for(4)) == [0, 1, 2, 3]
    assert not dead.taken


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_configuration_changes_nothing(
    relay: Callable[..., Daemon], postbox: Callable[..., Postbox], workers: int
) -> None:
    """A reload of a file with a mistake says file and line, exits 1, and the relay goes on as before."""
    sink = postbox()
    daemon = relay(sink=sink.port, workers=workers)
    daemon.write(extra='\n[queue]\nretrry = ["1s"]\n')
    done = daemon.run("relaymta", "reload")
    assert done.returncode == 1
    assert "relaymta.toml:" in done.stderr and "retrry" in done.stderr
    send_letter(daemon.port, 1)
    assert number_of(sink.wait_for(1)[0].content) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_secret_that_cannot_be_read_changes_nothing(relay: Callable[..., Daemon], workers: int) -> None:
    """A reload put it in force, and nobody could log in who could before; it is refused as at the start."""
    daemon = relay(workers=workers)
    password = daemon.folder / "ldap.secret"
    more = '\n[users.ldap]\nurl = "ldap://127.0.0.1:9"\nbase = "dc=x"\nbind_dn = "cn=x"\npassword_file = "{}"\n'
    daemon.write(extra=more.format(password))
    done = daemon.run("relaymta", "reload")
    assert done.returncode == 1 and "users.ldap.password_file" in done.stderr and str(password) in done.stderr
    password.write_text("x\n")
    assert daemon.run("relaymta", "reload").returncode == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_stop_drains(relay: Callable[..., Daemon], postbox: Callable[..., Postbox], workers: int) -> None:
    """Stop lets a running transaction end, closes idle sessions with 421, and leaves no process; exit status 0."""
    sink = postbox()
    daemon = relay(sink=sink.port, workers=workers)
    with Client(daemon.port) as busy_client, Client(daemon.port) as idle:
        busy_client.begin()
        assert busy_client.say("DATA").startswith("354")
        idle.say("EHLO client.example.net")
        workers_before = daemon.worker_pids()
        assert daemon.run("relaymta", "stop", "--wait", "0s").returncode == 0
        assert idle.reply().startswith("421 4.3.2 ")
        busy_client.send(letter(1).replace(b"\r\n.", b"\r\n..") + b".\r\n")
        assert busy_client.reply().startswith("250 2.0.0 ")
        assert busy_client.reply().startswith("421 4.3.2 ")
    assert daemon.wait(30) == 0
    for pid in workers_before:
        wait_until(f"the end of worker {pid}", lambda pid=pid: not _exists(pid))  # type: ignore[misc]
    if not sink.taken:
        daemon.start()  # it was taken while the way out was closing: it is in the spool
    assert without_trace(sink.wait_for(1)[0].content) == letter(1)


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_commands_without_a_daemon_say_so(tmp_path: Any) -> None:
    """Whatever is asked of a daemon that does not run: one clear line, exit status 1."""
    daemon = Daemon(tmp_path / "relay")
    daemon.folder.mkdir()
    daemon.write()
    for words in (("stats",), ("queue", "list"), ("reload",), ("stop",)):
        done = daemon.run("relaymta", *words)
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith("relaymta: relaymta is not running") and done.stderr.count("\n") == 1
