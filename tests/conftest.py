"""What holds for all tests: how hypothesis searches, how long one may take, and which may not run beside each other."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A shared CI machine stalls for reasons of its own: no deadline, the same examples every time. At a desk the
# search is random, so that it goes on finding. A failure prints a blob to repeat it with.
settings.register_profile(
    "ci", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("desk", deadline=None, print_blob=True)
settings.register_profile("deep", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "desk"))

# Debian keeps servers where an ordinary user's PATH does not look.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

PEERS = Path(__file__).parent / "peers"
# Seconds; a run ends with its summary, whatever hangs. A Deferred that never fires is trial's own affair (120 s); those
# marked `long` take what they need.
LONGEST_TEST = 180


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that talk to other people's programs are marked so. (Under xdist a file's tests share a worker.)"""
    for item in items:
        if PEERS in item.path.parents:
            item.add_marker(pytest.mark.peers)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that hangs fails with the place where it does; again every ten seconds, for code that catches all."""
    if item.get_closest_marker("long"):
        return (yield)

    def too_long(*_: object) -> None:
        pytest.fail(f"took longer than {LONGEST_TEST} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_TEST, 10)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pytest_report_header() -> str:
    """Say which interpreter and which search, for the reader of a log."""
    profile = settings.get_current_profile_name()
    return f"relaymta: python {sys.version.split()[0]}, hypothesis profile {profile}"
