"""sendmail(1): every flag that programs use, and exit 0 only for mail that is safe."""

from __future__ import annotations

import io
import os
import pwd
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from relaymta.admin.drop import prepare
from relaymta.admin.dropfile import Submission, read
from relaymta.cli import sendmail
from relaymta.cli.sendmail import UsageError, mailq, main, newaliases, read_options
from relaymta.mail.address import Address
from relaymta.mail.envelope import Body, Notify, Ret

ME = pwd.getpwuid(os.getuid()).pw_name
MESSAGE = b"Subject: x\n\nbody\n"


class Place:
    """An installation whose daemon is down."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.config = folder / "relaymta.toml"
        self.config.write_text(
            f'hostname = "host.example"\nspool = "{folder}/spool"\n[[listener]]\naddress = "unix:{folder}/smtp"\n'
            f'[admin]\nsocket = "{folder}/control"\n'
        )
        self.drop = folder / "spool" / "drop"
        prepare(str(self.drop))
        self._patch = monkeypatch

    def call(self, *words: str, text: bytes = MESSAGE) -> int:
        """Call sendmail with `text` on standard input."""
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        return main(["-C", str(self.config), *words])

    def left(self) -> tuple[Submission, bytes]:
        """The one message that was left."""
        [name] = [name for name in os.listdir(self.drop) if name.endswith(".mail")]
        submission, octets, uid = read(str(self.drop / name), 100_000)
        assert uid == os.getuid()
        return submission, octets

    def nothing(self) -> bool:
        """Whether no trace of a message was left."""
        return os.listdir(self.drop) == ["bad"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An installation."""
    return Place(tmp_path, monkeypatch)


def test_a_message_to_a_recipient(place: Place) -> None:
    """The plainest call: sender and From are the user at this host."""
    assert place.call("b@example.com") == 0
    submission, octets = place.left()
    assert submission == Submission(Address(ME, "host.example"), (Address("b", "example.com"),))
    assert octets.endswith(b"Subject: x\r\n\r\nbody\r\n")
    assert b"<" + ME.encode() + b"@host.example>" in octets


def test_recipients_out_of_the_header(place: Place) -> None:
    """-t takes To, Cc and Bcc beside the command line's, each once, and Bcc out of the message."""
    text = b"To: a@x.example, b@x.example\nCc: C <c@x.example>\nBcc: d@x.example\n\nbody\n"
    assert place.call("-t", "-oi", "b@x.example", text=text) == 0
    submission, octets = place.left()
    assert [one.local for one in submission.recipients] == ["b", "a", "c", "d"]
    assert b"d@x.example" not in octets


@pytest.mark.parametrize(
    "words", [["-f", "s@example.org"], ["-fs@example.org"], ["-r", "s@example.org"], ["-f", "S <s@example.org>"]]
)
def test_the_envelope_sender(place: Place, words: list[str]) -> None:
    """-f and its old name -r, attached or not."""
    assert place.call(*words, "b@example.com") == 0
    assert place.left()[0].sender == Address("s", "example.org")


@pytest.mark.parametrize("null", ["<>", ""])
def test_the_null_sender(place: Place, null: str) -> None:
    """A notice of a program's own has no sender, so that nothing comes back."""
    assert place.call("-f", null, "b@example.com") == 0
    submission, octets = place.left()
    assert submission.sender is None and b"From: " in octets


def test_the_full_name(place: Place) -> None:
    """-F is for a From field that is missing."""
    assert place.call("-F", "Cron Daemon", "b@example.com") == 0
    assert b"From: Cron Daemon <" in place.left()[1]


def test_names_alone_are_at_this_host(place: Place) -> None:
    """cron writes to root, and a sender may be a name too."""
    assert place.call("-f", "www", "root") == 0
    submission, _ = place.left()
    assert (submission.sender, submission.recipients) == (
        Address("www", "host.example"),
        (Address("root", "host.example"),),
    )


@pytest.mark.parametrize("flag", ["-i", "-oi"])
def test_a_lone_dot_is_content_with_i(place: Place, flag: str) -> None:
    """Without -i it would end the message."""
    assert place.call(flag, "b@example.com", text=b"a: b\n\none\n.\ntwo\n") == 0
    assert place.left()[1].endswith(b"one\r\n.\r\ntwo\r\n")


def test_a_lone_dot_ends_the_message_without_i(place: Place) -> None:
    """As it always did."""
    assert place.call("b@example.com", text=b"a: b\n\none\n.\ntwo\n") == 0
    assert place.left()[1].endswith(b"one\r\n")


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        ("never", Notify.NEVER),
        ("success,failure,delay", Notify(14)),
        ("Delay", Notify.DELAY),
        ("failure, delay", Notify(12)),
    ],
)
def test_which_notices_are_wanted(place: Place, value: str, asked: Notify) -> None:
    """-N is NOTIFY (RFC 3461 §4.1)."""
    assert place.call("-N", value, "b@example.com") == 0
    assert place.left()[0].notify == asked


def test_what_notices_return_and_their_id(place: Place) -> None:
    """-R is RET, -V is ENVID (RFC 3461 §4.3, §4.4)."""
    assert place.call("-R", "hdrs", "-V", "batch+7", "b@example.com") == 0
    submission, _ = place.left()
    assert (submission.ret, submission.envid) == (Ret.HDRS, "batch+7")


@pytest.mark.parametrize(
    ("words", "text", "body"),
    [
        (["-B8BITMIME"], MESSAGE, Body.EIGHTBIT),
        (["-B", "7bit"], MESSAGE, Body.SEVENBIT),
        ([], MESSAGE, Body.SEVENBIT),
        ([], "a: b\n\nü\n".encode(), Body.EIGHTBIT),
        (["-B7BIT"], "a: b\n\nü\n".encode(), Body.EIGHTBIT),
    ],
)
def test_the_type_of_the_body(place: Place, words: list[str], text: bytes, body: Body) -> None:
    """-B is BODY; eight bits are never called seven (RFC 6152)."""
    assert place.call(*words, "b@example.com", text=text) == 0
    assert place.left()[0].body is body


def test_an_address_in_utf8_needs_smtputf8(place: Place) -> None:
    """RFC 6531 §3.1; its domain alone would not."""
    assert place.call("пример@bücher.example") == 0
    submission, _ = place.left()
    assert submission.smtputf8 and submission.recipients[0].domain == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    "words",
    [
        ["-oem", "-odb", "-om"], ["-o", "ew"], ["-O", "QueueDirectory=/x"], ["-v"], ["-m"], ["-n"], ["-U"], ["-G"],
        ["-q"], ["-q30m"], ["-d0.1"], ["-em"], ["-h", "5"], ["-L", "tag"], ["-X", "/dev/null"], ["-x"], ["-Am"],
        ["-bm"], ["-p", "ESMTP"], ["-E"],
    ],
)  # fmt: skip
def test_flags_of_other_mailers_are_taken_and_ignored(place: Place, words: list[str]) -> None:
    """Programs written for other mailers keep working."""
    assert place.call(*words, "--", "b@example.com") == 0
    assert [one.local for one in place.left()[0].recipients] == ["b"]


def test_flags_in_one_word(place: Place) -> None:
    """-ti is -t -i, and -- ends the options."""
    assert place.call("-ti", "-f", "s@example.org", "--", text=b"To: b@example.com\n\n.\nx\n") == 0
    submission, octets = place.left()
    assert submission.recipients == (Address("b", "example.com"),) and octets.endswith(b"\r\n.\r\nx\r\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-Z"], "option -Z not recognized"),
        (["-f"], "option -f requires argument"),
        ([], "no recipients"),
        (["-bd"], "twistd relaymta"),
        (["-bv", "x"], "not verified"),
        (["-bq"], "no such mode"),
        (["-N", "sometimes", "x"], '"never", or a list'),
        (["-N", "never,delay", "x"], '"never", or a list'),
        (["-R", "half", "x"], '"full" or "hdrs"'),
        (["-B", "BINARYMIME", "x"], '"7BIT" or "8BITMIME"'),
        (["-V", "a\nb", "x"], "printable ASCII"),
        (["-V", "x" * 101, "x"], "at most 100"),
    ],
)
def test_wrong_usage_is_64(place: Place, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    """EX_USAGE with one line, and nothing is left behind."""
    assert place.call(*words) == 64
    error = capsys.readouterr().err
    assert said in error and error.startswith("sendmail: ") and error.count("\n") == 1
    assert place.nothing()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["b@exa mple.com"], MESSAGE),
        (["a@x.example b@x.example"], MESSAGE),
        (["-f", "a@x.example, b@x.example", "c@x.example"], MESSAGE),
        (["-f", "a@", "c@x.example"], MESSAGE),
        (["-t"], b"To: a@x.example)b@x.example\n\n"),
        (["-t"], b"To: \xfc@x.example\n\n"),
        (["b@x.example"], b"a\0b"),
    ],
)
def test_what_cannot_be_sent_is_65(
    place: Place, capsys: pytest.CaptureFixture[str], words: list[str], text: bytes
) -> None:
    """EX_DATAERR: an address is never guessed, and a message never changed in silence."""
    assert place.call(*words, text=text) == 65
    assert capsys.readouterr().err.startswith("sendmail: ") and place.nothing()


def test_a_directory_that_is_not_there_is_75(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """EX_TEMPFAIL: the caller keeps the message and comes again."""
    shutil.rmtree(place.drop)
    assert place.call("b@example.com") == 75
    assert "relaymta was never started with" in capsys.readouterr().err


def test_a_disk_that_refuses_is_75(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same when the message cannot be made durable."""

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sendmail, "leave", full)
    assert place.call("b@example.com") == 75
    assert "No space left on device" in capsys.readouterr().err


def test_newaliases_has_nothing_to_do(place: Place) -> None:
    """Installers call it; it is always up to date. So is `sendmail -q` and -I."""
    assert newaliases([]) == 0
    assert place.call("-q") == 0 and place.call("-I") == 0 and place.call("-bi") == 0 and place.nothing()


def test_mailq_without_a_daemon_is_69(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """EX_UNAVAILABLE, with where nobody answered."""
    assert mailq(["-C", str(place.config)]) == 69
    assert capsys.readouterr().err == f"sendmail: relaymta is not running (no answer at {place.folder}/control)\n"


def test_options_and_recipients_are_told_apart() -> None:
    """What stands behind -- is a recipient, whatever it looks like."""
    request = read_options(["-t", "--", "-f", "-q"])
    assert request.recipients == ["-f", "-q"] and request.sender is None and request.from_header
    with pytest.raises(UsageError):
        read_options(["-f"])


def converse(place: Place, words: bytes, server: socket.socket) -> subprocess.CompletedProcess[bytes]:
    """`sendmail -bs` as a process, against a listener that says what it got."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"220 here\r\n")
            got = b""
            while octets := connection.recv(1000):
                got += octets
            connection.sendall(b"250 got %d octets\r\n" % len(got))

    thread = threading.Thread(target=serve)
    thread.start()
    done = subprocess.run(
        [sys.executable, "-m", "relaymta.cli.sendmail", "-C", str(place.config), "-bs"],
        input=words, capture_output=True, timeout=30,
    )  # fmt: skip
    thread.join()
    return done


def test_bs_speaks_with_the_listener(place: Place) -> None:
    """Octets go both ways untouched, and the answer to the last command is not lost at the end of input."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place.folder / "smtp"))
        server.listen()
        done = converse(place, b"EHLO x\r\n" + b"y" * 300_000, server)
    assert done.stdout == b"220 here\r\n250 got 300008 octets\r\n" and done.returncode == 0


def test_bs_without_a_daemon_says_so_in_smtp(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """421 for the program that speaks, 75 for the one that called."""
    assert place.call("-bs") == 75
    assert capsys.readouterr().out == "421 4.3.0 relaymta is not running\r\n"


def test_the_entry_points_are_there() -> None:
    """`sendmail`, `mailq` and `newaliases` are functions without arguments for setup.cfg."""
    for entry in (main, mailq, newaliases):
        assert callable(entry) and all(default is None for default in (entry.__defaults__ or ()))


def test_sendmail_starts_without_twisted() -> None:
    """A program that sends a thousand messages starts it a thousand times."""
    source = "import sys, relaymta.cli.sendmail; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30).stdout.split()
    assert [name for name in loaded if name.split(".")[0] in ("twisted", "cattrs", "rich", "asyncio")] == []


@pytest.mark.parametrize(("size", "status"), [('"10KB"', 65), ('"0B"', 0), ('"25MB"', 0), ("7", 0)])
def test_a_message_that_would_never_be_taken_is_refused_at_once(place: Place, size: str, status: int) -> None:
    """The daemon put it aside when sendmail had long said that all was well."""
    text = place.config.read_text().replace("[[listener]]\n", f"[[listener]]\nmax_message_size = {size}\n")
    place.config.write_text(text)
    assert place.call("b@example.com", text=b"Subject: x\n\n" + b"x" * 10_000 + b"\n") == status
    assert place.nothing() is bool(status)
