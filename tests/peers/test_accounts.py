"""Accounts as the operator changes them while the relay runs."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.peers.daemon import ENVIRONMENT, Daemon
from tests.peers.programs import wait_until


def test_every_worker_sees_a_change_without_a_reload(relay: Callable[..., Daemon], tmp_path: Path) -> None:
    """An account that is added, and a slip of an editor: told by each of them; no reload makes them forget it."""
    file = tmp_path / "users"
    daemon = relay(workers=2, extra=f'\n[users]\nfile = "{file}"\n')
    assert daemon.log().count(" users-broken ") == 2  # there is none yet
    added = subprocess.run(
        [sys.executable, "-m", "relaymta.cli.main", "-c", daemon.configuration, "user", "add", "shop"],
        input="pencil\n", capture_output=True, text=True, timeout=30, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    wait_until("the account", lambda: daemon.log().count(" users-read ") == 2, 10, daemon.log)
    assert "accounts=1" in daemon.log()
    file.write_text(file.read_text() + "shop\n")
    wait_until("the slip", lambda: daemon.log().count("the accounts before it stay") == 2, 10, daemon.log)
    assert "shop stands in line 2 too" in daemon.log()
    secret = daemon.folder / "spool" / "state" / "scram.secret"
    assert len(secret.read_bytes()) == 32 and stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert "pencil" not in daemon.log() and "argon2id" not in daemon.log()
    broken = daemon.log().count(" users-broken ")
    done = daemon.run("relaymta", "reload")  # workers that begin now would know nobody
    assert done.returncode == 1 and "shop stands in line 2 too" in done.stderr
    assert daemon.log().count(" users-broken ") == broken
    file.unlink()
    assert daemon.ask("reload") == [{"reloaded": True}]
    wait_until("the reload", lambda: daemon.log().count(" users-broken ") >= broken + 2, 20, daemon.log)
