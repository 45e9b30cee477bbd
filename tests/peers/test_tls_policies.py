"""MTA-STS and TLS reports in the whole relay: a real name server, a web server on port 443, two worker processes."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relaymta.admin.tlsrptshelf import SCHEMA
from relaymta.reports.tlsrpt import DAY, show_day
from tests.net.certificates import make
from tests.net.nsd import NSD_MISSING, nsd
from tests.peers import daemon
from tests.peers.daemon import Daemon
from tests.peers.policyhost import WEB, PolicyHost, why_not
from tests.peers.postbox import Postbox
from tests.peers.programs import wait_until

POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: *.town.test\r\nmax_age: 604800\r\n"
ZONE = f"""
mta-sts A {WEB}
_mta-sts TXT "v=STSv1; id=2026;"
_smtp._tls TXT "v=TLSRPTv1; rua=mailto:tls@reports.test"
"""
SETTINGS = """
[dns]
servers = ["{server}"]
[mta_sts]
enabled = {enabled}
[tls_report]
from = "{sender}"
"""


WHY_NOT = NSD_MISSING or why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "-")


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The policy host of town.test, whose CA the daemons trust; the paths that it was asked for."""
    ca = make(ca=True, kind="rsa", common_name="authority")
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(ca.pem)
    monkeypatch.setitem(daemon.ENVIRONMENT, "SSL_CERT_FILE", str(trusted))
    with PolicyHost(tmp_path, ca, {"town.test": POLICY}) as host:
        yield host.paths


def counted(spool: Path, day: int, domain: str) -> None:
    """Leave the results of a day, as workers do."""
    (spool / "state").mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(spool / "state" / "tlsrpt.sqlite") as connection:
        connection.executescript(SCHEMA)
        connection.execute("INSERT INTO days VALUES (?, ?, 0)", (day, domain))
        connection.execute(
            "INSERT INTO tallies (day, domain, type, terms, patterns, successes) VALUES (?, ?, 'sts', '[]', '[]', 5)",
            (day, domain),
        )


def test_policies_and_reports(relay: Callable[..., Daemon], postbox: Callable[..., Postbox], web: list[str]) -> None:
    """A policy is fetched once for the host and survives a restart; a report goes out once; the operator sees both."""
    home = postbox()
    with nsd({"town.test": ZONE}) as server:
        extra = SETTINGS.format(server=server, enabled="true", sender="tls@relay.example.org")
        made = relay(workers=2, sink=home.port, extra=extra)
        [row] = made.ask("sts", "town.test")
        assert (row["mode"], row["mx"], row["version"]) == ("enforce", ["*.town.test"], "2026")
        assert web == ["/.well-known/mta-sts.txt"]
        none = made.run("relaymta", "sts", "elsewhere.town.test")
        said = "relaymta: no MTA-STS policy is in force for elsewhere.town.test\n"
        assert (none.returncode, none.stderr) == (1, said)
        assert made.stop() == 0
        assert made.log().count("sts-policy-fetched domain=town.test mode=enforce") == 1
        today = int(time.time()) // DAY
        counted(made.folder / "spool", today - 1, "town.test")
        counted(made.folder / "spool", today, "today.test")
        made.start()
        assert made.ask("sts", "town.test")[0]["mode"] == "enforce"
        assert len(web) == 1
        shown = made.ask("tlsrpt", "show")
        assert [(row["domain"], row["day"]) for row in shown] == [("today.test", show_day(today))]
        wait_until("the report", lambda: bool(home.taken), 20, made.log)
        assert made.stop() == 0
    [delivered] = home.taken
    assert (delivered.sender, delivered.recipients) == ("tls@relay.example.org", ("tls@reports.test",))
    mail: Any = email.message_from_bytes(delivered.content, policy=email.policy.default)
    assert mail["TLS-Report-Domain"] == "town.test" and mail["Received"]
    _, attached = mail.iter_parts()
    report = json.loads(gzip.decompress(attached.get_content()))
    assert report["policies"][0]["summary"]["total-successful-session-count"] == 5
    assert made.log().count("tls-report-sent") == 1


def test_a_reload_turns_them_on_and_off(relay: Callable[..., Daemon], web: list[str]) -> None:
    """What the file says is in force after a reload, in one process too."""
    with nsd({"town.test": ZONE}) as server:
        off = SETTINGS.format(server=server, enabled="false", sender="")
        on = SETTINGS.format(server=server, enabled="true", sender="tls@relay.example.org")
        made = relay(workers=0, extra=off)
        for extra in (on, on, off, on):
            made.write(extra=extra)
            assert made.run("relaymta", "reload").returncode == 0
            sts, tlsrpt = made.run("relaymta", "sts", "town.test"), made.run("relaymta", "tlsrpt", "show")
            if extra is on:
                assert (sts.returncode, tlsrpt.stderr) == (0, "relaymta: nothing was counted\n"), sts.stderr
            else:
                assert "mta_sts.enabled is false" in sts.stderr and "tls_report.from is not set" in tlsrpt.stderr
        assert len(web) == 1
        assert made.stop() == 0
    assert "bug-caught" not in made.log()
