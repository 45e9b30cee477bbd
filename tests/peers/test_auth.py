"""Log-ins at a real daemon with two workers: swaks gets in and out, guesses are the host's, a restart forgets none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.daemon import ENVIRONMENT, Daemon
from tests.peers.programs import Swaks, wait_until

NAME, PASSWORD = "shop@example.org", "correct horse"


@pytest.fixture
def shop(relay: Callable[..., Daemon], tmp_path: Path) -> Daemon:
    """A relay that wants a log-in, in clear since this is the loopback, and has one account."""
    (tmp_path / "users").touch(mode=0o600)
    daemon = relay(
        workers=2,
        listener='auth = "required"\nauth_in_clear = true',
        extra=f'\n[users]\nfile = "{tmp_path / "users"}"\n[auth]\noffences_per_account = 3\ndelay = "10ms"\n'
        '[[route]]\nrecipient = "*"\nto = "discard"\n',
    )
    added = subprocess.run(
        [sys.executable, "-m", "relaymta.cli.main", "-c", daemon.configuration, "user", "add", NAME],
        input=f"{PASSWORD}\n", capture_output=True, text=True, timeout=30, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    daemon.ask("reload")
    return daemon


def test_swaks_at_the_daemon(shop: Daemon, swaks: Swaks) -> None:
    """PLAIN and LOGIN get a message in; guesses at both workers are counted together, until they are unlocked."""

    def send(mechanism: str, password: str) -> str:
        login = ("--auth", mechanism, "--auth-user", NAME, "--auth-password", password)
        return swaks(shop.port, "--from", NAME, "--to", "a@example.net", *login).transcript

    for mechanism in ("PLAIN", "LOGIN"):
        said = send(mechanism, PASSWORD)
        assert "235 2.7.0" in said and "250 2.0.0 queued as" in said
    assert "530 5.7.0" in swaks(shop.port, "--from", NAME, "--to", "a@example.net").transcript
    for guess in ("tr0ub4dor", "tr0ub4dor", "tr0ub4dor", "letmein"):  # one in a loop, and another
        assert "535 5.7.8" in send("PLAIN", guess)
    assert "235 2.7.0" in send("PLAIN", PASSWORD)  # which clears
    for guess in ("one-guess", "two-guess", "three-guess"):
        assert "535 5.7.8" in send("LOGIN", guess)
    assert "454 4.7.0" in send("PLAIN", PASSWORD)
    shop.stop()
    shop.start()
    [row] = shop.ask("auth", "list")
    assert (row["address"], row["account"], row["offences"], row["until"] > 0) == ("127.0.0.1", NAME, 3, True)
    assert "454 4.7.0" in send("PLAIN", PASSWORD)
    assert shop.ask("auth", "unlock", "127.0.0.1")[0]["refusals"] == 1
    assert "235 2.7.0" in send("PLAIN", PASSWORD)
    wait_until("the last line", lambda: shop.log().count(" authenticated client=127.0.0.1 ") == 4, 10, shop.log)
    log = shop.log()
    assert log.count(" authentication-failed client=127.0.0.1 ") == 9
    assert [secret for secret in (PASSWORD, "tr0ub4dor", "guess", "letmein") if secret in log] == []
