"""Properties of an attempt, over sites that hypothesis makes up: no recipient is lost, doubled or answered twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from relaymta.delivery.settings import Settings
from relaymta.events import BugCaught
from relaymta.mail.outcome import Fate, Outcome
from tests.delivery.network import HANGS, REFUSES, Behaviour, house
from tests.smtp.scripted import DROP, Server

VERBS = ("BANNER", "EHLO", "HELO", "RSET", "MAIL", "RCPT", "DATA", "DOT", "QUIT")
ODD = (
    b"250 2.0.0 ok\r\n",
    b"354 go\r\n",
    b"421 4.3.2 bye\r\n",
    b"450 4.2.0 grey\r\n",
    b"451 4.3.0 trouble\r\n",
    b"452 too many\r\n",
    b"550 5.1.1 no\r\n",
    b"554 5.7.1 never\r\n",
    b"250 2.0.0 ok\r\n421 4.3.2 bye\r\n",
    b"nonsense\r\n",
    b"25",
    DROP,
)
OFFERS = ((), ("PIPELINING",), ("PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=2"), ("SIZE 20",), ("PIPELINING", "DSN"))
NAMES = [f"r{n}@b.test" for n in range(6)]


@st.composite
def behaviours(draw: st.DrawFn) -> Behaviour:
    """A host that refuses, hangs, or answers oddly now and then, anew on each connection."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from([REFUSES, HANGS]))
    offers = draw(st.sampled_from(OFFERS))
    odd = draw(st.dictionaries(st.tuples(st.sampled_from(VERBS), st.integers(0, 4)), st.sampled_from(ODD), max_size=4))
    most = draw(st.integers(0, 6))
    # Oddities follow the host, not the connection: what comes second comes once.
    counts: Counter[str] = Counter()

    def make() -> Server:
        def answers(verb: str, argument: str) -> bytes | None:
            counts[verb] += 1
            return odd.get((verb, counts[verb] - 1))

        return Server(offers=offers, answers=answers, recipients_max=most)

    return make


def deliver(sites: list[Behaviour], batches: list[int], settings: Settings) -> tuple[list[list[Outcome]], list[Server]]:
    """Run batches over one site; their outcomes and all servers that were spoken to."""
    place = house(*sites, settings=settings)
    results = [place.deliver(*NAMES[:size], sender=f"s{n}@from.test") for n, size in enumerate(batches)]
    assert not [event for event in place.events if isinstance(event, BugCaught)], place.events
    closed = place.deliveries.close()
    place.network.pump([1.0] * 40)
    place.network.settle()
    assert closed.called and not place.network.lines and not place.network.getDelayedCalls()
    return results, place.network.servers


@given(
    st.lists(behaviours(), max_size=4),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 6),
)
def test_every_index_gets_exactly_one_outcome_and_nobody_the_message_twice(
    sites: list[Behaviour], batches: list[int], per_connection: int, most: int
) -> None:
    """Whatever hosts do: one Outcome an index; RELAYED only who was taken; taken twice only after an unknown end."""
    settings = Settings(max_per_connection=per_connection, max_recipients=most)
    results, servers = deliver(sites, batches, settings)
    for number, (size, outcomes) in enumerate(zip(batches, results, strict=True)):
        assert [one.recipient for one in outcomes] == list(range(size))
        mine = f"FROM:<s{number}@from.test>"
        taken = Counter(
            name for server in servers for one in server.taken if one.mail.startswith(mine) for name in one.recipients
        )
        for one in outcomes:
            count = taken[f"TO:<{NAMES[one.recipient]}>"]
            if one.fate is Fate.RELAYED:
                assert count == 1
            else:
                assert count == 0 or one.unknown or (one.reply is not None and one.reply.code >= 400)
            assert one.status[0] == {"RELAYED": "2", "FAILED": "5", "DEFERRED": "4"}[one.fate.name]
            assert one.fate is not Fate.FAILED or one.reply is None or one.reply.permanent


@given(st.sampled_from(VERBS), st.integers(0, 3), st.booleans(), st.integers(1, 4))
def test_a_drop_at_any_point_leaves_nobody_without_an_outcome(
    verb: str, nth: int, pipelining: bool, size: int
) -> None:
    """One host that drops at one point and a second one that works: delivered, or deferred, never failed."""
    counts: Counter[str] = Counter()

    def answers(said: str, argument: str) -> bytes | None:
        counts[said] += 1
        return DROP if said == verb and counts[said] == nth + 1 else None

    make: Callable[[], Server] = lambda: Server(offers=("PIPELINING",) if pipelining else (), answers=answers)  # noqa: E731
    results, servers = deliver([make, Server], [size, size, size], Settings(max_recipients=2))
    for outcomes in results:
        assert all(one.fate in (Fate.RELAYED, Fate.DEFERRED) for one in outcomes)
        assert all(one.unknown is ("after the end" in one.text) for one in outcomes if one.fate is Fate.DEFERRED)
