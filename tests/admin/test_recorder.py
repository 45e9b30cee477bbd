"""The recorder: a message's story out of a bounded memory."""

from __future__ import annotations

from relaymta.admin.recorder import Recorder
from relaymta.events import (
    AuthenticationFailed,
    Event,
    LaneResumed,
    MessageAccepted,
    MessageFinished,
    NoticeQueued,
    SessionClosed,
    SessionOpened,
    TlsStarted,
)

STORY: list[Event] = [
    SessionOpened("S1", "mx", "192.0.2.7", 4711),
    SessionOpened("S2", "mx", "192.0.2.8", 4711),
    MessageAccepted("Q1", "S1", "192.0.2.7", "a@example.org", 1, 10, "ESMTP", "", 0.1),
    LaneResumed("smtp:example.org"),
    NoticeQueued("Q1", "Q9", "failed", "a@example.org", 1),
    MessageFinished("Q1", 0.2),
    MessageFinished("Q9", 0.2),
    MessageFinished("Q2", 0.2),
    SessionClosed("S1", "192.0.2.7", "x", 1, 5, 0.3, "quit"),
]


def test_what_clients_did_is_counted() -> None:
    """For `relaymta stats`: whether they speak TLS and can log in, also of events that are no longer remembered."""
    full = Recorder(lambda: 0.0, size=1)
    for event in (
        TlsStarted("S1", "192.0.2.7", "TLSv1.3", "", "", ""),
        AuthenticationFailed("S1", "192.0.2.7", "app", "PLAIN", "wrong credentials", 1),
        AuthenticationFailed("S1", "192.0.2.7", "app", "PLAIN", "wrong credentials", 2),
        *STORY,
    ):
        full(event)
    assert {name: count for name, count in full.counts.items() if count} == {"under_tls": 1, "logins_failed": 2}


def recorder(size: int = 100) -> Recorder:
    """A recorder that heard the story, one event a second."""
    now = iter(range(1000))
    made = Recorder(lambda: float(next(now)), size)
    for event in STORY:
        made(event)
    return made


def test_a_queue_id_brings_its_session_and_its_notices() -> None:
    """Why a message was refused or bounced is told from the client's first word to the notice's last."""
    assert [at for at, _ in recorder().trace("Q1")] == [0, 2, 4, 5, 6, 8]


def test_a_session_id_brings_what_has_it() -> None:
    """A refusal has no queue id; its session ties its lines together."""
    assert [at for at, _ in recorder().trace("S1")] == [0, 8]


def test_nothing_known_is_no_events() -> None:
    """An id that nobody heard of is an empty story; so is no id at all."""
    assert list(recorder().trace("Q7")) == [] and list(recorder().trace("")) == []


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    """A recorder of three events knows the last three."""
    assert [at for at, _ in recorder(3).trace("Q1")] == [8] or [at for at, _ in recorder(3).trace("S1")] == [8]


def test_a_recorder_of_nothing_is_allowed() -> None:
    """`history = 0` keeps nothing."""
    assert list(recorder(0).trace("Q1")) == []
