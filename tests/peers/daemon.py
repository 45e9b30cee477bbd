"""The relay as its users run it: a `twistd -n relaymta -c FILE` of its own, in a folder of the test's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from attrs import define, field

from tests.peers.programs import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

CONFIGURATION = """\
hostname = "relay.example.org"
spool    = "{folder}/spool"
workers  = {workers}
user     = ""

[[listener]]
name    = "test"
address = "127.0.0.1:{port}"
profile = "mx"
tls     = "none"

[relay]
networks = ["127.0.0.0/8"]

[admin]
socket = "{folder}/control.sock"
"""

ROUTE = '\n[[route]]\nrecipient = ["*"]\nto = ["[127.0.0.1]:{sink}"]\ntls = "none"\n'


@define
class Daemon:
    """One relay. `sink`: the port that all mail goes to (None: by MX); `extra`: more TOML at the end."""

    folder: Path
    sink: int | None = None
    workers: int = 0
    extra: str = ""
    port: int = field(factory=free_port)
    _process: subprocess.Popen[bytes] | None = None
    _output: IO[bytes] | None = None

    @property
    def configuration(self) -> Path:
        """The file it runs with."""
        return self.folder / "relaymta.toml"

    @property
    def pid(self) -> int:
        """Of the parent process."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the parent process runs."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """All that it has said."""
        file = self.folder / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self) -> Daemon:
        """Write the configuration, run it, and wait for its greeting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION.format(folder=self.folder, workers=self.workers, port=self.port)
        if self.sink is not None:
            text += ROUTE.format(sink=self.sink)
        self.configuration.write_text(text + self.extra)
        self._output = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            [BIN / "twistd", "--nodaemon", "--pidfile=", "relaymta", "-c", self.configuration],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        wait_until("the relay's greeting", self._greets, 30)
        return self

    def _greets(self) -> bool:
        assert self.alive, self.log()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as sock:
                return sock.recv(512).startswith(b"220")
        except OSError:
            return False

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM, wait for the drain; the exit status. Does nothing where it has ended already."""
        status = 0
        if self._process is not None:
            self._process.terminate()
            try:
                status = self._process.wait(seconds)
            finally:
                self._process.kill()
                self._process.wait()
                self._process = None
        if self._output is not None:
            self._output.close()
            self._output = None
        return status

    def kill(self) -> None:
        """kill -9, as a crash does; workers end with their parent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def ask(self, *words: str, seconds: float = 60.0) -> list[Any]:
        """`relaymta WORDS -c FILE --json`, as the rows that it prints."""
        done = subprocess.run(
            [BIN / "relaymta", *words, "-c", self.configuration, "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
