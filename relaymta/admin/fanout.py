"""One answer for all workers: the operator's commands in the parent, each asked of every worker and put together.

A listing is the workers' listings one behind the other, streamed as they come; numbers are added up; of a message
that one worker has and the others do not know, the one that has it speaks. A worker that does not answer in time, or
is being started again, is an error that names it, or stands beside the numbers: never a part left out in silence.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from relaymta.admin.control import VERSION, Arguments, Command, CommandError, Rows, encode
from relaymta.admin.lanestate import STEP as LANE
from relaymta.admin.lanestate import lane_step

PATIENCE = 30.0  # seconds without an octet of a worker's answer before it counts as stuck; ours
EXPLAIN_PATIENCE = 180.0  # the same while it asks name servers and, for a probe, peers; they have limits of their own
BREATH = 0.005  # seconds that one look at the workers' sockets may take; the parent has its crew to mind
SHARED = ("auth.list", "auth.unlock", "quota.list", "quota.reset", "sts")  # of what all workers know alike
_RANKS = {"not in the queue": 0, "nothing to change": 1, "": 2}

Paths = Callable[[], Mapping[str, str]]  # the control sockets of the workers that serve, by a name for the operator
Item = dict[str, Any]


class Fanout:
    """The commands of the parent. `paths` says whom to ask, `absent` who cannot be asked at the moment, by name."""

    def __init__(self, paths: Paths, absent: Callable[[], Sequence[str]] = tuple) -> None:
        self._paths = paths
        self._absent = absent

    def table(self) -> dict[str, Command]:
        """The commands that are asked of the workers, by name."""
        return {
            "stats": lambda arguments: self._added("stats", arguments),
            "trace": lambda arguments: self._sorted("trace", arguments),
            "tlsrpt.show": lambda arguments: self._last("tlsrpt.show", arguments),
            "explain": self._explained,
            "queue.list": self._listing,
            "queue.show": lambda arguments: self._known("queue.show", arguments),
            **{name: partial(self._any, name) for name in SHARED},
            **{name: self._changing(name) for name in ("queue.retry", "queue.hold", "queue.release", "queue.delete")},
        }

    def _explained(self, arguments: Arguments) -> Iterator[Item | None]:
        """The way as one worker would take it, and of its lane what all of them say."""
        paths = dict(self._present())
        first, path = next(iter(paths.items()))
        for row in _ask(first, path, "explain", arguments, EXPLAIN_PATIENCE):
            if row is None or row.get("step") != LANE:
                yield row
                continue
            states: dict[str, Item] = {}
            for name, control in paths.items():
                for state in _ask(name, control, "explain.lane", {"lane": row["lane"]}):
                    if state is None:
                        yield None
                    else:
                        states[name] = state
            yield lane_step(row["lane"], states)

    def _chain(self, command: str, arguments: Arguments) -> Iterator[Item | None]:
        paths, absent = self._present(), self._absent()
        for name, path in paths.items():
            yield from _ask(name, path, command, arguments)
        self._complain(absent)

    def _complain(self, absent: Sequence[str]) -> None:
        if absent:
            raise CommandError(f"{', '.join(absent)}: being started again, its part is missing here; ask again")

    def _present(self) -> Mapping[str, str]:
        paths = self._paths()
        if not paths:
            raise CommandError("no worker serves at the moment")
        return paths

    def _listing(self, arguments: Arguments) -> Rows:
        return self._limited(arguments, arguments.get("limit"))

    def _limited(self, arguments: Arguments, limit: object) -> Iterator[Item | None]:
        count = 0
        for row in self._chain("queue.list", arguments):
            yield row
            count += row is not None
            if count == limit:
                return

    def _changing(self, command: str) -> Command:
        def change(arguments: Arguments) -> Rows:
            if arguments.get("ids"):
                return self._best(command, arguments)
            return self._chain(command, arguments)

        return change

    def _best(self, command: str, arguments: Arguments) -> Iterator[Item | None]:
        """For each id the answer of the worker that knows it."""
        best: dict[str, Item] = {}
        for row in self._chain(command, arguments):
            if row is None:
                yield None
                continue
            known = best.get(row["id"])
            if known is None or _RANKS.get(row.get("reason", ""), 1) > _RANKS.get(known.get("reason", ""), 1):
                best[row["id"]] = row
        yield from best.values()

    def _known(self, command: str, arguments: Arguments) -> Iterator[Item | None]:
        """One message after the other, each from the worker that has it."""
        for queue_id in arguments.get("ids") or []:
            error: CommandError | None = None
            for name, path in self._paths().items():
                try:
                    yield from _ask(name, path, command, {**arguments, "ids": [queue_id]})
                    error = None
                    break
                except CommandError as refusal:
                    error = refusal
            if error is not None:
                raise error

    def _sorted(self, command: str, arguments: Arguments) -> Iterator[Item | None]:
        absent = self._absent()
        rows = yield from self._gathered(command, arguments)
        yield from sorted(rows, key=lambda row: str(row.get("time", "")))
        self._complain(absent)

    def _added(self, command: str, arguments: Arguments) -> Iterator[Item | None]:
        absent = list(self._absent())
        rows = yield from self._gathered(command, arguments)
        if rows:
            missing = {"missing": absent} if absent else {}
            yield {**_sum(rows), "pid": [row["pid"] for row in rows], "workers": len(rows), **missing}

    def _any(self, command: str, arguments: Arguments) -> Iterator[Item | None]:
        """What one worker says, where all would say the same."""
        name, path = next(iter(self._present().items()))
        return _ask(name, path, command, arguments)

    def _last(self, command: str, arguments: Arguments) -> Iterator[Item | None]:
        """What the worker says that is asked last: each one writes what it knows to where all read it."""
        rows: list[Item] = []
        for name, path in self._present().items():
            rows = []
            for row in _ask(name, path, command, arguments):
                if row is None:
                    yield None
                else:
                    rows.append(row)
        yield from rows

    def _gathered(self, command: str, arguments: Arguments) -> Generator[None, None, list[Item]]:
        """All rows of all workers, who work on it at the same time."""
        rows: list[Item] = []
        asked = [_ask(name, path, command, arguments) for name, path in self._present().items()]
        try:
            for answer in asked:
                next(answer)  # which asks, and does not wait
            for answer in asked:
                for row in answer:
                    if row is None:
                        yield None
                    else:
                        rows.append(row)
        finally:
            for answer in asked:
                answer.close()
        return rows


def ask(name: str, path: str, command: str, arguments: Arguments) -> list[Item]:
    """All rows of one worker's answer; for a thread, since it waits. Raises CommandError."""
    return [row for row in _ask(name, path, command, arguments) if row is not None]


def _ask(
    name: str, path: str, command: str, arguments: Arguments, patience: float = 0.0
) -> Generator[Item | None, None, None]:
    """The rows of one worker's answer, and None whenever there is nothing yet, first of all. Raises CommandError."""
    request = encode({"relaymta": VERSION, "command": command, "arguments": _said(arguments)})
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        try:
            link.connect(path)
            link.sendall(request)
            link.setblocking(False)
            yield None
            yield from _rows(link, name, patience or PATIENCE)
        except OSError as error:
            raise CommandError(f"{name} does not answer: {error.strerror or error}") from None


def _said(arguments: Arguments) -> dict[str, Any]:
    """The arguments for a worker, which learns from the kernel that the parent asks, and from us for whom."""
    return {**{key: value for key, value in arguments.items() if key != "by"}, "for": arguments.get("by", "")}


def _rows(link: socket.socket, name: str, patience: float) -> Iterator[Item | None]:
    rest, since = b"", time.monotonic()
    while True:
        if not select.select([link], [], [], BREATH)[0]:
            if time.monotonic() - since > patience:
                raise CommandError(f"{name} does not answer")
            yield None
            continue
        octets = link.recv(65536)
        if not octets:
            raise CommandError(f"{name} ended before its answer did")
        since = time.monotonic()
        *lines, rest = (rest + octets).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if "row" in answer:
                yield answer["row"]
            elif "error" in answer:
                raise CommandError(answer["error"])
            else:
                return


def _sum(rows: Sequence[Item]) -> Item:
    """Numbers added up, of what differs otherwise the first; lists of lanes are put together by name."""
    total: Item = {}
    for key, first in rows[0].items():
        values = [row[key] for row in rows if key in row]
        if first is None or isinstance(first, (bool, str)):
            total[key] = next((value for value in values if value is not None), None)
        elif key in ("uptime", "oldest_due", "days_left"):
            total[key] = (max if key == "uptime" else min)(value for value in values if value is not None)
        elif isinstance(first, (int, float)):
            total[key] = sum(value for value in values if value is not None)
        elif isinstance(first, dict):
            total[key] = _sum(values)
        else:
            total[key] = _sum_lanes([one for value in values for one in value])
    return total


def _sum_lanes(lanes: Sequence[Item]) -> list[Item]:
    by_name: dict[str, list[Item]] = {}
    for lane in lanes:
        by_name.setdefault(str(lane["lane"]), []).append(lane)
    return [_sum(same) for same in by_name.values()]
