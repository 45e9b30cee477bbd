"""MTA-STS from the policy to the message: real name server, web server and TLS receivers, and two worker processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from tests.net.certificates import make
from tests.net.nsd import NSD_MISSING, nsd
from tests.peers import daemon as daemon_module
from tests.peers.client import Client, send_letter
from tests.peers.daemon import Daemon
from tests.peers.policyhost import PolicyHost, context_of, why_not
from tests.peers.postbox import Postbox
from tests.peers.programs import wait_until

WEB = "127.0.0.240"
WHY_NOT = NSD_MISSING or why_not(WEB) or why_not("127.0.0.242", 25)
pytestmark = [pytest.mark.peers, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "-")]

POLICY = "version: STSv1\r\nmode: {mode}\r\nmx: {mx}.town.test\r\nmax_age: 604800\r\n"
# domain: its policy's mode, the host that this names, the name in the certificate of its host ("" for no TLS)
DOMAINS = {
    "good": ("enforce", "mx-good", "mx-good"),
    "wrong": ("enforce", "mx-wrong", "mx-good"),
    "clear": ("enforce", "mx-clear", ""),
    "unnamed": ("enforce", "mx-other", "mx-unnamed"),
    "tested": ("testing", "mx-tested", "mx-good"),
    "plain": ("", "", ""),
}
SETTINGS = """
[dns]
servers = ["{server}"]
[mta_sts]
enabled = true
[tls_report]
from = "tls@relay.example.org"
[delivery]
tls_ca = "{ca}"
[queue]
retry = ["1h"]
"""


@define
class Town:
    """The relay, and the hosts that its mail goes to by domain."""

    folder: Path
    daemon: Daemon
    hosts: dict[str, Postbox]

    def explain(self, domain: str, *words: str) -> list[dict[str, Any]]:
        """The steps of the way to a domain."""
        return self.daemon.ask("explain", f"bob@{domain}.town.test", *words)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A letter to each domain, sent and settled or put off."""
    folder = tmp_path_factory.mktemp("town")
    ca = make(ca=True, kind="rsa", common_name="authority")
    (folder / "ca.pem").write_bytes(ca.pem)
    lines, policies, hosts = [], {}, {}
    for number, (domain, (mode, named, certified)) in enumerate(DOMAINS.items(), 242):
        lines.append(f"{domain} MX 10 mx-{domain}\nmx-{domain} A 127.0.0.{number}")
        if mode:
            policies[f"{domain}.town.test"] = POLICY.format(mode=mode, mx=named).encode()
            lines.append(f'_mta-sts.{domain} TXT "v=STSv1; id=1;"\nmta-sts.{domain} A {WEB}')
        context = context_of(folder, make(f"{certified}.town.test", by=ca)) if certified else None
        hosts[domain] = Postbox(host=f"127.0.0.{number}", port=25, context=context)
    environment = {**daemon_module.ENVIRONMENT, "SSL_CERT_FILE": str(folder / "ca.pem")}
    with (
        pytest.MonkeyPatch.context() as patch,
        nsd({"town.test": "\n".join(lines)}) as server,
        PolicyHost(folder, ca, policies, WEB),
    ):
        patch.setattr(daemon_module, "ENVIRONMENT", environment)
        for host in hosts.values():
            host.start()
        extra = SETTINGS.format(server=server, ca=folder / "ca.pem")
        daemon = Daemon(folder / "relay", workers=2, extra=extra)
        try:
            daemon.start()
            for number, domain in enumerate(DOMAINS):
                send_letter(daemon.port, number, recipient=f"bob@{domain}.town.test")
            wait_until("three deferrals", lambda: daemon.log().count(" recipient-deferred ") == 3, 30, daemon.log)
            wait_until("three deliveries", lambda: daemon.log().count(" recipient-settled ") == 3, 30, daemon.log)
            yield Town(folder, daemon, hosts)
        finally:
            daemon.stop()
            for host in hosts.values():
                host.stop()


def line_of(town: Town, event: str, domain: str) -> str:
    """The line of the log that says what became of a domain's letter."""
    [line] = [one for one in town.daemon.log().splitlines() if f" {event} " in one and f"@{domain}.town.test" in one]
    return line


def test_a_good_certificate_is_delivered_to(town: Town) -> None:
    """RFC 8461 §4: the host is named, its certificate is valid, and the log says by what it was verified."""
    [message] = town.hosts["good"].taken
    assert message.tls and "(verified: PKIX, by MTA-STS)" in line_of(town, "recipient-settled", "good")


@pytest.mark.parametrize(
    ("domain", "reason", "stages"),
    [
        ("wrong", "the certificate is not for mx-wrong.town.test", ["CONNECT", "EHLO", "STARTTLS"]),
        ("clear", "the peer does not offer STARTTLS", ["CONNECT", "EHLO", "QUIT"]),
        ("unnamed", "the policy of unnamed.town.test does not name mx-unnamed.town.test", []),
    ],
)
def test_what_the_policy_does_not_allow_waits(town: Town, domain: str, reason: str, stages: list[str]) -> None:
    """RFC 8461 §5: with "enforce" there is no delivery, and no MAIL, neither under TLS nor in clear."""
    host, line = town.hosts[domain], line_of(town, "recipient-deferred", domain)
    assert " status=4.7." in line and reason in line, line
    wanted = [stages] if stages else []
    wait_until("the end of the visit", lambda: [visit.stages for visit in host.visits] == wanted)


def test_testing_delivers(town: Town) -> None:
    """RFC 8461 §5: what "testing" would not allow is delivered all the same, over TLS where there is any."""
    [tested], [plain] = town.hosts["tested"].taken, town.hosts["plain"].taken
    assert tested.tls and not plain.tls
    assert "verified" not in line_of(town, "recipient-settled", "tested")


def test_a_sender_may_do_without(town: Town) -> None:
    """RFC 8689 §4.2.2: with "TLS-Required: No" the policy is not looked at; no certificate keeps the message back."""
    for domain in ("wrong", "clear"):
        assert not town.hosts[domain].taken
        with Client(town.daemon.port) as client:
            client.begin("alice@example.net", f"bob@{domain}.town.test")
            assert client.data(b"From: <alice@example.net>\r\nTLS-Required: No\r\n\r\n").startswith("250 ")
        [message] = town.hosts[domain].wait_for(1)
        assert b"TLS-Required: No\r\n" in message.content and message.tls is (domain == "wrong")


def test_all_of_it_is_counted(town: Town) -> None:
    """RFC 8460 §4.3: one session each, of success or failure, by the worker that had it."""
    wanted = {
        "good": ("sts", 1, ""),
        "wrong": ("sts", 0, "certificate-host-mismatch"),
        "clear": ("sts", 0, "starttls-not-supported"),
        "unnamed": ("sts", 0, "validation-failure"),
        "tested": ("sts", 0, "certificate-host-mismatch"),
        "plain": ("no-policy-found", 0, "starttls-not-supported"),
    }
    found = {}
    for row in town.daemon.ask("tlsrpt", "show"):
        for policy in row["report"]["policies"]:
            summary = policy["summary"]
            [kind] = [one["result-type"] for one in policy.get("failure-details", ())] or [""]
            assert summary["total-failure-session-count"] == bool(kind)
            successes = summary["total-successful-session-count"]
            found[row["domain"].partition(".")[0]] = (policy["policy"]["policy-type"], successes, kind)
    assert found == wanted


def test_explain_says_why(town: Town) -> None:
    """The verdict of the policy is a reason of the step of TLS; a host that it bars makes mail wait."""
    for domain, result, text in (
        ("good", "ok", "MTA-STS: the policy of good.town.test (enforce) names mx-good.town.test"),
        ("unnamed", "waits", "MTA-STS: the policy of unnamed.town.test (enforce) does not name mx-unnamed.town.test"),
        ("tested", "ok", "MTA-STS: the policy of tested.town.test (testing) names mx-tested.town.test"),
        ("plain", "ok", "MTA-STS: plain.town.test has no policy"),
    ):
        rows = town.explain(domain)
        [step] = [row for row in rows if row["step"] == "tls"]
        assert text in step["reasons"] and (step["result"], rows[-1]["result"]) == (result, result)


def test_a_record_tells_the_same_without_a_network(town: Town) -> None:
    """What was answered, MTA-STS verdicts too, is told again from the file, also for a domain that is barred."""
    for domain in ("good", "unnamed"):
        file = town.folder / f"{domain}.json"
        told = town.explain(domain, "--record", str(file))
        assert json.loads(file.read_text())["verdicts"]
        again = town.explain(domain, "--offline", str(file))
        keys = ("mx", "host", "tls", "verdict")
        assert [row for row in again if row["step"] in keys] == [row for row in told if row["step"] in keys]
