"""The daemon's first start on a machine: as root, with nothing there but its configuration."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.daemon import BIN, ENVIRONMENT
from tests.peers.programs import free_port, wait_until

CONFIGURATION = """\
hostname = "relay.example.org"
spool = "{spool}"
ephemeral_spool = true
workers = 0
user = "nobody"
[[listener]]
name = "test"
address = "127.0.0.1:{port}"
[log]
file = "{top}/log/mail.log"
[admin]
socket = "{top}/run/control.sock"
"""

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root becomes somebody else")


@pytest.fixture
def top() -> Iterator[Path]:
    """A folder of root's that everybody may pass through, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="relaymta-first-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_root_makes_the_folders_of_the_user_whom_it_becomes(top: Path) -> None:
    """Spool, log and control socket are where root alone may make something: nobody has to do so by hand."""
    spool, log, control = top / "srv" / "mail" / "spool", top / "log" / "mail.log", top / "run" / "control.sock"
    file = top / "relaymta.toml"
    file.write_text(CONFIGURATION.format(top=top, spool=spool, port=free_port()))
    with (top / "out").open("wb") as out:
        process = subprocess.Popen(
            [BIN / "twistd", "--nodaemon", "--pidfile=", "relaymta", "-c", file],
            cwd=top, stdout=out, stderr=out, env=ENVIRONMENT, umask=0o077,
        )  # fmt: skip
    try:
        wait_until("its start", lambda: log.exists() and " daemon-started " in log.read_text(), 20)
        ours = (spool, log.parent, log, control.parent, control)
        assert {pwd.getpwuid(path.stat().st_uid).pw_name for path in ours} == {"nobody"}
        assert spool.parent.stat().st_uid == 0 and spool.parent.stat().st_mode & 0o777 == 0o755
        assert spool.stat().st_mode & 0o777 == 0o711  # who uses sendmail(1) passes through it
    finally:
        process.terminate()
        process.wait(20)


def test_a_folder_that_the_user_may_not_write_in_is_told(top: Path) -> None:
    """A folder that is there is somebody's: it is left alone, and `check` says what to do about it."""
    spool, file = top / "spool", top / "relaymta.toml"
    spool.mkdir()
    file.write_text(CONFIGURATION.format(top=top, spool=spool, port=free_port()))
    words = [str(BIN / "relaymta"), "check", "-c", str(file)]
    said = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=30)
    assert said.returncode == 1
    assert f"{file}:2: spool: nobody, who the daemon becomes, may not write in {spool}; chown nobody" in said.stderr
    os.chown(spool, pwd.getpwnam("nobody").pw_uid, -1)
    assert subprocess.run(words, env=ENVIRONMENT, capture_output=True, check=False, timeout=30).returncode == 0
