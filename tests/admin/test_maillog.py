"""The mail log: buffered, rotated, and never in the way of mail."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from twisted.internet.task import Clock

from relaymta.admin.maillog import FLUSH_OCTETS, FLUSH_SECONDS, KEEP_OCTETS, Format, MailLog
from relaymta.events import LaneResumed, MessageAccepted, RecipientSettled, TlsChecked

EVENT = LaneResumed("discard")
AT = 1795464000.125  # 2026-11-23T20:00:00Z and a bit


@pytest.fixture
def clock() -> Clock:
    """A clock at a known time."""
    made = Clock()
    made.advance(AT)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the log is."""
    return tmp_path / "logs" / "mail.log"


def log_at(file: Path, clock: Clock, format: Format = Format.TEXT) -> MailLog:
    """A log that writes to `file`."""
    return MailLog(str(file), clock.seconds, clock.callLater, format)


def test_a_line_is_time_and_event(file: Path, clock: Clock) -> None:
    """The time is UTC with milliseconds, as RFC 3339 writes it."""
    log = log_at(file, clock)
    log(EVENT)
    log.close()
    assert file.read_text() == "2026-11-23T20:00:00.125Z - lane-resumed lane=discard\n"


def test_json_lines_have_the_same_facts(file: Path, clock: Clock) -> None:
    """One object a line, the time first."""
    log = log_at(file, clock, Format.JSON)
    log(EVENT)
    log.close()
    assert json.loads(file.read_text()) == {
        "time": "2026-11-23T20:00:00.125Z",
        "event": "lane-resumed",
        "lane": "discard",
    }


def test_the_text_of_a_second_does_not_outlive_it(file: Path, clock: Clock) -> None:
    """A time stamp is made once a second, and anew in the next."""
    log = log_at(file, clock)
    for step in (0.0, 0.5, 0.5):
        clock.advance(step)
        log(EVENT)
    log.close()
    assert [line[17:24] for line in file.read_text().splitlines()] == ["00.125Z", "00.625Z", "01.125Z"]


def test_lines_are_written_together_within_a_moment(file: Path, clock: Clock) -> None:
    """Events of one turn cost one write, and wait no longer than FLUSH_SECONDS."""
    log = log_at(file, clock)
    log(EVENT)
    log(EVENT)
    assert file.read_text() == ""
    clock.advance(FLUSH_SECONDS)
    assert file.read_text().count("\n") == 2
    assert clock.getDelayedCalls() == []
    log.close()


def test_many_lines_do_not_wait_for_the_timer(file: Path, clock: Clock) -> None:
    """A full buffer is written at once, so that memory is bounded."""
    log = log_at(file, clock)
    for _ in range(FLUSH_OCTETS // 40):
        log(EVENT)
    assert file.stat().st_size >= FLUSH_OCTETS
    log.close()


def test_a_rotated_file_is_followed(file: Path, clock: Clock) -> None:
    """logrotate renames; the next flush a second later writes to the new file, with no line lost."""
    log = log_at(file, clock)
    log(EVENT)
    clock.advance(FLUSH_SECONDS)
    old = file.with_suffix(".1")
    file.rename(old)
    clock.advance(1)
    log(EVENT)
    clock.advance(FLUSH_SECONDS)
    assert old.read_text().count("\n") == 1 and file.read_text().count("\n") == 1
    log.close()


def test_a_removed_file_is_made_anew(file: Path, clock: Clock) -> None:
    """The same when the file is gone altogether."""
    log = log_at(file, clock)
    file.unlink()
    clock.advance(1)
    log(EVENT)
    log.close()
    assert file.read_text().count("\n") == 1


def test_reopen_goes_with_the_name_at_once(file: Path, clock: Clock) -> None:
    """SIGUSR1: what waited goes to the old file, what comes to the new one."""
    log = log_at(file, clock)
    log(EVENT)
    old = file.with_suffix(".1")
    file.rename(old)
    log.reopen()
    log(EVENT)
    log.close()
    assert old.read_text().count("\n") == 1 and file.read_text().count("\n") == 1


def test_an_old_file_is_better_than_none(file: Path, clock: Clock) -> None:
    """When the new file cannot be opened, the open one is written on."""
    log = log_at(file, clock)
    old = file.with_suffix(".1")
    file.rename(old)
    file.mkdir()
    clock.advance(1)
    log(EVENT)
    log.close()
    assert old.read_text().count("\n") == 1


def test_a_full_disk_never_hurts_mail_and_loses_no_line_for_a_while(file: Path, clock: Clock) -> None:
    """A write that fails is tried again; nothing is raised, and the lines come in order."""
    log = log_at(file, clock)
    with patch.object(os, "write", side_effect=OSError(errno.ENOSPC, "No space left")):
        log(LaneResumed("one"))
        clock.advance(FLUSH_SECONDS)
        log(LaneResumed("two"))
        clock.advance(FLUSH_SECONDS)
    assert file.read_text() == ""
    clock.advance(1)
    assert [line.rpartition("=")[2] for line in file.read_text().splitlines()] == ["one", "two"]
    log.close()


def test_a_short_write_is_continued_where_it_ended(file: Path, clock: Clock) -> None:
    """A disk that takes half a line and then refuses gets the other half later, not the whole again."""
    log = log_at(file, clock)
    real = os.write
    answers = iter([5, OSError(errno.ENOSPC, "No space left")])

    def stingy(fd: int, octets: bytes) -> int:
        answer = next(answers, None)
        if isinstance(answer, OSError):
            raise answer
        return real(fd, octets[:answer] if isinstance(answer, int) else octets)

    with patch.object(os, "write", stingy):
        log(EVENT)
        clock.advance(FLUSH_SECONDS)
        clock.advance(1)
    log.close()
    assert file.read_text() == "2026-11-23T20:00:00.125Z - lane-resumed lane=discard\n"


def test_what_is_given_up_is_counted(file: Path, clock: Clock) -> None:
    """A disk that refuses for long costs the oldest lines, whole ones, and the log says how many."""
    log = log_at(file, clock)
    line = LaneResumed("x" * 1000)
    wrote = KEEP_OCTETS // 1000 + 500
    with patch.object(os, "write", side_effect=OSError(errno.ENOSPC, "No space left")):
        for _ in range(wrote):
            log(line)
        log.flush()
    log.flush()
    log.close()
    lines = file.read_text().splitlines()
    assert " - log-lost lines=" in lines[0]
    assert int(lines[0].rpartition("=")[2]) + len(lines) - 1 == wrote
    assert all(one.endswith("x") and one.startswith("2026-") for one in lines[1:])
    assert file.stat().st_size <= KEEP_OCTETS + 100


def test_standard_output_is_a_dash(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    """ "-" writes to descriptor 1, also when sys.stdout was put elsewhere, and does not close it."""
    log = MailLog("-", clock.seconds, clock.callLater)
    log(EVENT)
    log.close()
    os.fstat(1)
    assert capfd.readouterr().out == "2026-11-23T20:00:00.125Z - lane-resumed lane=discard\n"


def test_a_lone_surrogate_does_not_stop_the_log(file: Path, clock: Clock) -> None:
    """What no UTF-8 can hold is escaped before it comes to the disk."""
    log = log_at(file, clock)
    log(LaneResumed("a\ud800b"))
    log.close()
    assert file.read_text().endswith('lane="a\\ud800b"\n')


def test_others_may_not_read_the_log(file: Path, clock: Clock) -> None:
    """It holds addresses: the owner and a group alone."""
    log_at(file, clock).close()
    assert file.stat().st_mode & 0o027 == 0


@pytest.mark.parametrize("format", Format)
def test_an_event_costs_microseconds(file: Path, format: Format) -> None:
    """Under 6 us an event is the budget; here five times that, since other tests run beside this one."""
    event = MessageAccepted("Q" * 12, "S" * 12, "192.0.2.1", "a@example.org", 1, 4096, "ESMTP", "<a@example.org>", 0.01)
    settled = RecipientSettled(
        "Q" * 12, "relayed", "b@example.com", "2.0.0", "mx.example.com", "192.0.2.7",
        "250 2.0.0 Ok: queued", "smtp:example.com", "", 1, 0.5,
    )  # fmt: skip
    clock = Clock()
    log = MailLog(str(file), time.time, clock.callLater, format)
    best = 1.0
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(1000):
            log(event)
            log(settled)
        best = min(best, (time.perf_counter() - begin) / 2000)
    log.close()
    assert best < 30e-6


def test_sessions_that_broke_a_policy_are_written_and_the_others_are_not(file: Path, clock: Clock) -> None:
    """Each connection tells what came of TLS; a line a connection would drown the rest."""
    log = log_at(file, clock)
    for policy, result in (("sts", ""), ("no-policy-found", "starttls-not-supported"), ("tlsa", "certificate-expired")):
        log(TlsChecked("b.test", policy, ("3 1 1 00",), "mx.b.test", (), "", "192.0.2.1", result, ""))
    log.close()
    [line] = file.read_text().splitlines()
    assert "tls-checked" in line and "result=certificate-expired" in line
