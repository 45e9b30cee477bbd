"""relaymta sink and send: a newcomer's first minute needs nobody else's server or client."""

from __future__ import annotations

import json
import signal
import smtplib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from relaymta.cli.main import main
from relaymta.cli.sink import subject
from tests.peers.programs import free_port


@frozen
class Running:
    """A sink as a process of its own."""

    process: subprocess.Popen[str]
    port: int
    dump: Path

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def end(self) -> tuple[str, str, int]:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        return out, err, self.process.returncode


def start(folder: Path, *words: str) -> Running:
    """Start a sink and wait until it says that it listens."""
    port = free_port()
    command = [sys.executable, "-m", "relaymta.cli.main", "sink", "--listen", f"127.0.0.1:{port}", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == f"waiting for mail at 127.0.0.1:{port}; Ctrl-C ends\n"
    return Running(process, port, folder / "dump")


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Running]:
    """A sink that keeps what it gets."""
    running = start(tmp_path, "--dump", str(tmp_path / "dump"))
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.communicate()


def test_a_message_is_seen_to_arrive(sink: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """`relaymta send` to `relaymta sink`: who sent what to whom, its subject and size; and the file holds it all."""
    words = ["send", "--server", sink.address, "--to", "a@x.example", "--to", "b@x.example", "--from", "me@x.example"]
    assert main([*words, "--subject", "Grüße", "--text", "hello\n.dot\n"]) == 0
    assert capsys.readouterr().out == f"{sink.address} said: 250 2.0.0 seen and forgotten\n"
    out, err, code = sink.end()
    first, second = out.splitlines()
    assert "from me@x.example  to a@x.example, b@x.example" in first and second.strip() == "Subject: Grüße"
    assert "1 message came" in err and code == 0
    [path] = list(sink.dump.iterdir())
    text = path.read_bytes()
    assert text.startswith(b"X-Sink-Helo: ") and b"X-Sink-To: b@x.example\r\n" in text
    assert text.endswith(b"\r\n\r\nhello\r\n.dot\r\n")


def test_a_message_that_does_not_come_whole_leaves_no_file(sink: Running) -> None:
    """A connection that breaks in the midst of content is no message."""
    with socket.create_connection(("127.0.0.1", sink.port)) as client:
        stream = client.makefile("rwb")
        for line in (b"", b"EHLO x\r\n", b"MAIL FROM:<a@x.example>\r\n", b"RCPT TO:<b@x.example>\r\n", b"DATA\r\n"):
            stream.write(line)
            stream.flush()
            while stream.readline()[3:4] == b"-":
                continue
        stream.write(b"Subject: half\r\n")
        stream.flush()
    with smtplib.SMTP("127.0.0.1", sink.port) as after:
        after.noop()
    out, err, _ = sink.end()
    assert out == "" and "0 messages came" in err and list(sink.dump.iterdir()) == []


def test_a_sink_for_programs(tmp_path: Path) -> None:
    """--json is a row for each message, --quiet only a count at the end."""
    for words in (["--json"], ["--quiet"]):
        running = start(tmp_path, *words)
        with smtplib.SMTP("127.0.0.1", running.port) as client:
            client.sendmail("a@x.example", ["b@x.example"], "Subject: one\r\n\r\nbody\r\n")
            client.sendmail("", ["b@x.example"], "no header\r\n")
        out, err, _ = running.end()
        assert "2 messages came" in err
        rows = [json.loads(line) for line in out.splitlines()]
        assert [(row["sender"], row["subject"]) for row in rows] == (
            [("a@x.example", "one"), ("<>", "")] if words == ["--json"] else []
        )


def test_a_place_that_is_taken_is_said(sink: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit 1."""
    assert main(["sink", "--listen", sink.address]) == 1
    assert f"cannot listen on {sink.address}" in capsys.readouterr().err
    assert main(["sink", "--listen", "nowhere"]) == 1
    assert "has no port" in capsys.readouterr().err


def test_send_says_why_it_could_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody there, a listener that wants TLS at once, an address that is none: one line each, exit 1."""
    config = tmp_path / "x.toml"
    config.write_text(f'[[listener]]\naddress = "127.0.0.1:{free_port()}"\n')
    assert main(["-c", str(config), "send", "--to", "a@x.example"]) == 1
    assert ": Connection refused; is relaymta running?" in capsys.readouterr().err
    config.write_text('[[listener]]\naddress = "127.0.0.1:465"\ntls = "implicit"\n')
    assert main(["-c", str(config), "send", "--to", "a@x.example"]) == 1
    assert "takes mail in clear and without a log-in; name a server with --server" in capsys.readouterr().err
    assert main(["-c", str(config), "send", "--to", "a@x.example", "--server", "nowhere"]) == 1
    assert '"nowhere" is not an address' in capsys.readouterr().err


REFUSALS = {
    b"MAIL": b"550 5.1.0 not from you",
    b"RCPT": b"550-5.7.1 relaying\r\n550 5.7.1 denied",
    b"DATA": b"451 4.3.0 later",
}


@pytest.mark.parametrize("verb", REFUSALS)
def test_send_shows_what_the_server_refused(verb: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server's own words for the sender, a recipient or the message, on one line; also over a UNIX socket."""
    path = tmp_path / "smtp"

    def serve() -> None:
        connection, _ = server.accept()
        with connection, connection.makefile("rwb") as stream:
            stream.write(b"220 here\r\n")
            stream.flush()
            for line in stream:
                stream.write((REFUSALS[verb] if line.upper().startswith(verb) else b"250 ok") + b"\r\n")
                stream.flush()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        assert main(["send", "--server", f"unix:{path}", "--to", "a@x.example"]) == 1
        thread.join()
    error = capsys.readouterr().err
    assert error.startswith("relaymta: ") and error.count("\n") == 1
    assert REFUSALS[verb].replace(b"-", b" ").split()[1].decode() in error


def test_send_wants_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    """What is no address is told before anybody is asked."""
    for words in (["--to", "a b@x.example"], ["--to", "a@x.example", "--from", "a b@x.example"]):
        assert main(["send", *words]) == 1
        assert "is not an address" in capsys.readouterr().err


def test_send_goes_to_the_first_listener(sink: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --server it is the configuration's, and the reply is a row for programs."""
    config = tmp_path / "x.toml"
    config.write_text(f'hostname = "host.example"\n[[listener]]\naddress = "0.0.0.0:{sink.port}"\n')
    assert main(["-c", str(config), "send", "--to", "a@x.example", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["to"] == ["a@x.example"] and row["reply"].startswith("250 ")
    out, _, _ = sink.end()
    assert "@host.example" in out.splitlines()[0]


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        (b"Subject: plain", "plain"),
        (b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        (b"Subject: folded\r\n here", "folded here"),
        (b"Subject: =?nonsense?q?x?=", "=?nonsense?q?x?="),
        ("Subject: über".encode(), "über"),
        (b"X: no subject", ""),
    ],
)
def test_a_subject_for_people(field: bytes, shown: str) -> None:
    """Encoded words are read (RFC 2047), and what cannot be read is shown as it came."""
    assert subject(field + b"\r\n\r\nSubject: body") == shown
