"""Worker processes: started again when they end, replaced when a new generation serves, sent home at the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from signal import SIGKILL, SIGTERM
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaymta.workers import LIFE, READY, Crew, Launch, Place, State, Worker, WorkerFailed


class Machine(Clock):
    """A clock on which processes start when asked, and end or speak when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []

    def spawnProcess(
        self, protocol: Worker, executable: str, args: tuple[str, ...], env: Mapping[str, str], childFDs: Any
    ) -> Process:
        """Start one."""
        process = Process(protocol, 100 + len(self.processes))
        protocol.transport = process  # type: ignore[assignment]
        self.processes.append(process)
        return process


class Process:
    """One process of a Machine."""

    def __init__(self, protocol: Worker, pid: int) -> None:
        self.protocol = protocol
        self.pid = pid
        self.signals: list[int] = []

    def signalProcess(self, number: int) -> None:
        """Write the signal down."""
        self.signals.append(number)

    def serve(self) -> None:
        """Say that it serves."""
        self.protocol.childDataReceived(READY, b"ready\n")

    def end(self, code: int = 1) -> None:
        """End with an exit code."""
        self.protocol.processEnded(Failure(ProcessTerminated(code)))


class CrewTests(SynchronousTestCase):
    """One generation on a clock."""

    def setUp(self) -> None:
        """A crew of two, started."""
        self.machine = Machine()
        self.told: list[tuple[Place, str]] = []
        self.left: list[Place] = []

    def crew(self, generation: int = 1) -> tuple[Crew, Deferred[None]]:
        """Start a crew of two on the machine."""
        launch = Launch(("worker",), {}, {})
        crew = Crew(
            self.machine,  # type: ignore[arg-type]
            generation,
            2,
            lambda place: launch,
            lambda place, text: self.told.append((place, text)),
            self.left.append,
        )
        return crew, crew.start()

    def test_ready_when_all_serve(self) -> None:
        """The crew is ready when its last worker says that it serves."""
        _, ready = self.crew()
        self.machine.processes[0].serve()
        self.assertNoResult(ready)
        self.machine.processes[1].serve()
        assert self.successResultOf(ready) is None

    def test_a_worker_that_dies_is_started_again_and_told_of(self) -> None:
        """A killed worker comes back after a second; its place is told so that its counts can be wiped."""
        self.crew()
        for process in self.machine.processes:
            process.serve()
        self.machine.processes[1].end()
        assert self.left == [Place(1, 1)]
        assert self.told[0][0] == Place(1, 1)
        self.machine.advance(0.9)
        assert len(self.machine.processes) == 2
        self.machine.advance(0.2)
        assert len(self.machine.processes) == 3

    def test_a_worker_that_keeps_dying_is_started_less_often(self) -> None:
        """The pause doubles up to half a minute, and begins anew once a worker has lived a minute."""
        self.crew()
        starts = []
        for _ in range(8):
            self.machine.processes[-1].end()
            before = self.machine.seconds()
            count = len(self.machine.processes)
            while len(self.machine.processes) == count:
                self.machine.advance(0.5)
            starts.append(self.machine.seconds() - before)
        assert starts == [1, 2, 4, 8, 16, 30, 30, 30]
        self.machine.advance(61)
        self.machine.processes[-1].end()
        self.machine.advance(1)
        assert len(self.machine.processes) == 11

    def test_a_new_generation_that_cannot_serve_fails(self) -> None:
        """When a worker of a later generation ends before it serves, the change of generation has failed."""
        _, ready = self.crew(generation=2)
        self.machine.processes[0].end()
        self.failureResultOf(ready, WorkerFailed)

    def test_stop_terminates_and_kills_at_the_limit(self) -> None:
        """Stop asks all workers to drain; one that does not end in time is killed."""
        crew, _ = self.crew()
        first, second = self.machine.processes
        stopped = crew.stop(30)
        first.end(0)
        self.machine.advance(30)
        assert (first.signals, second.signals) == ([SIGTERM], [SIGTERM, SIGKILL])
        self.assertNoResult(stopped)
        second.end(9)
        assert self.successResultOf(stopped) is None
        self.machine.advance(60)
        assert len(self.machine.processes) == 2

    def test_stop_cancels_a_start_that_waits(self) -> None:
        """A worker that died a moment ago is not started again once the crew stops."""
        crew, _ = self.crew()
        for process in self.machine.processes:
            process.end()
        assert self.successResultOf(crew.stop(30)) is None
        self.machine.advance(60)
        assert len(self.machine.processes) == 2
        assert {worker.state for worker in crew.workers.values()} == {State.GONE}


class RealWorkerTests(TestCase):
    """With real processes."""

    async def test_the_pipes_tie_a_worker_to_its_parent(self) -> None:
        """A worker says that it serves on READY, gets what was handed down, and ends at SIGTERM."""
        script = (
            f"import os, sys\nassert os.read(9, 5) == b'hello'\nos.write({READY}, b'ready\\n')\nos.read({LIFE}, 1)\n"
        )
        reading, writing = os.pipe()
        os.write(writing, b"hello")
        launch = Launch((sys.executable, "-c", script), {9: reading}, {})
        told: list[str] = []
        crew = Crew(reactor, 1, 1, lambda place: launch, lambda place, text: told.append(text))  # type: ignore[arg-type]
        await crew.start()
        os.close(reading)
        os.close(writing)
        await crew.stop(10)
        assert told == []
