"""The ways in that speak for others, with the real programs: haproxy before us, swaks with XCLIENT, LMTP clients."""

from __future__ import annotations

import grp
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers.client import Client
from tests.peers.daemon import Daemon
from tests.peers.postbox import Postbox
from tests.peers.programs import Haproxy, SmtpSource, Swaks, free_port, wait_until
from tests.smtp.proxyheaders import LOCAL, version1, version2

FRIEND, STRANGER = "127.0.0.2", "127.0.0.3"
PROXY, SPEAKER = "127.0.0.8", "127.0.0.9"
WAYS = (
    "send-proxy check check-send-proxy inter 200ms",
    "send-proxy-v2 check check-send-proxy inter 200ms",
    "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,unique-id,crc32c",
)
ELSEWHERE = "victim@elsewhere.example"

DOORS = """
proxy = ["127.0.0.8/32"]
xclient = ["127.0.0.9/32", "127.0.0.10/32"]
xforward = ["127.0.0.9/32"]

[listener.limits]
errors = 1000
connections_per_client = 10

[[listener]]
name = "lmtp"
address = "127.0.0.1:{lmtp}"
profile = "lmtp"

[[listener]]
name = "socket"
address = "unix:{socket}"
profile = "lmtp"
"""

House = tuple[Daemon, Postbox]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A relay for 127.0.0.2, 127.0.0.10 and ours.example alone, with all doors there are."""
    with Postbox() as sink:
        folder = tmp_path_factory.mktemp("doors") / "relay"
        listener = DOORS.format(lmtp=free_port(), socket=folder / "lmtp.sock")
        networks = f'{FRIEND}/32", "127.0.0.10/32'
        daemon = Daemon(folder, sink=sink.port, networks=networks, domains='"ours.example"', listener=listener)
        yield daemon.start(), sink
        daemon.stop()


@pytest.fixture(scope="module")
def proxies(house: House, haproxy: Callable[..., Haproxy]) -> list[int]:
    """The ports of a haproxy before it: version 1, version 2, version 2 with all its extensions."""
    return haproxy(relay=house[0].port, source=PROXY, ways=WAYS).ports


def lmtp_port(daemon: Daemon) -> int:
    """The port of the LMTP listener."""
    return int(daemon.listener.partition('"lmtp"\naddress = "127.0.0.1:')[2].partition('"')[0])


def may_relay(client: Client) -> bool:
    """Whether this client may send to anywhere; it has not said EHLO yet."""
    client.say("EHLO client.example.net")
    client.say("MAIL FROM:<a@elsewhere.example>")
    said = client.say(f"RCPT TO:<{ELSEWHERE}>")
    client.say("RSET")
    assert said.startswith(("250 2.1.5 ", "550 5.7.1 ")), said
    return said.startswith("250")


# haproxy


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_through_haproxy_each_client_is_itself(house: House, proxies: list[int], way: int) -> None:
    """Relaying, the log and the Received field are about who connected to haproxy."""
    daemon, sink = house
    before = len(sink.taken)
    with Client(proxies[way], source=STRANGER) as client:
        assert client.greeting == "220 relay.example.org ESMTP relaymta"
        assert not may_relay(client)
    with Client(proxies[way], source=FRIEND) as client:
        client.begin("a@elsewhere.example", ELSEWHERE)
        assert client.data(b"Subject: x\r\n\r\n").startswith("250 ")
    message = sink.wait_for(before + 1)[before]
    assert b"from client.example.net ([127.0.0.2])" in message.content
    wait_until("both in the log", lambda: all(f"client={one} " in named(daemon) for one in (STRANGER, FRIEND)))


def named(daemon: Daemon) -> str:
    """The lines of the log about who speaks for whom."""
    return "\n".join(line for line in daemon.log().splitlines() if " client-named " in line)


@pytest.mark.parametrize("way", [0, 1])
def test_haproxys_health_checks_are_nobodys(house: House, proxies: list[int], way: int) -> None:
    """They are taken as the proxy's own connections, and haproxy finds us in good health."""
    daemon, _ = house
    before = named(daemon).count("client= ")
    wait_until("its checks", lambda: named(daemon).count("client= ") > before + 2)
    with Client(proxies[way], source=STRANGER) as client:
        assert client.greeting.startswith("220 ")


def test_a_client_of_haproxy_cannot_name_another(house: House, proxies: list[int]) -> None:
    """A header that the client sends itself comes second, and is talk."""
    for port in proxies[:2]:
        for header in (version1(FRIEND, 1, "127.0.0.1"), version2(FRIEND, 1, "127.0.0.1")):
            with Client(port, source=STRANGER) as client:
                client.send(header)
                assert client.reply().startswith("5")
                if header.startswith(b"PROXY"):
                    assert not may_relay(client)


def test_limits_are_each_clients_own(house: House, proxies: list[int]) -> None:
    """Ten connections of one client through haproxy, and another client still comes in."""
    lines = [Client(proxies[1], source="127.0.0.4") for _ in range(11)]
    try:
        greetings = [line.greeting[:3] for line in lines]
        assert greetings == ["220"] * 10 + ["421"]
        with Client(proxies[0], source="127.0.0.5") as other:
            assert other.greeting.startswith("220 ")
    finally:
        for line in lines:
            line.close()


# An open relay by none of it


@pytest.mark.parametrize("header", [version1(FRIEND, 1, "127.0.0.1"), version1("127.0.0.1", 1, "127.0.0.1")])
def test_a_strangers_proxy_header_gains_nothing(house: House, header: bytes) -> None:
    """Before or after the greeting, it is a bad command of a stranger."""
    with Client(house[0].port, source=STRANGER) as client:
        client.send(header)
        assert client.reply().startswith("5")
        assert not may_relay(client)


def test_a_strangers_binary_header_gains_nothing(house: House) -> None:
    """It is nothing that SMTP knows, in any of its parts."""
    with Client(house[0].port, source=STRANGER) as client:
        client.send(version2(FRIEND, 1, "127.0.0.1") + b"\r\n")
        assert client.reply().startswith("5")
    with Client(house[0].port, source=STRANGER) as client:
        assert not may_relay(client)


def test_a_named_proxy_is_believed_and_earns_nothing_itself(house: House) -> None:
    """Whatever address it names is the client, also one of loopback; for itself it may send to our domains alone."""
    daemon, _ = house
    for header, may in ((version1(FRIEND, 1, "127.0.0.1"), True), (version2("::1", 1, "::1"), False), (LOCAL, False)):
        with socket.create_connection(("127.0.0.1", daemon.port), 20, (PROXY, 0)) as sock:
            sock.sendall(header + b"EHLO p\r\nMAIL FROM:<>\r\nRCPT TO:<victim@elsewhere.example>\r\n")
            said = b""
            while b"\r\n250 2.1.5 " not in said and b"\r\n550 5.7.1 " not in said:
                octets = sock.recv(4096)
                assert octets, said
                said += octets
            assert (b"\r\n250 2.1.5 " in said) is may


def test_a_proxy_without_a_header_is_closed_without_a_word(house: House) -> None:
    """And the log says which one."""
    daemon, _ = house
    with socket.create_connection(("127.0.0.1", daemon.port), 20, (PROXY, 0)) as sock:
        sock.sendall(b"EHLO client.example.net\r\n")
        assert sock.recv(100) == b""
    wait_until("its line", lambda: f'proxy={PROXY} reason="no PROXY header"' in daemon.log())


# XCLIENT and XFORWARD


def test_swaks_speaks_for_a_friend(house: House, swaks: Swaks) -> None:
    """swaks finds XCLIENT offered, is greeted again, and the client that it names may relay as by itself."""
    daemon, sink = house
    before = len(sink.taken)
    words = ("--local-interface", SPEAKER, "--from", "a@elsewhere.example", "--to", ELSEWHERE)
    assert swaks(daemon.port, *words).status != 0
    friend = ("--xclient-addr", FRIEND, "--xclient-name", "friend.example", "--xclient-port", "9")
    said = swaks(daemon.port, *words, *friend)
    assert said.status == 0, said.transcript
    assert said.transcript.count("220 relay.example.org ESMTP relaymta") == 2
    message = sink.wait_for(before + 1)[before]
    assert b"([127.0.0.2])" in message.content
    line = f"proxy={SPEAKER} by=XCLIENT client={FRIEND} port=9 name=friend.example"
    wait_until("its line", lambda: line in named(daemon))


def test_swaks_speaks_for_a_stranger(house: House, swaks: Swaks) -> None:
    """Whoever may relay by its own address cannot lend that to the client; nor to one that it does not name."""
    daemon, _ = house
    words = ("--local-interface", "127.0.0.10", "--from", "a@elsewhere.example", "--to", ELSEWHERE)
    assert swaks(daemon.port, *words, "--quit-after", "RCPT").status == 0
    for more in (("--xclient-addr", STRANGER), ("--xclient-addr", "[UNAVAILABLE]"), ("--xclient-name", "x.example")):
        said = swaks(daemon.port, *words, "--quit-after", "RCPT", *more)
        assert said.status != 0 and "550 5.7.1 relaying denied" in said.transcript, said.transcript


@pytest.mark.parametrize("source", [STRANGER, FRIEND])
def test_swaks_may_not_speak_unless_it_is_named(house: House, swaks: Swaks, source: str) -> None:
    """XCLIENT is not offered, and where it is said all the same it is unknown and changes nothing."""
    daemon, _ = house
    words = ("--local-interface", source, "--from", "a@elsewhere.example", "--to", ELSEWHERE, "--xclient-addr", FRIEND)
    assert "Host did not advertise XCLIENT" in swaks(daemon.port, *words).transcript
    with Client(daemon.port, source=STRANGER) as client:
        client.say("EHLO client.example.net")
        assert client.say(f"XCLIENT ADDR={FRIEND} LOGIN=root").startswith("500 5.5.1 ")
        assert client.say(f"XFORWARD ADDR={FRIEND}").startswith("500 5.5.1 ")
        assert not may_relay(client)


def test_xforward_is_for_the_log_and_the_trace(house: House) -> None:
    """The message is said to come from where it was before the filter, for which nothing is allowed."""
    daemon, sink = house
    before = len(sink.taken)
    with Client(daemon.port, source=SPEAKER) as client:
        assert "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE" in client.say("EHLO filter.example")
        assert client.say(f"XFORWARD ADDR={FRIEND} NAME=friend.example PORT=99").startswith("250")
        assert client.say("XFORWARD HELO=friend.example PROTO=ESMTP IDENT=4AbC SOURCE=REMOTE").startswith("250")
        client.say("MAIL FROM:<a@elsewhere.example>")
        assert client.say(f"RCPT TO:<{ELSEWHERE}>").startswith("550 5.7.1 ")
        assert client.say("RCPT TO:<u@ours.example>").startswith("250")
        assert client.data(b"Subject: x\r\n\r\n").startswith("250 ")
        client.say("MAIL FROM:<a@elsewhere.example>")
        client.say("RCPT TO:<u@ours.example>")
        assert client.data(b"Subject: y\r\n\r\n").startswith("250 ")
    first, second = sorted(sink.wait_for(before + 2)[before:], key=lambda one: b"Subject: y" in one.content)
    assert b"from friend.example ([127.0.0.2])" in first.content
    assert b"from filter.example ([127.0.0.9])" in second.content
    line = f"client={SPEAKER} origin={FRIEND} port=99 name=friend.example helo=friend.example protocol=ESMTP ident=4AbC"
    wait_until("its line", lambda: line in daemon.log())


# LMTP


def test_smtp_source_delivers_over_lmtp(house: House, smtp_source: SmtpSource) -> None:
    """Postfix's LMTP client reads a reply for each of three recipients, for a hundred messages in five sessions."""
    daemon, sink = house
    before = len(sink.taken)
    port, to = lmtp_port(daemon), "u@ours.example"
    smtp_source.send(port, 100, sessions=5, recipients=3, recipient=to, lmtp=True)
    taken = sink.wait_for(before + 100)[before:]
    assert {len(one.recipients) for one in taken} == {3}
    assert all(b"\r\n\tby relay.example.org with LMTP id " in one.content for one in taken)


def test_each_port_speaks_its_own_protocol(house: House) -> None:
    """An SMTP client gets no transaction on the LMTP port, nor LHLO one on the SMTP port (RFC 2033 §4.1)."""
    daemon, _ = house
    with Client(lmtp_port(daemon)) as client:
        assert client.greeting == "220 relay.example.org LMTP relaymta"
        assert client.say("EHLO x").startswith("500 ") and client.say("HELO x").startswith("500 ")
        assert client.say("MAIL FROM:<>").startswith("503 ")
    with Client(daemon.port) as client:
        assert client.say("LHLO x").startswith("5")


def test_swaks_over_lmtp(house: House, swaks: Swaks) -> None:
    """One recipient is taken and one refused; only the one that was taken has a reply after the dot."""
    daemon, sink = house
    before = len(sink.taken)
    words = ("--protocol", "LMTP", "--from", "a@elsewhere.example")
    said = swaks(lmtp_port(daemon), *words, "--to", f"u@ours.example,{ELSEWHERE},v@ours.example")
    assert said.transcript.count("250 2.0.0 queued as ") == 2, said.transcript
    assert sorted(sink.wait_for(before + 1)[before].recipients) == ["u@ours.example", "v@ours.example"]


def test_swaks_over_lmtp_on_a_unix_socket(house: House, swaks: Swaks) -> None:
    """Whoever may open the socket may relay; the trace names no client address, for there is none."""
    daemon, sink = house
    before = len(sink.taken)
    path = str(daemon.folder / "lmtp.sock")
    words = ("--protocol", "LMTP", "--from", "a@elsewhere.example", "--to", ELSEWHERE)
    said = swaks.on_socket(path, *words)
    assert said.transcript.count("250 2.0.0 queued as ") == 1, said.transcript
    assert sink.wait_for(before + 1)[before].content.startswith(b"Received: by relay.example.org with LMTP id ")


def test_a_loop_is_refused_for_each_recipient(house: House) -> None:
    """Two recipients, two refusals at the end of the data, and the session goes on."""
    with Client(lmtp_port(house[0])) as client:
        client.say("LHLO client.example.net")
        client.say("MAIL FROM:<a@elsewhere.example>")
        for _ in range(2):
            assert client.say("RCPT TO:<u@ours.example>").startswith("250")
        loop = b"Received: x\r\n" * 60
        assert client.data(loop + b"\r\n").startswith("554 5.4.6 ")
        assert client.reply().startswith("554 5.4.6 ")
        assert client.say("NOOP").startswith("250")


# With workers


def test_workers_count_a_proxied_client_together(tmp_path: Path, haproxy: Callable[..., Haproxy]) -> None:
    """A client's connections are counted on the whole host, whichever worker took them, and given back at their end."""
    with Postbox() as sink:
        listener = 'proxy = ["127.0.0.8/32"]\nxclient = ["127.0.0.9/32"]\n'
        listener += "[listener.limits]\nconnections_per_client = 4\n"
        daemon = Daemon(tmp_path / "relay", sink=sink.port, workers=2, networks=f"{FRIEND}/32", listener=listener)
        daemon.start()
        try:
            [port] = haproxy(relay=daemon.port, source=PROXY, ways=("send-proxy-v2",)).ports
            for _ in range(2):
                lines = [Client(port, source=STRANGER) for _ in range(6)]
                speakers = [Client(daemon.port, source=SPEAKER) for _ in range(6)]
                said = [speaker.say("EHLO x") and speaker.say("XCLIENT ADDR=127.0.0.4")[:3] for speaker in speakers]
                assert sorted(line.greeting[:3] for line in lines) == ["220"] * 4 + ["421"] * 2
                assert sorted(said) == ["220"] * 4 + ["421"] * 2
                for one in (*lines, *speakers):
                    one.close()
                wait_until("the end of all", lambda: gone(daemon))
        finally:
            daemon.stop()


def gone(daemon: Daemon) -> bool:
    """Whether no session is left."""
    [row] = daemon.ask("stats")
    return sum(row["sessions"].values()) == 0


def test_a_unix_socket_outlives_the_generations_of_workers(tmp_path: Path) -> None:
    """Workers that end at a reload leave its file to those that serve next, and its mode is what `group` says."""
    path = tmp_path / "lmtp.sock"
    group = grp.getgrgid(os.getgid()).gr_name
    listener = f'[[listener]]\nname = "lmtp"\naddress = "unix:{path}"\nprofile = "lmtp"\ngroup = "{group}"'
    daemon = Daemon(tmp_path, workers=2, listener=listener).start()
    try:
        for _ in range(2):
            before = daemon.worker_pids()
            assert daemon.run("relaymta", "reload").returncode == 0
            wait_until("the end of those before", lambda: not {*before} & {*daemon.worker_pids()})  # noqa: B023
        assert path.stat().st_mode & 0o777 == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert client.recv(512).startswith(b"220 ")
    finally:
        daemon.stop()
    assert not path.exists()
