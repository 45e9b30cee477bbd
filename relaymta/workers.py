"""Worker processes: started, watched, replaced, and sent home.

A crew is one generation of workers, one process a place. The parent holds the listening sockets and hands them down,
so that a worker's death or a change of generation refuses no client. Two pipes tie a worker to its parent: on READY
it says one line when it serves; on LIFE it reads the end of file that says that the parent is gone.

| what happens | what the crew does |
|---|---|
| a worker ends by itself or is killed | starts it again, after 1 s, 2 s, 4 s ... 30 s when it keeps ending at once |
| a new generation is asked for | starts it beside the old one; when all serve, the old ones are told to retire |
| a worker of a new generation ends before it serves | the new generation is sent home, the old one stays |
| stop | SIGTERM, and SIGKILL for those that have not ended by the limit |
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from signal import SIGKILL, SIGTERM, Signals

import cattrs
from attrs import asdict, define, field, frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

READY = 3  # the descriptor on which a worker says that it serves
LIFE = 4  # the descriptor whose end of file says that the parent is gone
FIRST_FREE = 5
BACKOFF_MAX = 30.0  # seconds between two starts of a worker that keeps ending; ours
DRAIN_SECONDS = 30.0  # how long running transactions may take to end, and deliveries again; ours
STOP_SECONDS = 2 * DRAIN_SECONDS + 10.0  # sessions, then deliveries, then the disk: a process that takes longer hangs
KILL_SECONDS = STOP_SECONDS + 5.0  # until its parent makes an end of it
RETIRE_SECONDS = 60.0  # how long the clients of an old generation may stay; ours
SETTLED = 60.0  # seconds after which a worker's end is no longer held against its successor; ours


@frozen(slots=True)
class Place:
    """Which worker: `index` from 0 within `generation`, which grows by one at each reload."""

    generation: int
    index: int


@frozen(slots=True)
class Launch:
    """How to start a worker: argv with the executable first, and the descriptors it gets (child's: parent's)."""

    argv: tuple[str, ...]
    descriptors: Mapping[int, int]
    environment: Mapping[str, str]


@frozen(slots=True)
class Orders:
    """What a worker is told: files as descriptors that it was born with.

    `configuration`: a copy of the configuration; `sockets`: listeners by name; `board`: the shared counts, of which
    it writes `column` of `columns`. `orphans`: shards to adopt beside its own.
    """

    configuration: int
    sockets: Mapping[str, int]
    board: int
    column: int
    columns: int
    shard: int
    orphans: tuple[int, ...]
    control: str

    def text(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> Orders:
        """From the command line."""
        return cattrs.structure(json.loads(text), cls)


class State(Enum):
    """The life of a worker process."""

    STARTING = "starting"
    SERVING = "serving"
    LEAVING = "leaving"
    GONE = "gone"


class _Reactor(IReactorProcess, IReactorTime):
    """What a crew needs of the reactor."""


@define(eq=False)
class Worker(ProcessProtocol):
    """One process, seen from the parent."""

    place: Place
    _ended: Callable[[Worker, str], None]
    _ready: Callable[[Worker], None]
    state: State = State.STARTING
    since: float = 0.0
    gone: Deferred[None] = field(factory=Deferred)

    @property
    def pid(self) -> int:
        """The process id, 0 when there is none."""
        return (self.transport.pid or 0) if self.transport is not None else 0

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """The worker says that it serves."""
        if childFD == READY and self.state is State.STARTING:
            self.state = State.SERVING
            self._ready(self)

    def processEnded(self, reason: Failure) -> None:
        """The process is gone; `reason` holds how."""
        was, self.state = self.state, State.GONE
        self.gone.callback(None)
        if was is not State.LEAVING:
            self._ended(self, reason.getErrorMessage())

    def leave(self, number: Signals = SIGTERM) -> None:
        """Ask it to drain and end, or kill it."""
        if self.state is not State.GONE:
            self.state = State.LEAVING
            self.signal(number)

    def signal(self, number: Signals) -> None:
        """Send a signal, to a process that is there."""
        if self.state is not State.GONE and self.transport is not None:
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess(number)


@define(eq=False)
class Crew:
    """All workers of one generation. `told` gets a sentence for the log about each that ends unasked."""

    _reactor: _Reactor
    generation: int
    size: int
    _launch: Callable[[Place], Launch]
    _told: Callable[[Place, str], None]
    _left: Callable[[Place], None] = lambda _place: None
    workers: dict[int, Worker] = field(factory=dict)
    ready: Deferred[None] = field(factory=Deferred)
    _calls: dict[int, IDelayedCall] = field(factory=dict)
    _delays: dict[int, float] = field(factory=dict)
    _stopping: bool = False

    def start(self) -> Deferred[None]:
        """Start every worker; fires when all of them serve, fails when one ends before it ever did."""
        for index in range(self.size):
            self._spawn(index)
        return self.ready

    def _spawn(self, index: int) -> None:
        place = Place(self.generation, index)
        launch = self._launch(place)
        worker = Worker(place, self._ended, self._serves)
        worker.since = self._reactor.seconds()
        self.workers[index] = worker
        self._calls.pop(index, None)
        files: dict[int, int | str] = {READY: "r", LIFE: "w", 1: 1, 2: 2, **launch.descriptors}
        self._reactor.spawnProcess(
            worker, launch.argv[0], launch.argv, env=dict(launch.environment), childFDs=files
        )

    def _serves(self, worker: Worker) -> None:
        if not self.ready.called and all(w.state is State.SERVING for w in self.workers.values()):
            self.ready.callback(None)

    def _ended(self, worker: Worker, reason: str) -> None:
        index = worker.place.index
        self._told(worker.place, reason)
        self._left(worker.place)
        if self._stopping:
            return
        if not self.ready.called and self.generation > 1:
            self.ready.errback(Failure(WorkerFailed(f"worker {index} ended before it served: {reason}")))
            return
        lived = self._reactor.seconds() - worker.since
        before = 0.0 if lived > SETTLED else self._delays.get(index, 0.0)
        delay = self._delays[index] = min(BACKOFF_MAX, before * 2 or 1.0)
        self._calls[index] = self._reactor.callLater(delay, self._spawn, index)

    def stop(self, limit: float, number: Signals = SIGTERM) -> Deferred[None]:
        """End all workers by the signal `number`; those that still run after `limit` seconds are killed."""
        self._stopping = True
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()
        running = [worker for worker in self.workers.values() if worker.state is not State.GONE]
        for worker in running:
            worker.leave(number)
        killing = self._reactor.callLater(limit, self._kill)
        gone: Deferred[None] = DeferredList([worker.gone for worker in running]).addCallback(lambda _: None)
        return gone.addCallback(lambda _: killing.cancel() if killing.active() else None)

    def _kill(self) -> None:
        for worker in self.workers.values():
            worker.leave(SIGKILL)


class WorkerFailed(Exception):
    """A worker of a new generation ended before it served; the text says how."""


def raise_limits() -> None:
    """What a process that serves takes of its host.

    A descriptor for each connection on both sides and each DNS query: as many as we may have. Threads change ten
    times as often as by default: the journal's writer, back from a sync that clients wait for, is not kept waiting
    for 5 ms by the reactor's thread.
    """
    sys.setswitchinterval(0.0005)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
