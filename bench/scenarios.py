"""What is measured: one frozen value a row of the table."""

from __future__ import annotations

from attrs import frozen

KIB = 1024


@frozen
class Scenario:
    """Letters of `size` octets; `reuse` a connection or open one for each. `goal`: the ratio we want to see."""

    name: str
    size: int = 4 * KIB
    reuse: bool = True
    sessions: int = 20
    recipients: int = 1
    domains: int = 1
    pipelining: bool = True
    tls: bool = False
    most: int = 60_000  # letters in a round, however fast the server is
    goal: float = 0.0

    @property
    def title(self) -> str:
        """For people."""
        size = f"{self.size // KIB} KiB" if self.size < 1_000_000 else f"{self.size // 1_000_000} MB"
        words = [size, "reused" if self.reuse else "new connection each", f"{self.sessions} sessions"]
        if self.recipients > 1:
            words.append(f"{self.recipients} recipients")
        if self.domains > 1:
            words.append(f"{self.domains:,} destinations by MX")
        if self.tls:
            words.append("STARTTLS")
        if not self.pipelining:
            words.append("lockstep client")
        return ", ".join(words)


QUICK = (
    Scenario("new", reuse=False, goal=3.0),
    Scenario("reused", goal=5.0),
    Scenario("64k", size=64 * KIB, most=20_000),
    Scenario("5mb", size=5_000_000, most=300, goal=1.0),
    Scenario("recipients", recipients=50, most=10_000),
    Scenario("tls-new", reuse=False, tls=True, most=20_000),
    Scenario("tls-reused", tls=True),
)

MORE = (
    Scenario("new-1", reuse=False, sessions=1),
    Scenario("new-200", reuse=False, sessions=200),
    Scenario("reused-1", sessions=1),
    Scenario("reused-200", sessions=200),
    Scenario("new-lockstep", reuse=False, pipelining=False),
    Scenario("reused-lockstep", pipelining=False),
    Scenario("64k-new", size=64 * KIB, reuse=False, most=20_000),
    Scenario("5mb-new", size=5_000_000, reuse=False, most=300),
    Scenario("25mb", size=25_000_000, most=100),
    Scenario("destinations", domains=1000, goal=3.0),
)

SIDE_BY_SIDE = {scenario.name: scenario for scenario in (*QUICK, *MORE)}

# relaymta by itself; each is a function of bench.alone or bench.crowded
ALONE = ("scaling", "latency", "growth", "deep", "fairness")
