"""Properties of the client's dialogue, over peers that hypothesis makes up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from relaymta.smtp.actions import Action, Close, Finished, Refused, SendContent, Stage, Trouble
from relaymta.smtp.data import Decoder, stuff
from relaymta.smtp.dialogue import Dialogue
from tests.smtp.scripted import DROP, Server, Wire, parcel, told

POSITIVE = st.just(None)
ODD = st.sampled_from(
    [
        b"250 2.0.0 ok\r\n",
        b"250-2.0.0 several\r\n250 2.0.0 lines\r\n",
        b"251 2.1.5 will forward\r\n",
        b"354 go\r\n",
        b"421 4.3.2 bye\r\n",
        b"450 4.2.0 grey\r\n",
        b"451 4.3.0 trouble\r\n",
        b"452 4.5.3 too many\r\n",
        b"550 5.1.1 no\r\n",
        b"552 too many\r\n",
        b"250-one\r\n251 two\r\n",
        b"2x0 what\r\n",
        b"150 what\r\n",
        b"hello\r\n",
        b"250 ok\n",
        DROP,
    ]
)
VERBS = ("BANNER", "EHLO", "HELO", "LHLO", "STARTTLS", "RSET", "MAIL", "RCPT", "DATA", "DOT", "QUIT")


OFFERS = [(), ("PIPELINING",), ("PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=3"), ("STARTTLS", "SIZE 90")]


@st.composite
def makers(draw: st.DrawFn) -> Callable[[], Server]:
    """Makes servers that are mostly sane and now and then are not, each the same way."""
    offers = draw(st.sampled_from(OFFERS))
    odd = draw(st.dictionaries(st.tuples(st.sampled_from(VERBS), st.integers(0, 5)), ODD, max_size=4))
    most = draw(st.integers(0, 5))

    def make() -> Server:
        counts: dict[str, int] = {}

        def answers(verb: str, argument: str) -> bytes | None:
            count = counts[verb] = counts.get(verb, -1) + 1
            return odd.get((verb, count))

        return Server(offers=offers, answers=answers, recipients_max=most)

    return make


def by_argument(odd: dict[tuple[str, str], bytes], most: int, offers: tuple[str, ...]) -> Server:
    """A server whose answers hang on the command alone, so that pipelining cannot matter to it."""
    return Server(offers=offers, answers=lambda v, a: odd.get((v, a.split(">")[0])), recipients_max=most)


NAMES = [f"r{n}@b.test" for n in range(6)]


@given(makers(), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans())
def test_every_recipient_gets_exactly_one_answer_whatever_the_peer_does(
    make: Callable[[], Server], batches: list[int], lmtp: bool
) -> None:
    """One Finished a parcel, one answer a recipient; only what the server took is told as taken."""
    server = make()
    server.lmtp = lmtp
    made = Wire(Dialogue(b"us.test", lmtp=lmtp), server).open()
    assert made.opened or made.refused is not None or made.closed
    for size in batches:
        if not made.dialogue.usable:
            break
        before = len(server.taken)
        answers = made.send(parcel(*NAMES[:size]))
        assert len(answers) == size
        taken = {name for one in server.taken[before:] for name in one.recipients}
        for name, answer in zip(NAMES, answers, strict=False):
            delivered = answer is not None and answer.reply is not None and answer.reply.code < 400
            if delivered:
                assert answer is not None and answer.stage is Stage.DOT
                if not lmtp:
                    assert f"TO:<{name}>" in taken
            if answer is None:
                assert f"TO:<{name}>" not in taken
        if made.dialogue.stage is Stage.CLOSED:
            break
        if any(one is None for one in answers):
            assert not made.dialogue.usable


COMMANDS = [("MAIL", "FROM:<s@from.test"), ("DATA", "")]
COMMANDS += [(verb, f"TO:<{name}") for verb in ("RCPT", "DOT") for name in NAMES]
SAID = [b"450 4.2.0 grey\r\n", b"550 5.1.1 no\r\n", b"250 2.0.0 ok\r\n", b"451 4.3.0 x\r\n"]


@given(
    st.dictionaries(st.sampled_from(COMMANDS), st.sampled_from(SAID), max_size=5),
    st.integers(0, 6),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_pipelined_equals_lockstep(odd: dict[tuple[str, str], bytes], most: int, count: int, limit: int) -> None:
    """Whether commands are sent ahead makes no difference to any answer or to what the server took (RFC 2920)."""
    odd = {key: said for key, said in odd.items() if key[0] not in ("DATA", "RCPT") or not said.startswith(b"250")}
    results = []
    for offers in ((), ("PIPELINING",)):
        server = by_argument(odd, most, offers)
        made = Wire(Dialogue(b"us.test", max_recipients=limit), server).open()
        answers = [told(made.send(parcel(*NAMES[:count]))) for _ in range(2)]
        results.append((answers, server.taken))
    assert results[0] == results[1]


@given(makers(), st.integers(1, 5), st.integers())
def test_any_split_of_the_replies_gives_the_same_answers(
    make: Callable[[], Server], count: int, seed: int
) -> None:
    """Where the network cuts the peer's replies makes no difference, down to single octets."""
    random = Random(seed)

    def split(octets: bytes) -> Iterable[bytes]:
        while octets:
            size = random.randint(1, 8)
            yield octets[:size]
            octets = octets[size:]

    found = []
    for cut in (lambda octets: [octets], split):
        made = Wire(Dialogue(b"us.test"), make(), cut=cut).open()
        answers = [told(made.send(parcel(*NAMES[:count]))) for _ in range(3) if made.dialogue.usable]
        found.append((answers, made.refused, made.opened, made.server.taken))
    assert found[0] == found[1]


@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(0, 7), st.sampled_from(["lost", "expired", "none"]))
def test_no_stream_of_octets_breaks_the_machine(pieces: list[bytes], after: int, end: str) -> None:
    """Whatever comes in, actions come out and at most one Finished and one Refused; after Close nothing does."""
    dialogue = Dialogue(b"us.test")
    stream = [b"220 x\r\n", b"250-x\r\n250 PIPELINING\r\n"]
    stream = (stream + [b"250 a\r\n", b"250 b\r\n", b"354 c\r\n", b"250 d\r\n"])[:after]
    seen: list[Action] = []
    sent = False
    for piece in stream + pieces:
        if dialogue.usable and not sent:
            sent = True
            seen += dialogue.send(parcel("a@b.test"))
        actions = dialogue.receive(piece)
        seen += actions
        if any(isinstance(one, SendContent) for one in actions) and dialogue.stage is Stage.CONTENT:
            dialogue.content_sent()
    if end == "lost":
        seen += dialogue.lost("gone")
    elif end == "expired":
        seen += dialogue.expired()
    if end != "none":
        assert dialogue.stage is Stage.CLOSED
        assert sum(isinstance(one, Finished) for one in seen) == sent
    assert sum(isinstance(one, Finished) for one in seen) <= 1
    assert sum(isinstance(one, Refused) for one in seen) <= 1
    closes = [place for place, one in enumerate(seen) if isinstance(one, Close)]
    assert closes in ([], [len(seen) - 1])


@given(st.lists(st.sampled_from([b".", b"\r\n", b"\n", b"\r", b"x", b"..", b"\xe4"]), max_size=30))
def test_what_leaves_us_is_one_message_for_any_server(parts: list[bytes]) -> None:
    """Content in whatever shape is stuffed so that the server's end of data is ours and nothing stands behind it."""
    decoder = Decoder(normalize=True)
    decoder.feed(stuff(b"".join(parts)))
    assert decoder.ended and decoder.rest == b""


@given(st.sampled_from(["MAIL", "RCPT", "DATA", "DOT"]), st.integers(0, 4), st.booleans())
def test_a_drop_before_the_dot_is_never_unknown_and_after_it_always(verb: str, nth: int, pipelining: bool) -> None:
    """Only recipients whose content and dot were sent can have an unknown end."""
    counts: dict[str, int] = {}

    def answers(said: str, argument: str) -> bytes | None:
        counts[said] = counts.get(said, -1) + 1
        return DROP if said == verb and counts[said] == nth else None

    server = Server(offers=("PIPELINING",) if pipelining else (), answers=answers)
    made = Wire(Dialogue(b"us.test", max_recipients=2), server).open()
    answers_ = made.send(parcel(*NAMES[:5]))
    for answer in answers_:
        assert answer is not None
        if answer.trouble is Trouble.LOST and answer.stage is Stage.DOT:
            assert verb == "DOT"
