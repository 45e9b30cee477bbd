"""Thousands of messages through the whole relay: each arrives, once, and no octet of it is changed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from tests.peers.client import Load
from tests.peers.daemon import Daemon
from tests.peers.letters import count, without_trace
from tests.peers.postbox import Postbox
from tests.peers.programs import SmtpSink, SmtpSource

_ID = re.compile(rb"(?m)^Message-I[dD]: <([^>]+)>\r$")


def _is_straight(daemon: Daemon, accepted: int) -> None:
    """The books say so too: all was accepted, nothing waits, nothing is missing."""
    assert daemon.count("accepted") == accepted
    assert daemon.count("queued", "active", "difference", "unreadable") == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_5000_of_smtp_source_arrive_once(
    relay: Callable[..., Daemon], postbox: Callable[..., Postbox], smtp_source: SmtpSource, workers: int
) -> None:
    """Every message that smtp-source got a 250 for arrives exactly once, and its text as it was."""
    sink = postbox()
    daemon = relay(sink=sink.port, workers=workers)
    smtp_source.send(daemon.port, 5000, sessions=20, length=3000)
    taken = sink.wait_for(5000, 90)
    ids = Counter(match[1] for one in taken if (match := _ID.search(one.content[:2000])))
    assert len(ids) == 5000 and set(ids.values()) == {1}
    assert {(one.sender, one.recipients) for one in taken} == {("source@example.net", ("sink@example.org",))}
    shapes = {_ID.sub(b"", without_trace(one.content)) for one in taken}
    assert len({re.sub(rb"(?m)^Date: .*\r$", b"", shape) for shape in shapes}) == 1
    _is_straight(daemon, 5000)


def test_every_octet_of_2000_different_letters_arrives(
    relay: Callable[..., Daemon], postbox: Callable[..., Postbox], load: Callable[..., Load]
) -> None:
    """Letters full of dots, ends of data that are none, long lines and 8 bit arrive unchanged, each once."""
    sink = postbox()
    daemon = relay(sink=sink.port)
    sending = load(daemon.port, messages=2000)
    sending.wait()
    assert (sending.refused, sending.cut) == ([], 0)
    found = count(one.content for one in sink.wait_for(2000, 60))
    assert found == Counter(range(2000))
    _is_straight(daemon, 2000)


@pytest.mark.long
@pytest.mark.soak
@pytest.mark.parametrize("workers", [0, 2])
def test_20000_from_smtp_source_to_smtp_sink(
    relay: Callable[..., Daemon], smtp_sink: Callable[..., SmtpSink], smtp_source: SmtpSource, workers: int
) -> None:
    """20,000 messages between Postfix's own tools: not one is lost, doubled or changed."""
    sink = smtp_sink()
    daemon = relay(sink=sink.port, workers=workers)
    smtp_source.send(daemon.port, 20_000, sessions=20, length=4096, seconds=600)
    taken = sink.wait_for(20_000, 600)
    assert len(taken) == 20_000
    bodies = {one.content.partition(b"\n\n")[2].rstrip(b"\n") for one in taken}
    assert len(bodies) == 1
    ids = Counter(match[1] for one in taken if (match := re.search(rb"(?m)^Message-I[dD]: <([^>]+)>$", one.content)))
    assert len(ids) == 20_000
    _is_straight(daemon, 20_000)
