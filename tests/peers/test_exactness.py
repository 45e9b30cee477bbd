"""Octet for octet: whatever shape a message has, it arrives as it came, behind the one field that we add."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.client import Client
from tests.peers.daemon import Daemon
from tests.peers.letters import body, without_trace
from tests.peers.postbox import Delivered, Postbox
from tests.peers.programs import Swaks

SMALL_MAX = 128 * 1024  # above it a message does not go through the journal (spool.md)
HEADER = b"From: <a@example.net>\r\nSubject: shapes\r\n\r\n"


def _of(size: int) -> bytes:
    """A message of exactly `size` octets."""
    return HEADER + body(1, size - len(HEADER))


SHAPES = {
    "no octet": b"",
    "one line": b"x\r\n",
    "an empty line": b"\r\n",
    "a dot": b".\r\n",
    "two dots": b"..\r\n",
    "header without body": HEADER[:-2],
    "empty body": HEADER,
    "dots": HEADER + b".\r\n..\r\n...\r\n.a\r\n..b\r\n \r\n.\r\n\r\n.\r\n",
    "ends in a dot line": HEADER + b"text\r\n.\r\n",
    "998 octets a line": HEADER + (b"y" * 998 + b"\r\n") * 20,
    "dots of 998 octets": HEADER + (b"." * 998 + b"\r\n") * 5,
    "a line of 20,000": HEADER + b"z" * 20_000 + b"\r\n",
    "8 bit": HEADER + bytes(range(1, 256)).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n",
    "UTF-8": HEADER + "Zażółć gęślą jaźń \U0001f4e8\r\n".encode(),
    "blanks at line ends": HEADER + b"  \t \r\nword \t\r\n\r\n\r\n",
    "folded header": b"Subject: one\r\n two\r\n\tthree\r\nX:  \r\nReceived: from x by y; never\r\n\r\nz\r\n",
    "just below small_max": _of(SMALL_MAX - 400),
    "small_max": _of(SMALL_MAX),
    "just above small_max": _of(SMALL_MAX + 1),
    "5 MB": _of(5_000_000),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Postbox]]:
    """One relay and one server behind it, for all tests here."""
    with Postbox() as sink:
        daemon = Daemon(tmp_path_factory.mktemp("exactness") / "relay", sink=sink.port).start()
        yield daemon, sink
        daemon.stop()


def _arrived(sink: Postbox, before: int) -> Delivered:
    return sink.wait_for(before + 1)[before]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_message_by_data_arrives_as_it_was(house: tuple[Daemon, Postbox], shape: str) -> None:
    """By DATA: unchanged behind one Received field, whatever its size and its dots (RFC 5321 §4.5.2)."""
    daemon, sink = house
    before = len(sink.taken)
    with Client(daemon.port) as client:
        client.begin("a@example.net", "b@example.org", options=" BODY=8BITMIME")
        assert client.data(SHAPES[shape]).startswith("250 2.0.0 ")
    assert without_trace(_arrived(sink, before).content) == SHAPES[shape]


@pytest.mark.parametrize("size", [1 << 20, 7], ids=["one chunk", "chunks of 7"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_message_by_bdat_arrives_as_it_was(house: tuple[Daemon, Postbox], shape: str, size: int) -> None:
    """By BDAT, in chunks cut anywhere: the same octets (RFC 3030 §2)."""
    daemon, sink = house
    content = SHAPES[shape]
    if size == 7:
        size = max(7, len(content) // 300)
    before = len(sink.taken)
    with Client(daemon.port) as client:
        client.begin("a@example.net", "b@example.org", options=" BODY=8BITMIME")
        assert client.bdat(content, size).startswith("250 2.0.0 ")
    assert without_trace(_arrived(sink, before).content) == content


@pytest.mark.parametrize("text", [b"x", HEADER + b"no line end", HEADER + b"."])
def test_a_last_line_without_crlf_gets_one(house: tuple[Daemon, Postbox], text: bytes) -> None:
    """Only BDAT can leave the last line open; it leaves with the CRLF that DATA needs, and nothing else changes."""
    daemon, sink = house
    before = len(sink.taken)
    with Client(daemon.port) as client:
        client.begin("a@example.net", "b@example.org")
        assert client.bdat(text).startswith("250 2.0.0 ")
    assert without_trace(_arrived(sink, before).content) == text + b"\r\n"


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 1399, 1400])
def test_the_end_of_data_cut_anywhere(house: tuple[Daemon, Postbox], cut: int) -> None:
    """CRLF.CRLF may come in two packets, cut at any place."""
    daemon, sink = house
    content = HEADER + b"line\r\n.\r\nmore\r\n" * 100
    before = len(sink.taken)
    with Client(daemon.port) as client:
        client.begin()
        assert client.say("DATA").startswith("354")
        wire = content.replace(b"\r\n.", b"\r\n..") + b".\r\n"
        client.send(wire[:-cut])
        client.send(wire[-cut:])
        assert client.reply().startswith("250 2.0.0 ")
    assert without_trace(_arrived(sink, before).content) == content


def test_the_envelope_arrives_as_it_was(house: tuple[Daemon, Postbox]) -> None:
    """Null sender, quoted local part, capital letters, many recipients, DSN parameters: passed on as they came."""
    daemon, sink = house
    before = len(sink.taken)
    recipients = [f"r{number}@example.org" for number in range(60)] + ['"q t"@example.org', "MiXeD@example.org"]
    with Client(daemon.port) as client:
        client.begin("", *recipients, options=" RET=HDRS ENVID=e1")
        assert client.data(HEADER).startswith("250 2.0.0 ")
    message = _arrived(sink, before)
    assert message.sender == ""
    assert message.recipients == tuple(recipients)
    assert "RET=HDRS" in message.options and "ENVID=e1" in message.options
    assert b"\r\n\tfor " not in message.content.partition(b"\r\nFrom:")[0]  # RFC 5321 §7.6


@pytest.mark.parametrize("options", [(), ("--pipeline",)], ids=["plain", "pipelined"])
def test_swaks_is_served(house: tuple[Daemon, Postbox], swaks: Swaks, options: tuple[str, ...]) -> None:
    """swaks, plain and pipelined, hands a message in that arrives with its dots."""
    daemon, sink = house
    before = len(sink.taken)
    said = swaks(daemon.port, *options, "--from", "a@example.net", "--to", "b@example.org,c@example.org",
                 "--header", "Subject: swaks", "--body", ".dot\n..two\nend")  # fmt: skip
    assert said.status == 0, said.transcript
    message = _arrived(sink, before)
    assert (message.sender, message.recipients) == ("a@example.net", ("b@example.org", "c@example.org"))
    assert b"\r\nSubject: swaks\r\n" in message.content
    assert b"\r\n.dot\r\n..two\r\nend\r\n" in message.content
    assert message.content.startswith(b"Received: from client.example.net ([127.0.0.1])\r\n\tby relay.example.org ")
