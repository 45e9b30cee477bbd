"""What a failure means, row by row."""

from __future__ import annotations

import itertools

import pytest

from relaymta.delivery import classify
from relaymta.mail.outcome import Fate, Scope
from relaymta.mail.reply import Reply
from relaymta.routing.mx import Refusal
from relaymta.smtp.actions import Answer, Stage, Trouble

STAGES = [stage for stage in Stage if stage not in (Stage.IDLE, Stage.QUIT, Stage.CLOSED)]
REPLIES = [
    Reply(421, "4.3.2", "bye"),
    Reply(421, "", "bye"),
    Reply(450, "4.2.0", "x"),
    Reply(451, "4.3.0", "x"),
    Reply(452, "", "x"),
    Reply(550, "5.1.1", "x"),
    Reply(554, "", "x"),
]
PEER = classify.Peer("mx.b.test", "192.0.2.1", "TLSv1.3", True)


@pytest.mark.parametrize(("stage", "reply"), list(itertools.product(STAGES, REPLIES)), ids=str)
def test_every_reply_at_every_stage_has_a_meaning(stage: Stage, reply: Reply) -> None:
    """No row is missing: 4yz never fails, and 5yz fails only where it speaks of the message."""
    row = classify.meaning(Answer(stage, reply))
    assert row is not classify._OURS
    if reply.transient:
        assert row.fate is Fate.DEFERRED
    elif row.fate is Fate.DEFERRED:
        assert row.scope is Scope.HOST and row.elsewhere
    assert not row.unknown


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("trouble", [Trouble.LOST, Trouble.TIMEOUT, Trouble.GARBLED])
def test_a_connection_that_ends_never_fails_a_message(stage: Stage, trouble: Trouble) -> None:
    """Loss, time-out and a broken protocol defer and are the host's; unknown exactly after the dot."""
    row = classify.meaning(Answer(stage, trouble=trouble))
    assert row is not classify._OURS and row.fate is Fate.DEFERRED and row.scope is Scope.HOST
    assert row.unknown is (stage is Stage.DOT)
    assert not (row.unknown and row.elsewhere)


def test_nothing_goes_elsewhere_once_content_may_have_been_taken() -> None:
    """From RCPT on no other host is tried: what the peer has may not be sent a second time."""
    late = (classify._RCPT, classify._DATA, classify._DOT)
    assert not [key for key, row in classify._TABLE.items() if row.elsewhere and key[0] in late]


def test_a_5yz_greeting_defers_with_a_status_of_its_own_class() -> None:
    """The DSN of a deferral has no 5.x.x (RFC 3464 §2.3.4)."""
    outcome = classify.outcome(0, Answer(Stage.BANNER, Reply(554, "5.7.1", "no")), 1.0, PEER)
    assert (outcome.fate, outcome.scope, outcome.status) == (Fate.DEFERRED, Scope.HOST, "4.7.1")
    plain = classify.outcome(0, Answer(Stage.BANNER, Reply(554, "", "no")), 1.0, PEER)
    assert plain.status == "4.0.0"


def test_the_peer_is_told() -> None:
    """Host, address, TLS and who has the DSN duties."""
    outcome = classify.outcome(3, Answer(Stage.DOT, Reply(250, "2.0.0", "ok")), 7.0, PEER)
    assert (outcome.recipient, outcome.at, outcome.host, outcome.address) == (3, 7.0, "mx.b.test", "192.0.2.1")
    assert (outcome.tls, outcome.dsn, outcome.fate) == ("TLSv1.3", True, Fate.RELAYED)


def test_lmtp_delivers_and_speaks_of_recipients() -> None:
    """After the dot LMTP's replies are each about one recipient (RFC 2033 §4.2)."""
    peer = classify.Peer("store", "", "", False, lmtp=True)
    done = classify.outcome(0, Answer(Stage.DOT, Reply(250, "2.0.0", "ok")), 1.0, peer)
    full = classify.outcome(0, Answer(Stage.DOT, Reply(552, "5.2.2", "full")), 1.0, peer)
    assert (done.fate, done.scope) == (Fate.DELIVERED, Scope.RECIPIENT)
    assert (full.fate, full.scope) == (Fate.FAILED, Scope.RECIPIENT)


def test_trouble_with_its_own_status_keeps_it() -> None:
    """What the peer cannot take fails with the status of its reason."""
    answer = Answer(Stage.MAIL, trouble=Trouble.UNFIT, status="5.3.4", text="too large")
    outcome = classify.outcome(0, answer, 1.0, PEER)
    assert (outcome.fate, outcome.status, outcome.text) == (Fate.FAILED, "5.3.4", "too large")


def test_a_demand_that_no_host_meets_fails_the_message() -> None:
    """RFC 8689 §4.2.1: the next host is tried, and when there is none the sender is told; it is no host's trouble."""
    answer = Answer(Stage.HELLO, trouble=Trouble.UNSAFE, status="5.7.30", text="no REQUIRETLS")
    assert classify.meaning(answer).elsewhere
    outcome = classify.everywhere(classify.outcome(0, answer, 1.0, PEER))
    assert (outcome.fate, outcome.scope, outcome.status) == (Fate.FAILED, Scope.MESSAGE, "5.7.30")


def test_a_refused_name() -> None:
    """A permanent refusal of the name look-up fails, any other defers; both are the site's."""
    for permanent, fate in ((True, Fate.FAILED), (False, Fate.DEFERRED)):
        outcome = classify.of_refusal(0, Refusal("5.1.2" if permanent else "4.4.3", permanent, "x"), 1.0)
        assert (outcome.fate, outcome.scope, outcome.text) == (fate, Scope.SITE, "x")


def test_only_a_hosts_trouble_becomes_the_sites() -> None:
    """`everywhere` widens HOST to SITE and leaves all else."""
    lost = classify.outcome(0, Answer(Stage.CONNECT, trouble=Trouble.UNREACHABLE, text="x"), 1.0)
    assert classify.everywhere(lost).scope is Scope.SITE
    refused = classify.outcome(0, Answer(Stage.RCPT, Reply(550, "5.1.1", "x")), 1.0)
    assert classify.everywhere(refused) is refused


def test_the_reason_names_the_place() -> None:
    """A lost connection is told with its stage, for the log and the notice."""
    text = classify.reason(Answer(Stage.DATA, trouble=Trouble.LOST, text="Connection reset"))
    assert text == "the connection was lost after DATA: Connection reset"
    assert classify.reason(Answer(Stage.BANNER, Reply(554, "5.7.1", "no"))) == "554 5.7.1 no"
