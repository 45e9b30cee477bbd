"""The parent of the workers: it holds the ports, the counts and the operator's socket, and handles no mail.

A reload starts a new generation of workers beside the old one; when all of it serve, the old ones drain and end, and
the shards that they leave are adopted by the new. Nobody is refused meanwhile, for the ports stay open.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from signal import SIGUSR1, SIGUSR2
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from relaymta import events
from relaymta.admin.commands import DaemonCommands
from relaymta.admin.control import ControlSocket
from relaymta.admin.fanout import Fanout, ask
from relaymta.admin.maillog import Format, open_log
from relaymta.board import Board
from relaymta.settings import VERSION, Settings
from relaymta.store.disk import RealDisk
from relaymta.store.shards import shards
from relaymta.workers import FIRST_FREE, KILL_SECONDS, RETIRE_SECONDS, Crew, Launch, Orders, Place, State

ADOPT_AGAIN = 5.0  # seconds until a shard that could not be adopted is given away again; ours

RETIRE = SIGUSR2
RETIRE_LIMIT = RETIRE_SECONDS + KILL_SECONDS


class Parent:
    """What the daemon is with `workers` above 0; begun and ended like a House."""

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        text: bytes,
        *,
        reload: Callable[[], Deferred[None] | None],
        stop: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._text = text
        self.log, self.ears = open_log(reactor, settings.log.file, Format(settings.log.format.value))
        self._sockets: Mapping[str, socket.socket] = {}
        self._crew: Crew | None = None
        self._leaving: list[Crew] = []
        self._boards: dict[int, tuple[int, int]] = {}  # generation to its board's descriptor and columns
        self._copies: dict[int, int] = {}  # generation to its copy of the configuration
        self._shards: dict[Place, int] = {}
        self._adopted: dict[int, Place] = {}  # shards beside a place's own, given to it
        self._fanout = Fanout(self._paths, self._absent)
        steering = DaemonCommands(
            version=VERSION, pid=os.getpid(), seconds=reactor.seconds, reload=reload, stop=stop
        )
        commands = {**steering.table(), **self._fanout.table()}
        self._control = ControlSocket(
            reactor, settings.admin.socket, commands, self.ears.tell, settings.admin.group
        )

    # Beginning and end

    def open(self, sockets: Mapping[str, socket.socket]) -> Deferred[None]:
        """Start the first generation; fires when all of it serve. Fails with OSError."""
        self._sockets = sockets
        self._control.open()
        return self._renew()

    def reload(self, settings: Settings, text: bytes, sockets: Mapping[str, socket.socket]) -> Deferred[None]:
        """Start a generation with another configuration; when it cannot serve, the one before stays."""
        before = (self._settings, self._text, self._sockets)
        self._settings, self._text, self._sockets = settings, text, sockets

        def failed(failure: Failure) -> Failure:
            self._settings, self._text, self._sockets = before
            return failure

        return self._renew().addErrback(failed)

    def _renew(self) -> Deferred[None]:
        return self._take_back().addCallback(lambda _: self._begin())

    def _begin(self) -> Deferred[None]:
        old, generation = self._crew, (self._crew.generation + 1 if self._crew else 1)
        size = self._settings.worker_count
        self._boards[generation] = (Board.make(size), size)
        self._copies[generation] = _copy(self._text)
        self._assign(generation, size)
        if old is None:
            for position, shard in enumerate(self._orphans()):
                self._adopted[shard] = Place(generation, position % size)
        crew = Crew(self._reactor, generation, size, self._launch, self._ended, self._left)

        def serves(_: object) -> None:
            self._crew = crew
            if old is not None:
                self._leaving.append(old)
                old.stop(RETIRE_LIMIT, RETIRE).addCallback(self._gone, old)

        def failed(failure: Failure) -> Deferred[None]:
            stopped = crew.stop(KILL_SECONDS).addCallback(self._gone, crew)
            return stopped.addCallback(lambda _: failure.raiseException())

        return crew.start().addCallbacks(serves, failed)

    def _gone(self, _: object, crew: Crew) -> None:
        """A generation has ended: what it left goes to those who stay."""
        if crew in self._leaving:
            self._leaving.remove(crew)
        board, _columns = self._boards.pop(crew.generation)
        os.close(board)
        os.close(self._copies.pop(crew.generation))
        for place in [place for place in self._shards if place.generation == crew.generation]:
            del self._shards[place]
        for shard in [shard for shard, place in self._adopted.items() if place.generation == crew.generation]:
            del self._adopted[shard]
        self._give_away()

    def stop(self, reason: str) -> Deferred[None]:
        """Drain and end all workers."""
        self.ears.tell(events.DaemonStopping(reason))
        crews = [*self._leaving, *([self._crew] if self._crew else [])]

        def close(result: Any) -> Any:
            self._control.close()
            self.log.close()
            return result

        stopped: Deferred[Any] = gatherResults([crew.stop(KILL_SECONDS) for crew in crews], consumeErrors=True)
        return stopped.addBoth(close)

    def reopen_logs(self) -> None:
        """Begin a new log file, here and in every worker."""
        self.log.reopen()
        for crew in (*self._leaving, *([self._crew] if self._crew else [])):
            for worker in crew.workers.values():
                worker.signal(SIGUSR1)

    # Shards

    def _assign(self, generation: int, size: int) -> None:
        """Each place of a generation gets the lowest shard that no other living place has."""
        taken = {*self._shards.values(), *self._adopted}
        free = (number for number in range(1024) if number not in taken)
        for index in range(size):
            self._shards[Place(generation, index)] = next(free)

    def _orphans(self) -> list[int]:
        """Shards on disk that belong to no place of a living generation, nor were given to one."""
        owned = {*self._shards.values(), *self._adopted}
        found = [int(path.rpartition("-")[2]) for path in shards(RealDisk(), self._settings.spool)]
        return [number for number in found if number not in owned]

    def _give_away(self) -> None:
        crew = self._crew
        if crew is None:
            return
        places = [worker.place for worker in crew.workers.values() if worker.state is State.SERVING]
        for position, shard in enumerate(self._orphans() if places else []):
            place = self._adopted[shard] = places[position % len(places)]
            path = self._control_of(place)
            asked = deferToThread(ask, f"the worker at {path}", path, "adopt", {"shard": shard})
            asked.addErrback(self._not_adopted, shard, place)

    def _take_back(self) -> Deferred[None]:
        """Have adopted shards in which nothing is left given up, so that their numbers can be used again."""
        crew = self._crew
        places = set(self._adopted.values()) if crew is not None else set()
        asked = [
            deferToThread(ask, "a worker", self._control_of(worker.place), "release", {}).addCallback(self._released)
            for worker in (crew.workers.values() if crew is not None else ())
            if worker.place in places and worker.state is State.SERVING
        ]
        return DeferredList(asked, consumeErrors=True).addCallback(lambda _: None)  # failing that, they stay taken

    def _released(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            self._adopted.pop(row["released"], None)

    def _not_adopted(self, failure: Failure, shard: int, place: Place) -> None:
        """Mail that nobody looks after must not wait for the next reload."""
        self.ears.tell(events.SpoolFailed(str(shard), f"not adopted: {failure.getErrorMessage()}"))
        if self._adopted.get(shard) == place:
            del self._adopted[shard]
            self._reactor.callLater(ADOPT_AGAIN, self._give_away)

    # Workers

    def _launch(self, place: Place) -> Launch:
        board, columns = self._boards[place.generation]
        descriptors = {FIRST_FREE: self._copies[place.generation], FIRST_FREE + 1: board}
        sockets = {}
        for child, (name, sock) in enumerate(self._sockets.items(), FIRST_FREE + 2):
            descriptors[child] = sock.fileno()
            sockets[name] = child
        orphans = [shard for shard, owner in self._adopted.items() if owner == place]
        orders = Orders(
            configuration=FIRST_FREE,
            sockets=sockets,
            board=FIRST_FREE + 1,
            column=place.index,
            columns=columns,
            shard=self._shards[place],
            orphans=tuple(orphans),
            control=self._control_of(place),
        )
        return Launch((sys.executable, "-m", "relaymta.worker", orders.text()), descriptors, _environment())

    def _control_of(self, place: Place) -> str:
        return f"{self._settings.admin.socket}.{place.generation}.{place.index}"

    def _paths(self) -> dict[str, str]:
        crew = self._crew
        if crew is None:
            return {}
        return {
            f"worker {index}": self._control_of(worker.place)
            for index, worker in sorted(crew.workers.items())
            if worker.state is State.SERVING
        }

    def _absent(self) -> list[str]:
        workers = self._crew.workers if self._crew is not None else {}
        return [f"worker {index}" for index, worker in sorted(workers.items()) if worker.state is not State.SERVING]

    def _ended(self, place: Place, reason: str) -> None:
        self.ears.tell(events.WorkerEnded(f"{place.generation}.{place.index}", reason))

    def _left(self, place: Place) -> None:
        Path(self._control_of(place)).unlink(missing_ok=True)


def _copy(text: bytes) -> int:
    """The configuration as it is now, whatever becomes of the file: a worker that is started again gets the same."""
    descriptor = os.memfd_create("relaymta.toml")
    os.write(descriptor, text)
    return descriptor


def _environment() -> dict[str, str]:
    """Ours, with the path on which Python found us."""
    package = str(Path(__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{path}" if path else package}
