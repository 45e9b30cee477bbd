"""relaymta as its users start it: `twistd -n relaymta -c FILE`, with a spool under a directory of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from attrs import define, field

from bench.certificate import Files
from bench.processes import cpu_seconds, free_port, greets, memory, wait_for

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

CONFIGURATION = """\
hostname = "relay.bench.test"
spool    = "{directory}/spool"
workers  = {workers}
user     = ""

[[listener]]
name    = "bench"
address = "127.0.0.1:{port}"
profile = "mx"
tls     = "{tls}"
max_message_size = "100MB"

{certificate}[relay]
networks = ["127.0.0.0/8"]
{dns}{routes}
[delivery]
concurrency = {concurrency}

[admin]
socket = "{directory}/control.sock"
"""

ROUTE = """
[[route]]
recipient = ["*"]
to        = ["[127.0.0.1]:{sink}"]
tls       = "none"
"""

CERTIFICATE = """[tls]
certificate = "{files.certificate}"
key = "{files.key}"

"""

DNS = """
[dns]
servers = ["{resolver}:53"]
"""


@define
class Relay:
    """One daemon. `sink` is where it relays to; None: by MX. `workers` is a number or "auto"."""

    directory: Path
    sink: int | None
    port: int = field(factory=free_port)
    workers: str = "auto"
    resolver: str = ""
    concurrency: int = 100  # as Postfix has it in this benchmark
    extra: str = ""  # more TOML at the end
    tls: Files | None = None  # STARTTLS is offered with this certificate
    name: str = "relaymta"
    pid: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _output: IO[bytes] | None = None

    @property
    def version(self) -> str:
        """Of the working tree."""
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=30
        )
        return done.stdout.strip() or "checkout"

    @property
    def configuration(self) -> Path:
        """The file it is started with."""
        return self.directory / "relaymta.toml"

    def log(self) -> str:
        """The end of its log."""
        file = self.directory / "log"
        return file.read_bytes()[-4000:].decode(errors="replace") if file.exists() else ""

    def start(self) -> float:
        """Write the configuration, start, wait: seconds from exec to the greeting. RuntimeError, TimeoutError."""
        self.directory.mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION.format(
            directory=self.directory,
            workers=self.workers if self.workers.isdigit() else json.dumps(self.workers),
            port=self.port,
            dns=DNS.format(resolver=self.resolver) if self.resolver else "",
            routes=ROUTE.format(sink=self.sink) if self.sink is not None else "",
            concurrency=self.concurrency,
            tls="starttls" if self.tls else "none",
            certificate=CERTIFICATE.format(files=self.tls) if self.tls else "",
        )
        self.configuration.write_text(text + self.extra)
        self._output = (self.directory / "log").open("ab")
        begun = time.monotonic()
        self._process = subprocess.Popen(
            [BIN / "twistd", "--nodaemon", "--pidfile=", "relaymta", "-c", self.configuration],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self.pid = self._process.pid
        wait_for("relaymta's greeting", self._up, 60)
        return time.monotonic() - begun

    def _up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"relaymta ended with {self._process.returncode}: {self.log()}")
        return greets(self.port)

    def stop(self) -> None:
        """SIGTERM, wait for the drain; SIGKILL after a minute."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
            self._process, self.pid = None, 0
        if self._output is not None:
            self._output.close()
            self._output = None

    def ask(self, *words: str) -> tuple[float, str]:
        """Run `relaymta WORDS -c FILE --json`; seconds it took, and what it printed."""
        begun = time.monotonic()
        done = subprocess.run(
            [BIN / "relaymta", *words, "-c", self.configuration, "--json"],
            capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"relaymta {' '.join(words)}: {done.stderr}")
        return time.monotonic() - begun, done.stdout

    def first_row(self, *words: str) -> tuple[float, Any]:
        """The same, but only until its first line is there."""
        begun = time.monotonic()
        with subprocess.Popen(
            [BIN / "relaymta", *words, "-c", self.configuration, "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)},
        ) as process:  # fmt: skip
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.monotonic() - begun
            process.stdout.close()
            process.terminate()
        return seconds, json.loads(line) if line.strip() else None

    def cpu(self) -> float:
        """CPU seconds of all its processes so far."""
        return cpu_seconds(self.pid)

    def memory(self) -> int:
        """Octets of all its processes."""
        return memory(self.pid)
