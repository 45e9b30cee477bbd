"""One answer for all workers."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relaymta.admin.control import Command, CommandError, ControlSocket
from relaymta.admin.fanout import Fanout, ask
from relaymta.admin.lanestate import lane_step

STATE = {"lane": "x", "running": 0, "window": 5, "fresh": 0, "tickets": 0, "failures": 0, "until": 0.0}
LANE = {"lane": "smtp:example.org", "running": 1, "until": 0.0}


def worker(name: str, ids: list[str], shelf: list[str]) -> dict[str, Command]:
    """The commands of a worker that has the messages `ids`; `shelf` is what all of them write to."""

    def show(arguments: Any) -> Any:
        if arguments["ids"][0] not in ids:
            raise CommandError(f"there is no message {arguments['ids'][0]} in the queue")
        return [{"id": arguments["ids"][0], "at": name}]

    def hold(arguments: Any) -> Any:
        named = arguments.get("ids")
        if not named:
            return [{"id": one, "changed": True} for one in ids]
        return [
            {"id": one, "changed": True} if one in ids else {"id": one, "changed": False, "reason": "not in the queue"}
            for one in named
        ]

    def tlsrpt(arguments: Any) -> Any:
        shelf.extend(ids)
        return [{"domain": one} for one in shelf]

    stats = {"version": "1", "pid": len(ids), "uptime": 5.0, "queue": {"queued": len(ids), "oldest_due": None}}
    return {
        "stats": lambda arguments: [{**stats, "lanes": {"count": 1, "fullest": [LANE]}}],
        "trace": lambda arguments: [{"time": f"2026-01-0{len(ids)}", "event": name}],
        "tlsrpt.show": tlsrpt,
        "sts": lambda arguments: [{"domain": arguments["domain"], "at": name}],
        "queue.list": lambda arguments: ({"id": one} for one in ids),
        "queue.show": show,
        "queue.hold": hold,
        "auth.list": lambda arguments: [{"at": name}],
        "quota.list": lambda arguments: [{"account": "app", "at": name}],
        "explain": lambda arguments: [{"step": "route", "at": name}, lane_step("x", {"this process": STATE})],
        "explain.lane": lambda arguments: [{**STATE, "running": len(ids)} if arguments["lane"] == "x" else {}],
    }


class FanoutTests(TestCase):
    """A parent over two workers, on real sockets."""

    def setUp(self) -> None:
        """Two workers: one has A and B, the other has C."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.paths = {"worker 0": f"{folder}/0", "worker 1": f"{folder}/1"}
        shelf: list[str] = []
        workers = (worker("0", ["A", "B"], shelf), worker("1", ["C"], shelf))
        for path, commands in zip(self.paths.values(), workers, strict=True):
            control = ControlSocket(reactor, path, commands, lambda event: None)
            control.open()
            self.addCleanup(control.close)
        self.absent: list[str] = []
        self.table = Fanout(lambda: self.paths, lambda: self.absent).table()

    async def rows(self, command: str, **arguments: Any) -> list[Any]:
        """What the parent answers."""
        answer = self.table[command](arguments)
        rows = await deferToThread(list, answer)  # type: ignore[arg-type]
        return [row for row in rows if row is not None]

    async def test_a_listing_is_that_of_all_workers(self) -> None:
        """`queue list` shows every worker's messages, and stops at its limit."""
        assert [row["id"] for row in await self.rows("queue.list")] == ["A", "B", "C"]
        assert len(await self.rows("queue.list", limit=2)) == 2

    async def test_a_message_is_shown_by_the_worker_that_has_it(self) -> None:
        """`queue show` asks until one knows the message; what nobody knows is an error."""
        assert await self.rows("queue.show", ids=["C", "A"]) == [{"id": "C", "at": "1"}, {"id": "A", "at": "0"}]
        with self.assertRaises(CommandError):
            await self.rows("queue.show", ids=["D"])

    async def test_a_change_is_told_once_for_each_message(self) -> None:
        """Of an id that one worker holds and the other does not know, the change is told."""
        rows = await self.rows("queue.hold", ids=["A", "C", "D"])
        assert [(row["id"], row["changed"]) for row in rows] == [("A", True), ("C", True), ("D", False)]
        assert len(await self.rows("queue.hold", all=True)) == 3

    async def test_numbers_are_added_up(self) -> None:
        """`stats` is one row: counts summed, lanes of one name put together."""
        (row,) = await self.rows("stats")
        assert (row["workers"], row["queue"]["queued"], row["pid"]) == (2, 3, [2, 1])
        assert row["lanes"]["fullest"] == [{"lane": "smtp:example.org", "running": 2, "until": 0.0}]

    async def test_a_way_is_one_workers_and_its_lane_everybodys(self) -> None:
        """`explain` asks one worker for the way, and all of them for the state of its lane."""
        route, lane = await self.rows("explain", address="a@b.test")
        assert route == {"step": "route", "at": "0"}
        assert lane["running"] == 3 and {name: one["running"] for name, one in lane["workers"].items()} == {
            "worker 0": 2,
            "worker 1": 1,
        }
        self.paths.clear()
        with self.assertRaisesRegex(CommandError, "no worker serves"):
            await self.rows("explain", address="a@b.test")

    async def test_a_trace_is_in_the_order_of_time(self) -> None:
        """What the workers remember is put together by time."""
        assert [row["event"] for row in await self.rows("trace", id="A")] == ["1", "0"]

    async def test_what_all_workers_share_is_told_by_one(self) -> None:
        """Failed log-ins are counted for the host: `auth list` is not each worker's."""
        assert await self.rows("auth.list") == [{"at": "0"}]
        self.paths.clear()
        with self.assertRaisesRegex(CommandError, "no worker serves"):
            await self.rows("auth.list")

    async def test_of_what_all_share_the_last_one_tells(self) -> None:
        """`tlsrpt show` makes every worker write what it knows; `sts` is asked of any."""
        assert [row["domain"] for row in await self.rows("tlsrpt.show")] == ["A", "B", "C"]
        assert await self.rows("sts", domain="a.example") == [{"domain": "a.example", "at": "0"}]
        self.paths.clear()
        for command in ("tlsrpt.show", "sts"):
            with self.assertRaisesRegex(CommandError, "no worker"):
                await self.rows(command)

    async def test_a_worker_that_is_not_there_is_named(self) -> None:
        """A listing is never silently without a worker's part."""
        self.paths["worker 2"] = "nowhere"
        with self.assertRaisesRegex(CommandError, "worker 2 does not answer"):
            await self.rows("queue.list")

    async def test_a_worker_that_is_being_started_again_is_named(self) -> None:
        """What it has cannot be shown; numbers say so beside them, listings and traces at their end."""
        self.absent = ["worker 7"]
        (row,) = await self.rows("stats")
        assert row["missing"] == ["worker 7"] and row["workers"] == 2
        for command, arguments in (("queue.list", {}), ("trace", {"id": "A"})):
            seen: list[Any] = []
            answer: Any = self.table[command](arguments)
            with self.assertRaisesRegex(CommandError, "worker 7: being started again"):
                await deferToThread(lambda answer=answer, seen=seen: seen.extend(row for row in answer if row))
            assert seen
    async def test_what_the_host_has_counted_is_asked_of_one(self) -> None:
        """`quota` is the same in every worker; with none there is nobody to ask."""
        assert await self.rows("quota.list") == [{"account": "app", "at": "0"}]
        self.paths.clear()
        with self.assertRaisesRegex(CommandError, "no worker serves"):
            await self.rows("quota.list")

    async def test_one_worker_is_asked_in_a_thread(self) -> None:
        """ask() gives all rows of one worker."""
        assert await deferToThread(ask, "worker 1", self.paths["worker 1"], "queue.list", {}) == [{"id": "C"}]
