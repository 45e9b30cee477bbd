"""Fixtures for tests with other people's programs on loopback; each skips with the reason where one is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.client import Load
from tests.peers.daemon import Daemon
from tests.peers.postbox import Answer, Postbox, welcome
from tests.peers.programs import Haproxy, SmtpSink, SmtpSource, Swaks, program


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


@pytest.fixture
def postbox() -> Iterator[Callable[..., Postbox]]:
    """Starts servers of our own: postbox(answer, host="127.0.0.151", port=25). All are ended after the test."""
    started: list[Postbox] = []

    def start(answer: Answer = welcome, host: str = "127.0.0.1", port: int = 0, **more: Any) -> Postbox:
        started.append(Postbox(answer, host, port, **more).start())
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def load() -> Iterator[Callable[..., Load]]:
    """Starts loads: load(port, messages=2000). All are ended after the test."""
    started: list[Load] = []

    def start(port: int, first: int = 0, **settings: Any) -> Load:
        started.append(Load(port, **settings))
        return started[-1].start(first)

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Haproxy]]:
    """Starts haproxies: haproxy(relay=PORT, source="127.0.0.8", ways=("send-proxy",)); ended after the module."""
    path = program("haproxy", "haproxy")
    started: list[Haproxy] = []

    def start(**settings: Any) -> Haproxy:
        started.append(Haproxy(path, tmp_path_factory.mktemp("haproxy"), **settings))
        return started[-1].start()

    yield start
    for one in started:
        one.stop()
