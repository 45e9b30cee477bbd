"""TLS on the way in, as other people's clients see the real daemon: openssl s_client, swaks, Python's ssl."""

from __future__ import annotations

import os
import pwd
import re
import resource
import shutil
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define

from tests.net.certificates import Made, make
from tests.peers.client import Client
from tests.peers.daemon import Daemon
from tests.peers.postbox import Postbox
from tests.peers.programs import Swaks, free_port, program, wait_until

CA = make(ca=True, kind="rsa", common_name="authority")
LISTED = make("listed.example")
SIGNED = make("app.example", by=CA)
STRANGER = make("app.example", kind="ec-other")

MORE = """
[[listener]]
name = "required"
address = "127.0.0.1:{required}"
tls = "required"
[[listener]]
name = "implicit"
address = "127.0.0.1:{implicit}"
tls = "implicit"
{listener}
[tls]
certificate = "{folder}/first.pem"
key = "{folder}/first.key"
[[certificate]]
certificate = "{folder}/second.pem"
key = "{folder}/second.key"
"""


@define
class Place:
    """A relay with a listener of each kind, and where its mail goes."""

    folder: Path
    daemon: Daemon
    sink: Postbox
    required: int
    implicit: int

    def own(self, made: Made) -> list[str]:
        """Options for swaks to show this certificate."""
        certificate, key = made.write(self.folder, f"client-{made.fingerprint}")
        return ["--tls-cert", certificate, "--tls-key", key]


def start(folder: Path, sink: Postbox, *, workers: int = 0, listener: str = "", relay: str = "") -> Place:
    """Start it."""
    place = Place(folder, Daemon(folder / "relay", sink=sink.port), sink, free_port(), free_port())
    make("relay.example.org").write(folder, "first")
    make("other.example.net", kind="rsa").write(folder, "second")
    (folder / "ca.pem").write_bytes(CA.pem)
    place.daemon.extra = MORE.format(
        folder=folder, required=place.required, implicit=place.implicit, listener=listener
    )
    place.daemon.tls, place.daemon.workers, place.daemon.networks = "starttls", workers, "192.0.2.0/24"
    place.daemon.listener, place.daemon.relay, place.daemon.domains = listener, relay, '"example.org"'
    place.daemon.start()
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Two workers; nobody relays by address, some do by certificate."""
    folder = tmp_path_factory.mktemp("tls")
    with Postbox() as sink:
        made = start(
            folder,
            sink,
            workers=2,
            listener=f'tls_client_ca = "{folder}/ca.pem"\n',
            relay=f'certificates = ["{LISTED.fingerprint.upper()}"]\ncertificate_names = ["app.example"]\n',
        )
        yield made
        made.daemon.stop()


def s_client(port: int, *options: str, given: str = "EHLO x\r\nQUIT\r\n", seconds: float = 20.0) -> str:
    """What openssl's client sees."""
    words = [program("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof", *options]
    done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=seconds, check=False)
    return done.stdout + done.stderr


def said(swaks: Swaks, port: int, *options: str, to: str = "a@example.org") -> str:
    """What swaks sees; the test is skipped where its Perl has no TLS."""
    transcript = swaks(port, "--from", "b@example.net", "--to", to, *options).transcript
    if "requires Net::SSLeay" in transcript:
        pytest.skip("swaks speaks no TLS here (apt-get install libnet-ssleay-perl)")
    return transcript


# Kinds of listener


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_swaks_starttls(place: Place, swaks: Swaks, version: str) -> None:
    """A message over STARTTLS arrives, and its Received field says by which TLS (RFC 3848: ESMTPS)."""
    before = len(place.sink.taken)
    words = said(swaks, place.daemon.port, "--tls", "--tls-protocol", f"tlsv{version.replace('.', '_')}")
    assert f"=== TLS started with cipher TLSv{version}:" in words and "<~  250 2.0.0 queued as " in words
    taken = place.sink.wait_for(before + 1)[-1]
    trace = taken.content.partition(b"\r\nDate:")[0]
    assert re.search(rb"\r\n\t\(using TLSv%b [A-Z0-9_-]+ 256\)\r\n" % version.encode(), trace)
    assert b" with ESMTPS id " in trace.replace(b"\r\n\t", b" ")


def test_swaks_tls_on_connect(place: Place, swaks: Swaks) -> None:
    """A message over implicit TLS arrives (RFC 8314 §3.3)."""
    words = said(swaks, place.implicit, "--tls-on-connect")
    assert "=== TLS started" in words and "<~  250 2.0.0 queued as " in words


def test_swaks_where_tls_is_required(place: Place, swaks: Swaks) -> None:
    """530 in clear, and a message under TLS (RFC 3207 §4)."""
    assert "<** 530 5.7.0 Must issue a STARTTLS command first" in said(swaks, place.required)
    assert "<~  250 2.0.0 queued as " in said(swaks, place.required, "--tls")


def test_s_client_sees_no_starttls_under_tls(place: Place) -> None:
    """What EHLO offered in clear is offered anew, but for STARTTLS (RFC 3207 §4.2)."""
    words = s_client(place.daemon.port, "-starttls", "smtp")
    assert "250-PIPELINING" in words and "221 2.0.0 bye" in words
    assert words.count("STARTTLS") == 1  # s_client itself shows the last line that it heard in clear


def test_the_certificate_follows_the_name(place: Place) -> None:
    """By server name indication, over both kinds of TLS; a stranger's name gets the first."""
    for port, options in ((place.implicit, []), (place.daemon.port, ["-starttls", "smtp"])):
        for name in ("other.example.net", "relay.example.org", "stranger.test"):
            kind = "RSA-PSS" if name.endswith(".net") else "ECDSA"
            words = s_client(port, *options, "-servername", name)
            assert f"Peer signature type: {kind}" in words, words
    wait_until("the event", lambda: "server_name=stranger.test" in place.daemon.log())


def test_old_versions_are_refused_and_told(place: Place) -> None:
    """TLS 1.1 ends in an alert, and the log says what was wrong."""
    words = s_client(place.implicit, "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0")
    assert "220 " not in words
    wait_until("the event", lambda: " tls-failed listener=implicit " in place.daemon.log())


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_nothing_is_resumed(place: Place, tmp_path: Path, version: str) -> None:
    """A session that a client brings back is answered with a whole handshake, whichever worker it comes to."""
    file = str(tmp_path / "session")
    assert "\nNew, TLSv1" in s_client(place.implicit, version, "-sess_out", file)
    if not Path(file).exists():
        return  # nothing that could be brought back
    for _ in range(4):
        words = s_client(place.implicit, version, "-sess_in", file)
        assert "\nReused, " not in words and "\nNew, TLSv1" in words and "220 relay.example.org" in words


def test_renegotiation_is_refused(place: Place) -> None:
    """A TLS 1.2 client that asks for another handshake in the midst of a session does not get one."""
    words = [program("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{place.implicit}", "-tls1_2"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None and process.stdout is not None
        seen = b""
        while b"220 relay" not in seen:
            octets = os.read(process.stdout.fileno(), 65536)
            assert octets, seen
            seen += octets
        process.stdin.write(b"R\n")
        process.stdin.flush()
        seen = process.stdout.read()
        process.stdin.close()
    assert b"RENEGOTIATING" in seen and b"no renegotiation" in seen


# Client certificates


@pytest.mark.parametrize(
    ("own", "may"),
    [(None, False), (LISTED, True), (SIGNED, True), (STRANGER, False)],
    ids=["none", "listed", "signed", "stranger"],
)
def test_a_client_certificate_may_relay(place: Place, swaks: Swaks, own: Made | None, may: bool) -> None:
    """By a listed fingerprint though it signed itself, or by a name that our authority signed; others are strangers."""
    options = place.own(own) if own is not None else []
    for port, how in ((place.daemon.port, "--tls"), (place.implicit, "--tls-on-connect")):
        words = said(swaks, port, how, *options, to="x@elsewhere.example")
        assert ("<~  250 2.0.0 queued as " in words) is may
        assert ("<~* 550 5.7.1 relaying denied" in words) is not may
    if own is not None:
        names = "app.example" if own is SIGNED else ""
        line = f"certificate={own.fingerprint} names={names}"
        wait_until("the event", lambda: f"{line}\n" in place.daemon.log(), instead=place.daemon.log)


def test_received_names_the_certificate(place: Place, swaks: Swaks) -> None:
    """Who relayed by certificate can be found by it."""
    before = len(place.sink.taken)
    said(swaks, place.daemon.port, "--tls", *place.own(LISTED), to="x@elsewhere.example")
    trace = place.sink.wait_for(before + 1)[-1].content
    assert b";\r\n\t client certificate " + LISTED.fingerprint.encode() + b")\r\n" in trace


# Bad input


@pytest.mark.parametrize("behind", [b"NOOP\r\n", b"MAIL FROM:<a@evil.test>\r\nDATA\r\n", b"N", b"\x16"])
def test_what_follows_starttls_in_clear_is_refused(place: Place, behind: bytes) -> None:
    """CVE-2011-0411: 554, and the connection is closed; nothing of it is obeyed under TLS."""
    with Client(place.daemon.port) as client:
        client.say("EHLO x")
        client.send(b"STARTTLS\r\n" + behind)
        assert client.reply() == "554 5.5.1 nothing may follow STARTTLS in clear"
        assert client.reply() == ""


def test_garbage_in_place_of_a_handshake(place: Place) -> None:
    """Clear text, and TLS records full of nonsense, end the connection without a reply in SMTP."""
    hello = b"\x16\x03\x01\x02\x00\x01"
    for octets in (b"EHLO x\r\nQUIT\r\n" * 50, hello + b"\xff" * 600, b"\x80\x2e\x01\x00\x02" * 9):
        with socket.create_connection(("127.0.0.1", place.implicit), 10) as sock:
            sock.sendall(octets)
            heard = b""
            try:
                while more := sock.recv(65536):
                    heard += more
            except ConnectionResetError:
                pass
        assert b"220" not in heard and b"250" not in heard
    assert place.daemon.alive


def test_a_handshake_has_a_limit(tmp_path: Path) -> None:
    """Over STARTTLS and implicit TLS: who does not go on is cut, and the log says why."""
    with Postbox() as sink:
        made = start(tmp_path, sink, listener='[listener.timeouts]\nhandshake = "200ms"\n')
        try:
            for port, starttls in ((made.daemon.port, True), (made.implicit, False)):
                with stall(port, starttls=starttls, octets=b"\x16\x03\x01") as sock:
                    try:
                        assert sock.recv(100) == b""
                    except ConnectionResetError:
                        pass
            log, told = made.daemon.log, 'client=127.0.0.1 reason="the TLS handshake took too long"\n'
            wait_until("both events", lambda: log().count(told) == 2, 20, log)
        finally:
            made.daemon.stop()


# Files that change


def serial(port: int) -> str:
    """The serial number of the certificate that is shown."""
    found = re.search(r"serial=([0-9A-F]+)", s_x509(s_client(port)))
    return found[1] if found else ""


def s_x509(text: str) -> str:
    """A certificate in words."""
    words = [program("openssl", "openssl"), "x509", "-noout", "-serial"]
    return subprocess.run(words, input=text, capture_output=True, text=True, timeout=20, check=False).stdout


def test_new_files_come_into_force_while_sessions_go_on(place: Place) -> None:
    """All workers show the new certificate, the session that was there ends when it wants, and a bad pair is told."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", place.implicit), 20) as sock, context.wrap_socket(sock) as inside:
        assert inside.recv(1000).startswith(b"220 ")
        new = make("relay.example.org", days=20)
        new.write(place.folder, "first")
        log, loaded = place.daemon.log, f"certificate-loaded file={place.folder}/first.pem"
        wait_until("both workers", lambda: log().count(loaded) == 2, 20, log)
        assert {int(serial(place.implicit), 16) for _ in range(6)} == {new.certificate.serial_number}
        inside.sendall(b"NOOP\r\n")
        assert inside.recv(1000) == b"250 2.0.0 ok\r\n"
    [row] = place.daemon.ask("stats")
    assert row["certificates"][f"{place.folder}/first.pem"] == {"days_left": 19, "names": "relay.example.org"}
    shown = place.daemon.run("relaymta", "stats", "-c", str(place.daemon.configuration)).stdout
    assert re.search(rf"days left to {place.folder}/first.pem +19\n", shown)
    make("relay.example.org", kind="ec-other").write(place.folder / "bad", "bad")
    shutil.copy(place.folder / "bad" / "bad.pem", place.folder / "first.pem")
    refused = f"certificate-refused file={place.folder}/first.key reason=\"is not the key of {place.folder}/first.pem\""
    wait_until("both workers", lambda: log().count(refused) == 2, 20, log)
    assert int(serial(place.implicit), 16) == new.certificate.serial_number
    done = place.daemon.run("relaymta", "check", "-c", str(place.daemon.configuration))
    assert done.returncode == 1 and "tls.key: " in done.stderr and "is not the key of" in done.stderr
    done = place.daemon.run("relaymta", "reload", "-c", str(place.daemon.configuration))
    assert done.returncode == 1 and "is not the key of" in done.stderr
    new.write(place.folder, "first")
    assert place.daemon.run("relaymta", "check", "-c", str(place.daemon.configuration)).returncode == 0
    assert place.daemon.run("relaymta", "reload", "-c", str(place.daemon.configuration)).returncode == 0
    assert int(serial(place.implicit), 16) == new.certificate.serial_number


@define
class AsNobody(Daemon):
    """A relay that becomes the user nobody."""

    def write(self, **changes: object) -> None:
        """Write the configuration."""
        super().write(**changes)
        text = self.configuration.read_text().replace('user     = ""', 'user     = "nobody"')
        self.configuration.write_text(text)


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes somebody else")
def test_a_daemon_that_gave_up_root_reads_its_key_again() -> None:
    """Refused at the start where it could not; with the group's right it follows a renewal as that user."""
    folder = Path(tempfile.mkdtemp(prefix="relaymta-tls-"))
    folder.chmod(0o755)
    certificate, key = make("relay.example.org").write(folder, "first")
    daemon = AsNobody(folder / "relay", tls="starttls")
    daemon.extra = f'\n[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
    try:
        daemon.launch()
        assert daemon.wait(30) != 0
        assert f"tls.key: {key}: cannot be read by the user nobody" in daemon.log()
        os.chown(key, -1, pwd.getpwnam("nobody").pw_gid)
        os.chmod(key, 0o640)
        os.chown(folder / "relay", pwd.getpwnam("nobody").pw_uid, -1)
        daemon.start()
        assert pwd.getpwuid(Path(f"/proc/{daemon.pid}").stat().st_uid).pw_name == "nobody"
        make("relay.example.org").write(folder, "first", mode=0o640)
        wait_until("the new one", lambda: "certificate-loaded" in daemon.log(), 20, daemon.log)
    finally:
        daemon.stop()
        shutil.rmtree(folder)


def test_a_reload_turns_tls_on_and_off(tmp_path: Path) -> None:
    """In one process: STARTTLS is offered from a reload on, with another minimum from the next, and then no more."""
    certificate, key = make("relay.example.org").write(tmp_path, "first")
    table = f'\n[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
    daemon = Daemon(tmp_path / "relay", extra=table).start()

    def put_in_force(**changes: str) -> str:
        daemon.write(**changes)
        daemon.ask("reload")
        return s_client(daemon.port, "-starttls", "smtp", "-tls1_2")

    try:
        with Client(daemon.port) as client:
            assert "STARTTLS" not in client.say("EHLO x")
        assert "New, TLSv1.2, " in put_in_force(tls="starttls")
        assert "New, TLSv1.2, " not in put_in_force(extra=f'{table}minimum = "1.3"\n')
        assert "New, TLSv1.3, " in s_client(daemon.port, "-starttls", "smtp")
        put_in_force(tls="none")
        with Client(daemon.port) as client:
            assert "STARTTLS" not in client.say("EHLO x")
    finally:
        daemon.stop()


# Half-open handshakes


def honest(port: int, context: ssl.SSLContext) -> float:
    """Seconds that a whole session over STARTTLS takes, up to the reply to RCPT."""
    begun = time.monotonic()
    with Client(port) as client:
        client.say("EHLO x")
        assert client.say("STARTTLS").startswith("220")
        client._sock = context.wrap_socket(client._sock)
        client._stream = client._sock.makefile("rb")
        client.begin()
    return time.monotonic() - begun


def client_hello(context: ssl.SSLContext) -> bytes:
    """The first flight of a client, to which a server answers with a key exchange and a signature."""
    outgoing = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def stall(port: int, *, starttls: bool, octets: bytes) -> socket.socket:
    """A connection whose handshake has begun and does not go on."""
    sock = socket.create_connection(("127.0.0.1", port), 20)
    if starttls:
        for line in (b"", b"EHLO x\r\n", b"STARTTLS\r\n"):
            sock.sendall(line)
            while not re.search(rb"(?m)^\d{3} .*\r\n\Z", sock.recv(4096)):
                pass
    sock.sendall(octets)
    return sock


def test_500_half_open_handshakes_delay_nobody(tmp_path: Path) -> None:
    """An honest client waits no 100 ms longer beside them, in one process that has them all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sockets: list[socket.socket] = []
    with Postbox() as sink:
        made = start(tmp_path, sink, listener="[listener.limits]\nconnections_per_client = 0\n")
        port = made.daemon.port
        try:
            alone = statistics.median(honest(port, context) for _ in range(15))
            whole = client_hello(context)
            for number in range(500):
                starttls, octets = number % 2 == 0, (b"", whole[:5], whole[:90], whole)[number // 2 % 4]
                sockets.append(stall(port if starttls else made.implicit, starttls=starttls, octets=octets))
            [row] = made.daemon.ask("stats")
            assert row["sessions"]["test"] + row["sessions"]["implicit"] == 500
            beside = statistics.median(honest(port, context) for _ in range(15))
            [row] = made.daemon.ask("stats")
            assert row["sessions"]["test"] + row["sessions"]["implicit"] >= 500
        finally:
            for sock in sockets:
                sock.close()
            made.daemon.stop()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert beside - alone < 0.1, (alone, beside)
