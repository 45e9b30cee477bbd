"""No octets of one message ever become a second one, neither on the way in nor on the way out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.client import Client, send_letter
from tests.peers.daemon import Daemon
from tests.peers.letters import number_of
from tests.peers.postbox import Postbox

SMUGGLED = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nevil\r\n"
# What some server somewhere has taken for the end of data, without being CRLF.CRLF.
ENDS = {
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CR": b"\r.\r",
    "CRLF.CR": b"\r\n.\r",
    "CR.CRLF": b"\r.\r\n",
    "CR.LF": b"\r.\n",
    "LF.CR": b"\n.\r",
    "CRLF NUL.CRLF": b"\r\n\0.\r\n",
    "CRLF.NUL CRLF": b"\r\n.\0\r\n",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "LFCR.CRLF": b"\n\r.\r\n",
    "CRLF.CRLF, stuffed": b"\r\n..\r\n",
    "CRLF.blank CRLF": b"\r\n. \r\n",
}
HARMLESS = {"CRLF.CRLF, stuffed", "CRLF.blank CRLF"}  # content like any other


@pytest.fixture(scope="module", params=["reject", "normalize"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Postbox]]:
    """One relay for each way to treat bare line ends, and one server behind it."""
    with Postbox() as sink:
        folder = tmp_path_factory.mktemp("smuggling") / "relay"
        daemon = Daemon(folder, sink=sink.port, listener=f'bare_newlines = "{request.param}"')
        yield daemon.start(), sink
        daemon.stop()


@pytest.mark.parametrize("pieces", [False, True], ids=["in one", "octet by octet"])
@pytest.mark.parametrize("end", ENDS)
def test_nothing_but_crlf_dot_crlf_ends_the_data(house: tuple[Daemon, Postbox], end: str, pieces: bool) -> None:
    """What follows a would-be end of data is content or nothing: never a second message (CVE-2023-51764 and kin)."""
    daemon, sink = house
    before = len(sink.taken)
    wire = b"Subject: outer\r\n\r\ntext" + ENDS[end] + SMUGGLED + b".\r\n"
    with Client(daemon.port) as client:
        client.begin("a@example.net", "outer@example.org")
        assert client.say("DATA").startswith("354")
        if pieces:
            for at in range(len(wire)):
                client.send(wire[at : at + 1])
        else:
            client.send(wire)
        said = client.reply()
        refused = not said.startswith("250")
        rest = client.say("QUIT")
        assert rest == "" or rest.startswith("221")
    send_letter(daemon.port, before)  # when it is there, what was sent before it would be there too
    taken = sink.wait_for(before + (1 if refused else 2))[before:]
    assert all(one.sender != "evil@example.net" for one in taken)
    assert [one.recipients for one in taken].count(("victim@example.org",)) == 0
    assert sum(b"Subject: letter " in one.content for one in taken) == 1
    assert len(taken) == (1 if refused else 2)
    if "reject" in daemon.listener and end not in HARMLESS:
        assert said.startswith("550 5.6.0 "), said
    assert sink.faults == []


@pytest.mark.parametrize("line", [b"NOOP\nQUIT\r\n", b"NOOP\rQUIT\r\n", b"MAIL FROM:<a@b.example>\nRCPT TO:<b@c>\r\n"])
def test_a_bare_line_end_in_a_command_makes_no_second_command(house: tuple[Daemon, Postbox], line: bytes) -> None:
    """A command line ends with CRLF alone; what holds a bare CR or LF is refused as a whole (RFC 5321 §2.3.8)."""
    daemon, _ = house
    with Client(daemon.port) as client:
        client.say("EHLO client.example.net")
        client.send(line)
        assert client.reply().startswith("500 5.5.2 ")
        assert client.say("NOOP").startswith("250 ")


def test_bdat_content_that_looks_like_commands_is_content(house: tuple[Daemon, Postbox]) -> None:
    """CRLF.CRLF and commands inside a chunk are octets like others, and leave stuffed (RFC 3030 §2)."""
    daemon, sink = house
    before = len(sink.taken)
    content = b"Subject: chunk\r\n\r\ntext\r\n.\r\n" + SMUGGLED + b".\r\n"
    with Client(daemon.port) as client:
        client.begin("a@example.net", "outer@example.org")
        assert client.bdat(content).startswith("250 2.0.0 ")
    [message] = sink.wait_for(before + 1)[before:]
    assert message.content.endswith(content) and message.recipients == ("outer@example.org",)
    assert send_letter(daemon.port, 1)
    assert number_of(sink.wait_for(before + 2)[before + 1].content) == 1
