"""The benchmark's instruments are right before anything is measured with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from bench.certificate import CIPHER, make
from bench.conductor import RoundError, Sinks, calibrate, measure
from bench.generator import Load
from bench.letter import Letter
from bench.relay import Relay

LETTER = Letter(3000)


class Nobody:
    """Stands for the server under test: the generator speaks straight to the sink."""

    name = "nobody"

    def __init__(self, port: int) -> None:
        self.port = port
        self.pid = os.getpid()

    def cpu(self) -> float:
        """It costs nothing."""
        return 0.0

    def log(self) -> str:
        """It says nothing."""
        return ""


@given(size=st.integers(500, 20_000), run=st.integers(1, 999_999), number=st.integers(0, 10**9))
def test_a_letter_is_recognised_behind_any_trace_fields(size: int, run: int, number: int) -> None:
    """What the generator makes is what the sink reads, with a relay's Received fields in front."""
    letter = Letter(size)
    wire = letter.wire(run, number)
    assert wire.endswith(b"\r\n.\r\n") and b"\r\n.\r\n" not in wire[:-1]
    assert letter.read(b"Received: from a by b\r\n" + wire[:-3]) == (run, number)
    assert abs(len(wire) - size) < 0.02 * size + 80


@given(place=st.integers(0, 2000), octet=st.integers(0, 255))
def test_a_changed_octet_is_seen(place: int, octet: int) -> None:
    """Whatever octet is changed, the letter is refused or is another letter."""
    content = bytearray(LETTER.wire(7, 42)[:-3])
    if content[place] == octet:
        return
    content[place] = octet
    try:
        assert LETTER.read(content) != (7, 42)
    except ValueError:
        pass


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("reuse", [True, False])
def test_generator_and_sink_agree(reuse: bool, pipelining: bool) -> None:
    """Each letter arrives once for each recipient, with and without pipelining, reused or not."""
    sinks = Sinks(LETTER, 300, [("127.0.0.1", 0)], 2)
    try:
        load = Load("127.0.0.1", sinks.port, LETTER, 300, 5, reuse, recipients=3, pipelining=pipelining)
        one = measure(Nobody(sinks.port), load, sinks.ledger, 2, latency=True)
        assert (one.messages, len(one.latency)) == (300, 300)
        assert set(sinks.ledger.copies[:300]) == {3}
        assert one.connections == (300 if not reuse else 4)
        assert calibrate(Nobody(sinks.port), evolve(load, messages=0), sinks.ledger, 0.1, 300, 2) <= 300
    finally:
        sinks.stop()


@pytest.mark.parametrize("reuse", [True, False])
def test_the_generator_speaks_tls(reuse: bool, tmp_path: Path) -> None:
    """Through a relay that offers STARTTLS each letter arrives once, over one handshake for each connection."""
    sinks = Sinks(LETTER, 200, [("127.0.0.1", 0)], 1)
    relay = Relay(tmp_path / "relay", sinks.port, workers="0", tls=make(tmp_path))
    try:
        relay.start()
        load = Load("127.0.0.1", relay.port, LETTER, 200, 5, reuse, tls=True)
        assert measure(relay, load, sinks.ledger, 2).messages == 200
        log = relay.directory.joinpath("log").read_text()
        assert log.count(f' tls="TLSv1.3 {CIPHER} 256" server_name=') == (4 if reuse else 200)
    finally:
        relay.stop()
        sinks.stop()


def test_a_sink_that_defers_ends_the_round() -> None:
    """A refusal makes a round worthless, and is told with the reply."""
    sinks = Sinks(LETTER, 10, [("127.0.0.1", 0)], 1, defers=True)
    try:
        load = Load("127.0.0.1", sinks.port, LETTER, 10, 1, True)
        with pytest.raises(RoundError, match=r"450 4\.2\.0"):
            measure(Nobody(sinks.port), load, sinks.ledger, 1)
    finally:
        sinks.stop()
