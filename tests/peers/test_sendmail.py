"""sendmail(1) of the real command, by the drop directory, with the daemon up and with the daemon down."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.peers.daemon import Daemon
from tests.peers.postbox import Postbox
from tests.peers.programs import wait_until

TEXT = (
    b"Subject: from a program\nTo: someone@example.org, Other <other@example.org>\nBcc: hidden@example.org\n"
    b"\n.\ntext\n"
)


@pytest.mark.parametrize("workers", [0, 2])
def test_sendmail_delivers(relay: Callable[..., Daemon], postbox: Callable[..., Postbox], workers: int) -> None:
    """`sendmail -t -i`: header recipients, no Bcc on the way, Date and Message-ID added, dots kept."""
    sink = postbox()
    daemon = relay(sink=sink.port, workers=workers)
    done = daemon.run("sendmail", "-t", "-i", "-f", "program@example.net", given=TEXT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [message] = sink.wait_for(1)
    assert message.sender == "program@example.net"
    assert set(message.recipients) == {"someone@example.org", "other@example.org", "hidden@example.org"}
    header, _, text = message.content.partition(b"\r\n\r\n")
    assert b"Bcc" not in header and b"\r\nSubject: from a program" in header
    assert b"\r\nDate: " in header and b"\r\nMessage-ID: <" in header
    assert text == b".\r\ntext\r\n"


def test_what_was_sent_while_the_daemon_is_down_is_delivered_later(
    relay: Callable[..., Daemon], postbox: Callable[..., Postbox]
) -> None:
    """Accepted by the command with nobody running, in order kept on disk; delivered once the daemon is back."""
    sink = postbox()
    daemon = relay(sink=sink.port)
    assert daemon.stop() == 0
    for number in range(5):
        done = daemon.run("sendmail", f"r{number}@example.org", given=b"Subject: %d\n\nhello\n" % number)
        assert (done.returncode, done.stderr) == (0, "")
    daemon.start()
    taken = sink.wait_for(5)
    assert sorted(one.recipients for one in taken) == [(f"r{number}@example.org",) for number in range(5)]
    drop = daemon.folder / "spool" / "drop"
    assert {one.name for one in drop.iterdir() if not one.name.startswith(".")} <= {"bad", "lock"}
    assert not list(drop.glob("bad/*"))


def test_what_is_picked_up_survives_kill_9(relay: Callable[..., Daemon], postbox: Callable[..., Postbox]) -> None:
    """Letters that wait while the relay is started, killed and started: each arrives at least once."""
    sink = postbox()
    daemon = relay(sink=sink.port)
    daemon.stop()
    for number in range(8):
        assert daemon.run("sendmail", f"r{number}@example.org", given=b"Subject: %d\n\nx\n" % number).returncode == 0
    daemon.start()
    daemon.kill()
    daemon.start()
    wanted = {f"r{number}@example.org" for number in range(8)}
    wait_until("all of them", lambda: wanted <= {one.recipients[0] for one in sink.taken}, 30, daemon.log)


def test_sendmail_delivers_where_no_size_is_too_large(
    relay: Callable[..., Daemon], postbox: Callable[..., Postbox]
) -> None:
    """max_message_size = "0B": room for a terabyte was asked for at once, and nothing that was left was ever taken."""
    sink = postbox()
    daemon = relay(sink=sink.port, listener='max_message_size = "0B"')
    assert daemon.run("sendmail", "r@example.org", given=b"Subject: x\n\nhello\n").returncode == 0
    assert sink.wait_for(1)[0].recipients == ("r@example.org",)


def test_a_loop_by_way_of_sendmail_ends(relay: Callable[..., Daemon], postbox: Callable[..., Postbox]) -> None:
    """RFC 5321 §6.3: a program to which we deliver may hand the message back; it is put aside, and told."""
    daemon = relay(sink=postbox().port)
    text = b"Received: by x.example; Mon, 23 Nov 2026 20:00:00 +0000\n" * 51 + b"Subject: x\n\nhello\n"
    assert daemon.run("sendmail", "r@example.org", given=text).returncode == 0
    wait_until("put aside", lambda: "too many hops" in daemon.log(), 20, daemon.log)
    assert len(list((daemon.folder / "spool" / "drop" / "bad").iterdir())) == 1
