"""`relaymta explain` asked of a running relay: its lanes, its name servers, and a probe of a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.peers.client import send_letter
from tests.peers.daemon import Daemon
from tests.peers.postbox import Postbox
from tests.peers.programs import SmtpSink, free_port, wait_until

RETRY = '\n[queue]\nretry = ["1h"]\n'


def explain(daemon: Daemon, *words: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status and the steps."""
    done = daemon.run("relaymta", "explain", "-c", str(daemon.configuration), "--json", *words)
    assert done.stderr == ""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def step(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The one step of that name."""
    [found] = [row for row in rows if row["step"] == name]
    return found


def test_a_suspended_lane_is_told_with_every_worker(relay: Callable[..., Daemon]) -> None:
    """Two workers, a dead destination: who suspended it, until when, and what waits there."""
    daemon = relay(sink=free_port(), workers=2, extra=RETRY)
    status, rows = explain(daemon, "r@d.example.org")
    assert status == 0 and rows[-1]["step"] == "verdict" and step(rows, "route")["number"] == 1
    assert set(step(rows, "lane")["workers"]) == {"worker 0", "worker 1"}
    for number in range(12):
        send_letter(daemon.port, number)

    def suspended() -> bool:
        lane = step(explain(daemon, "r@d.example.org")[1], "lane")
        return bool(lane["suspended_until"]) and any(one and one["until"] for one in lane["workers"].values())

    wait_until("a suspended lane", suspended)
    lane = step(explain(daemon, "r@d.example.org")[1], "lane")
    assert "suspended" in lane["text"]
    table = daemon.run("relaymta", "explain", "r@d.example.org").stdout
    assert "suspended" in table and "verdict" in table


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, int, int]]:
    """A relay in one process, with a port for a server of sink.example and one for a server of box.example."""
    ports = free_port(), free_port()
    routes = "".join(
        f'[[route]]\nrecipient = "{name}.example"\nto = "[127.0.0.1]:{port}"\n'
        for name, port in zip(("sink", "box"), ports, strict=True)
    )
    dns = f'\n[dns]\nservers = ["127.0.0.1:{free_port()}"]\ntimeouts = ["200ms"]\n'
    daemon = Daemon(tmp_path_factory.mktemp("explain") / "relay", extra=f"{dns}{routes}")
    yield daemon.start(), *ports
    daemon.stop()


def test_a_probe_by_the_daemon(one: tuple[Daemon, int, int], smtp_sink: Callable[..., SmtpSink]) -> None:
    """Postfix's smtp-sink hears EHLO, MAIL, RCPT, RSET and QUIT, and gets no message."""
    daemon, port, _ = one
    sink = smtp_sink(port=port)
    kept = daemon.folder / "record.json"
    status, rows = explain(daemon, "r@sink.example", "--probe", "--record", str(kept))
    assert json.loads(kept.read_text())["verdicts"] and rows[-1]["step"] == "verdict"
    probe = step(rows, "probe")
    assert (status, rows[-1]["result"], probe["answered"]) == (0, "ok", True)
    said = [line.split()[1] for line in probe["details"] if line.startswith("C:")]
    assert said == ["EHLO", "MAIL", "RCPT", "RSET", "QUIT"]
    assert sink.messages() == []
    assert daemon.count("queued", "accepted") == 0


def test_a_refusal_at_the_peer_is_exit_one(one: tuple[Daemon, int, int], postbox: Callable[..., Postbox]) -> None:
    """A 550 to RCPT would return the message."""
    daemon, _, port = one
    box = postbox(lambda visit, stage, argument: "550 5.1.1 who?" if stage == "RCPT" else None, port=port)
    status, rows = explain(daemon, "r@box.example", "--probe", "--sender", "s@example.net")
    assert status == 1 and step(rows, "probe")["reply"] == "550 5.1.1 who?"
    assert box.taken == []


def test_an_unknown_domain_is_asked_of_the_daemons_name_servers(one: tuple[Daemon, int, int]) -> None:
    """A name server that nobody answers at makes mail wait; a question without sense is one line."""
    daemon, _, _ = one
    status, rows = explain(daemon, "r@nowhere.example")
    assert status == 0 and rows[-1]["result"] == "waits" and step(rows, "mx")["state"] == "failed"
    done = daemon.run("relaymta", "explain", "-c", str(daemon.configuration), "r@x.example", "--client", "here")
    assert done.returncode == 1 and done.stderr == 'relaymta: "here" is not an IP address\n'
