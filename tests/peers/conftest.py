"""Fixtures for tests with other people's programs on loopback; each skips with the reason where one is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers.daemon import Daemon
from tests.peers.programs import SmtpSink, SmtpSource, Swaks, program


@pytest.fixture
def smtp_sink(tmp_path: Path) -> Iterator[Callable[..., SmtpSink]]:
    """Starts smtp-sinks: smtp_sink("-f", "DATA", host="127.0.0.7"). All are ended after the test."""
    path = program("smtp-sink", "postfix")
    started: list[SmtpSink] = []

    def start(*options: str, **where: object) -> SmtpSink:
        sink = SmtpSink(path, tmp_path / f"sink-{len(started)}", options=options, **where)  # type: ignore[arg-type]
        started.append(sink)
        return sink.start()

    yield start
    for sink in started:
        sink.stop()


@pytest.fixture
def smtp_source() -> SmtpSource:
    """Postfix's load generator."""
    return SmtpSource(program("smtp-source", "postfix"))


@pytest.fixture
def swaks() -> Swaks:
    """A client that can do whatever a test asks of it."""
    return Swaks(program("swaks", "swaks"))


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts relays: relay(sink=PORT, extra="[queue]\\n..."). All are ended after the test."""
    started: list[Daemon] = []

    def start(**settings: object) -> Daemon:
        daemon = Daemon(tmp_path / f"relay-{len(started)}", **settings)  # type: ignore[arg-type]
        started.append(daemon)
        return daemon.start()

    yield start
    for daemon in started:
        daemon.stop()
