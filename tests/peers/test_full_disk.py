"""No room: mail is refused with 452 before anything is taken, what is here already goes on, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

from tests.peers.client import Client, send_letter
from tests.peers.daemon import Daemon
from tests.peers.letters import number_of
from tests.peers.postbox import Postbox
from tests.peers.programs import wait_until

FULL = '\n[queue]\nretry = ["1h"]\nmin_free = "1000000GB"\n'
ROOM = '\n[queue]\nretry = ["1h"]\n'


def test_a_full_disk_refuses_and_loses_nothing(relay: Callable[..., Daemon], postbox: Callable[..., Postbox]) -> None:
    """Below min_free: 452 4.3.1 to MAIL, deliveries go on; with room again mail is taken."""
    sink = postbox(lambda _visit, stage, _: "450 4.2.0 later" if stage == "RCPT" else None)
    daemon = relay(sink=sink.port, extra=ROOM)
    for number in range(3):
        send_letter(daemon.port, number)
    wait_until("three on disk", lambda: daemon.count("waiting") == 3)
    sink.answer = lambda *_: None
    daemon.write(extra=FULL)
    daemon.ask("reload")
    with Client(daemon.port) as client:
        client.say("EHLO client.example.net")
        assert client.say("MAIL FROM:<sender@example.net>").startswith("452 4.3.1 ")
        assert client.say("RCPT TO:<recipient@example.org>").startswith("503 ")
        assert client.say("MAIL FROM:<>").startswith("452 4.3.1 ")
    wait_until("its line in the log", lambda: "spool-full" in daemon.log())
    daemon.ask("queue", "retry", "--all")
    assert sorted(number_of(one.content) for one in sink.wait_for(3)) == [0, 1, 2]
    daemon.write(extra=ROOM)
    daemon.ask("reload")
    send_letter(daemon.port, 4)
    assert number_of(sink.wait_for(4)[3].content) == 4
