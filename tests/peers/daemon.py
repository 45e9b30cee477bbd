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
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}

CONFIGURATION = """\
hostname = "relay.example.org"
spool    = "{spool}"
workers  = {workers}
user     = ""

[[listener]]
name    = "test"
address = "127.0.0.1:{port}"
profile = "mx"
tls     = "{tls}"
{listener}

[relay]
networks = ["{networks}"]
domains  = [{domains}]
{relay}

[admin]
socket = "{folder}/control.sock"
"""

ROUTE = '\n[[route]]\nrecipient = ["*"]\nto = ["[127.0.0.1]:{sink}"]\ntls = "none"\n'


@define
class Daemon:
    """One relay. `sink`: the port that all mail goes to (None: by MX); `extra`: more TOML, `listener` and `relay`: of
    its listener and of [relay]. `tls`: the listener's.

    A value changed while it runs is in its file at the next `write`, and in force at the next reload.
    """

    folder: Path
    sink: int | None = None
    workers: int = 0
    extra: str = ""
    networks: str = "127.0.0.0/8"
    domains: str = ""
    listener: str = ""
    relay: str = ""
    tls: str = "none"
    spool: Path | None = None
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

    def worker_pids(self) -> list[int]:
        """The processes below the parent."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def log(self) -> str:
        """All that it has said."""
        file = self.folder / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def write(self, **changes: Any) -> None:
        """Write the configuration, with some values changed."""
        for name, value in changes.items():
            setattr(self, name, value)
        text = CONFIGURATION.format(
            folder=self.folder,
            spool=self.spool or self.folder / "spool",
            workers=self.workers,
            port=self.port,
            networks=self.networks,
            domains=self.domains,
            listener=self.listener,
            relay=self.relay,
            tls=self.tls,
        )
        if self.sink is not None:
            text += ROUTE.format(sink=self.sink)
        self.configuration.write_text(text + self.extra)

    def start(self) -> Daemon:
        """Write the configuration, run it, and wait until all of it serves."""
        before = self.log().count(" daemon-started ")
        self.launch()
        wait_until("the relay's greeting", self._greets, 30, self.log)
        wait_until("all workers", lambda: self.log().count(" daemon-started ") > before, 30, self.log)
        return self

    def launch(self) -> None:
        """Write the configuration and run it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write()
        if self._output is None:
            self._output = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            [BIN / "twistd", "--nodaemon", "--pidfile=", "relaymta", "-c", self.configuration],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
        )

    def _greets(self) -> bool:
        assert self.alive, self.log()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as sock:
                return sock.recv(512).startswith(b"220")
        except OSError:
            return False

    def wait(self, seconds: float = 60.0) -> int:
        """Wait for its own end; the exit status."""
        assert self._process is not None
        status = self._process.wait(seconds)
        self._process = None
        return status

    def stop(self, seconds: float = 90.0) -> int:
        """SIGTERM, wait for the drain; the exit status. Does nothing where it has ended already."""
        status = 0
        if self._process is not None:
            workers = self.worker_pids() if self.alive else []
            self._process.terminate()
            try:
                status = self._process.wait(seconds)
            finally:
                self._process.kill()
                self._process.wait()
                self._process = None
                _end(workers)
        if self._output is not None:
            self._output.close()
            self._output = None
        return status

    def kill(self) -> None:
        """kill -9 of the parent, as a crash does; its workers, if any, end by themselves before this returns."""
        assert self._process is not None
        workers = self.worker_pids()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None
        wait_until("the end of the workers", lambda: not any(map(_runs, workers)), 60)

    def kill_all(self) -> None:
        """kill -9 of the parent and of all its workers, as a power cut does."""
        assert self._process is not None
        workers = self.worker_pids()
        self._process.send_signal(signal.SIGKILL)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        wait_until("the end of the workers", lambda: not any(map(_runs, workers)), 20)

    def run(self, *words: str, seconds: float = 60.0, given: bytes = b"") -> subprocess.CompletedProcess[str]:
        """One of our commands (`relaymta`, `sendmail`), with whatever status."""
        return subprocess.run(
            [BIN / words[0], *words[1:]],
            input=given.decode("latin-1"),
            encoding="latin-1",
            capture_output=True,
            timeout=seconds,
            env=ENVIRONMENT | {"RELAYMTA_CONFIG": str(self.configuration)},
            check=False,
        )

    def ask(self, *words: str, seconds: float = 60.0) -> list[Any]:
        """`relaymta WORDS -c FILE --json`, as the rows that it prints."""
        done = self.run("relaymta", *words, "-c", str(self.configuration), "--json", seconds=seconds)
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]

    def count(self, *keys: str) -> int:
        """The sum of numbers of `relaymta stats` about the queue, such as "queued"."""
        [row] = self.ask("stats")
        return sum(int(row["queue"][key]) for key in keys)


def _runs(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _end(pids: list[int]) -> None:
    for pid in filter(_runs, pids):
        os.kill(pid, signal.SIGKILL)
