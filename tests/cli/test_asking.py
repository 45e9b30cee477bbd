"""Commands against a daemon: its control socket over a real queue, and relaymta(1) as a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from relaymta.admin.commands import DaemonCommands, RelayCommands
from relaymta.admin.control import CommandError, ControlSocket
from relaymta.admin.queuecommands import QueueCommands
from relaymta.admin.recorder import Recorder
from relaymta.events import MessageFinished
from tests.queue.rig import Rig, deferred


class AgainstADaemon(TestCase):
    """A daemon with three messages, one of them on hold."""

    timeout = 60

    def setUp(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.config = os.path.join(folder, "relaymta.toml")
        path = os.path.join(folder, "control")
        with open(self.config, "w") as stream:
            stream.write(f'hostname = "host.example"\n[admin]\nsocket = "{path}"\n')
        self.rig = Rig()
        self.rig.peers.script = deferred
        self.ids = [self.rig.submit(domain) for domain in ("example.net", "example.com", "example.com")]
        self.rig.submit("example.org", sender=None)
        self.rig.settle_down()
        self.recorder = Recorder(self.rig.clock.seconds)
        self.stopped: list[str] = []
        self.reload_error = ""
        self.commands: dict[str, Any] = {
            **QueueCommands(self.rig.manager, self.rig.desk).table(),
            **DaemonCommands(
                version="0.1.0", pid=42, seconds=self.rig.clock.seconds, reload=self.reload, stop=self.stop
            ).table(),
            **RelayCommands(
                version="0.1.0", pid=42, seconds=self.rig.clock.seconds, stats=self.rig.manager.stats,
                lanes=self.rig.lanes, recorder=self.recorder,
            ).table(),
        }  # fmt: skip
        self.control = ControlSocket(reactor, path, self.commands, self.rig.told.append)
        self.control.open()
        self.addCleanup(self.control.close)

    def reload(self) -> None:
        """What the daemon does when it is told to reload."""
        if self.reload_error:
            raise CommandError(self.reload_error)

    def stop(self, reason: str) -> None:
        """What the daemon does when it is told to stop: it goes, and its connections with it."""
        self.stopped.append(reason)
        readers: list[Any] = list(reactor.getReaders())
        for reader in readers:
            if type(reader).__name__ == "Server":
                reactor.callLater(0.05, reader.abortConnection)

    async def call(self, *words: str, shell: str = "") -> tuple[str, str, int]:
        """Run a command; `shell` is what stands behind it in a pipe."""
        command = [sys.executable, "-m", "relaymta.cli.main", *words]
        if shell:
            command = ["/bin/bash", "-c", 'set -o pipefail; "$@" ' + shell, "bash", *command]
        environment = {**os.environ, "RELAYMTA_CONFIG": self.config, "PYTHONPATH": os.pathsep.join(sys.path)}
        out, err, code = await getProcessOutputAndValue(command[0], command[1:], env=environment)
        self.rig.settle_down()
        return out.decode(), err.decode(), code

    async def test_the_queue_as_a_table(self) -> None:
        """Columns for people, and how many there are."""
        out, err, code = await self.call("queue", "list")
        assert (err, code) == ("", 0)
        lines = out.splitlines()
        assert lines[0].split() == ["ID", "STATE", "AGE", "NEXT", "SIZE", "SENDER", "RECIPIENT", "REASON"]
        assert len(lines) == 6 and lines[-1] == "4 messages"
        assert sum("bob@example.com" in line for line in lines) == 2 and sum(" <> " in line for line in lines) == 1

    async def test_the_queue_in_brief(self) -> None:
        """Without opening a file."""
        before = self.rig.spool.loads
        out, _, code = await self.call("queue", "list", "--brief", "--limit", "2")
        assert code == 0 and len(out.splitlines()) == 4 and self.rig.spool.loads == before

    async def test_the_queue_for_programs(self) -> None:
        """One object a line, and filters are the daemon's."""
        out, _, code = await self.call("queue", "list", "--json", "--domain", "example.com")
        rows = [json.loads(line) for line in out.splitlines()]
        assert code == 0 and {row["id"] for row in rows} == set(self.ids[1:])

    async def test_an_endless_queue_can_be_looked_at(self) -> None:
        """`relaymta queue list --json | head` answers at once, ends quietly, and the daemon stops making rows."""
        made = itertools.count()
        closed: Deferred[None] = Deferred()

        def rows(_: Any) -> Iterator[object]:
            try:
                for number in made:
                    yield {"id": str(number), "state": "waiting"}
            finally:
                closed.callback(None)

        self.commands["queue.list"] = rows
        out, err, code = await self.call("queue", "list", "--json", shell="| head -n 2")
        assert [json.loads(line)["id"] for line in out.splitlines()] == ["0", "1"]
        assert (err, code) == ("", 0)
        await closed

    async def test_an_endless_table_can_be_looked_at(self) -> None:
        """The same for people."""
        self.commands["queue.list"] = lambda _: (
            {"id": str(number), "state": "ready", "accepted": 0, "due": None, "lane": ""}
            for number in itertools.count()
        )
        out, err, code = await self.call("queue", "list", "--brief", shell="| head -n 3")
        assert len(out.splitlines()) == 3 and (err, code) == ("", 0)

    async def test_show(self) -> None:
        """Envelope, recipients, story and header of one message."""
        out, _, code = await self.call("queue", "show", self.ids[0])
        assert code == 0 and out.startswith(self.ids[0])
        assert "from       alice@example.org" in out and "bob@example.net" in out and "Subject:" in out
        out, _, code = await self.call("queue", "show", self.ids[0], "--json")
        assert code == 0 and json.loads(out)["story"][0]["event"] == "attempted"
        out, err, code = await self.call("queue", "show", "NONE")
        assert (out, err, code) == ("", "relaymta: there is no message NONE in the queue\n", 1)

    async def test_show_prints_a_header_as_people_read_it(self) -> None:
        """Tabs are blanks; what only Unicode takes for the end of a line is none, and is escaped."""
        [row] = self.commands["queue.show"]({"ids": [self.ids[0]]})
        row["header"] = "Received: from x\r\n\tby y\r\nSubject: a\u2028Received: from z\r\n"
        self.commands["queue.show"] = lambda _: iter([row])
        out, _, code = await self.call("queue", "show", self.ids[0])
        assert code == 0
        assert out.splitlines()[-3:] == ["Received: from x", "        by y", "Subject: a\\u2028Received: from z"]

    async def test_hold_release_retry_and_delete(self) -> None:
        """Each says how many; an id that cannot be changed is named, and nothing done to any is exit 1."""
        out, _, code = await self.call("queue", "hold", "--domain", "example.com", "--reason", "spam run")
        assert (out, code) == ("2 messages on hold\n", 0)
        out, _, code = await self.call("queue", "list", "--held")
        assert out.count("spam run") == 2
        out, _, code = await self.call("queue", "hold", self.ids[1])
        assert (out, code) == (f"{self.ids[1]}: nothing to change\n0 messages on hold\n", 1)
        out, _, code = await self.call("queue", "release", "--held", "--json")
        assert code == 0 and len(out.splitlines()) == 2
        out, _, code = await self.call("queue", "retry", "--all")
        assert (out, code) == ("4 messages to be attempted now\n", 0)
        out, _, code = await self.call("queue", "delete", "--id", self.ids[0], "NONE")
        assert (out, code) == ("NONE: not in the queue\n1 message deleted\n", 0)
        out, _, code = await self.call("queue", "delete", "--sender", "nobody@example.org")
        assert (out, code) == ("0 messages deleted\n", 0)

    async def test_stats(self) -> None:
        """Numbers by name, and the fullest lanes."""
        out, _, code = await self.call("stats")
        assert code == 0 and out.startswith("relaymta 0.1.0, process 42, up ")
        facts = {line.rsplit(None, 1)[0]: line.rsplit(None, 1)[-1] for line in out.splitlines() if line}
        assert facts["queued"] == "4" and facts["ledger difference"] == "0"
        out, _, _ = await self.call("stats", "--json")
        assert json.loads(out)["queue"]["queued"] == 4

    async def test_trace(self) -> None:
        """Known events, or that nothing is known, with where else to look."""
        self.recorder(MessageFinished("Q1", 0.5))
        out, _, code = await self.call("trace", "Q1")
        assert code == 0 and "message-finished  id=Q1 seconds=0.5" in out
        for more in ((), ("--json",)):
            out, err, code = await self.call("trace", "Q2", *more)
            assert (out, code) == ("", 1)
            assert err.startswith("relaymta: nothing is remembered of Q2 since the start or the last reload; older")
        out, _, code = await self.call("trace", "Q1", "--json")
        assert json.loads(out)["event"] == "message-finished"

    async def test_auth(self) -> None:
        """Who is refused and why, as a table and for programs; unlocking what is not locked is exit 1."""
        now = time.time()
        row = {"address": "192.0.2.1", "account": "al\x1bice", "offences": 3, "attempts": 7, "last": now, "until": 0.0}
        whole = {**row, "address": "2001:db8::/64", "account": None, "until": now + 3700, "last": 0.0}
        self.commands["auth.list"] = lambda _: [row, whole]
        self.commands["auth.unlock"] = lambda asked: [{"unlocked": asked["what"], "refusals": 1, "offences": 0}]
        out, err, code = await self.call("auth", "list")
        lines = [line.split() for line in out.splitlines()]
        assert (err, code) == ("", 0)
        assert lines[1][:4] == ["192.0.2.1", "al\\x1bice", "3", "7"]
        assert lines[2][1] == "(any)" and lines[2][-1] == "1h01m"
        out, _, code = await self.call("auth", "list", "--json")
        assert code == 0 and [json.loads(line) for line in out.splitlines()] == [row, whole]
        assert (await self.call("auth", "unlock", "alice"))[0] == "unlocked alice\n"
        self.commands["auth.list"] = lambda _: []
        self.commands["auth.unlock"] = lambda asked: [{"unlocked": asked["what"], "refusals": 0, "offences": 0}]
        assert (await self.call("auth", "list"))[0].endswith("nobody has failed to log in\n")
        assert await self.call("auth", "unlock", "bob") == ("", "relaymta: nothing counts against bob\n", 1)

    async def test_reload(self) -> None:
        """Done, or every problem on standard error."""
        out, _, code = await self.call("reload")
        assert code == 0 and out.startswith("reloaded")
        self.reload_error = "f.toml:3: spool: must not be empty\nf.toml:4: x: no"
        out, err, code = await self.call("reload")
        assert (out, code) == ("", 1) and err == "relaymta: f.toml:3: spool: must not be empty\nf.toml:4: x: no\n"

    async def test_stop_waits_for_the_end(self) -> None:
        """The command returns when the daemon has gone, and the daemon knows who asked."""
        out, _, code = await self.call("stop")
        assert (out, code) == ("stopped\n", 0)
        assert self.stopped[0].startswith("relaymta stop, by ")

    async def test_stop_that_takes_too_long_is_said(self) -> None:
        """Exit 1 when the daemon still drains."""
        self.commands["stop"] = lambda _: [{"stopping": True}]
        out, err, code = await self.call("stop", "--wait", "100ms")
        assert (out, code) == ("", 1) and "still finishes what it does" in err
        out, err, code = await self.call("stop", "--wait", "0s")
        assert (out, code) == ("stopping\n", 0)

    async def test_the_policy_of_a_domain(self) -> None:
        """`sts` shows it with its lines; none is exit 1."""
        row = {"domain": "a.example", "mode": "enforce", "mx": ["*.a.example"], "max_age": 86400, "version": "1"}
        self.commands["sts"] = lambda arguments: [{**row, "text": ["version: STSv1", "x: \x1b[31m"]}]
        out, err, code = await self.call("sts", "a.example")
        assert (err, code) == ("", 0)
        first, *lines = out.splitlines()
        assert "a.example: enforce" in first and lines == ["    version: STSv1", "    x: \\x1b[31m"]
        self.commands["sts"] = lambda arguments: [{"domain": arguments["domain"], "mode": None}]
        out, err, code = await self.call("sts", "a.example")
        assert (out, err, code) == ("", "relaymta: no MTA-STS policy is in force for a.example\n", 1)
        out, err, code = await self.call("sts", "a.example", "--json")
        assert (json.loads(out)["mode"], code) == (None, 1) and err

    async def test_tls_reports(self) -> None:
        """`tlsrpt show` prints the JSON that would be sent; nothing is exit 1."""
        asked: list[Any] = []

        def show(arguments: Any) -> Any:
            asked.append((arguments.get("domain"), arguments.get("day")))
            return [{"domain": "a.example", "day": "2026-11-23", "report": {"report-id": "preview"}}]

        self.commands["tlsrpt.show"] = show
        out, err, code = await self.call("tlsrpt", "show", "a.example", "--day", "2026-11-23")
        assert (json.loads(out), err, code) == ({"report-id": "preview"}, "", 0)
        out, _, code = await self.call("tlsrpt", "show", "--json")
        assert (json.loads(out)["domain"], code) == ("a.example", 0)
        self.commands["tlsrpt.show"] = lambda arguments: []
        for more in ((), ("--json",)):
            assert await self.call("tlsrpt", "show", *more) == ("", "relaymta: nothing was counted\n", 1)
        assert asked == [("a.example", "2026-11-23"), (None, None)]

    async def test_mailq(self) -> None:
        """The queue as people know it."""
        environment = {**os.environ, "RELAYMTA_CONFIG": self.config, "PYTHONPATH": os.pathsep.join(sys.path)}
        out, err, code = await getProcessOutputAndValue(
            sys.executable, ["-m", "relaymta.cli.sendmail", "-bp"], env=environment
        )
        lines = out.decode().splitlines()
        assert (err, code) == (b"", 0) and lines[0].startswith("-Queue ID-")
        assert lines[-1].endswith("Kbytes in 4 Requests.") and any("MAILER-DAEMON" in line for line in lines)

    async def test_a_daemon_that_dies_in_its_answer_is_said(self) -> None:
        """An answer without its last line is no answer."""

        def rows(_: Any) -> Iterator[object]:
            yield {"id": "1", "state": "waiting"}
            self.stop("")
            while True:
                yield None

        self.commands["queue.list"] = rows
        out, err, code = await self.call("queue", "list", "--json")
        assert out.count("\n") == 1 and code == 1
        assert err == "relaymta: relaymta ended before its answer did\n"
