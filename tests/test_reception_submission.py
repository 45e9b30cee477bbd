"""The way in for mail of our own people: completed, held to the account's rights and quota, released when it is due."""

from __future__ import annotations

from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred

from relaymta import events
from relaymta.directory.account import Account, Quota
from relaymta.mail.address import Address
from relaymta.mail.content import HEADER_MAX
from relaymta.mail.envelope import Envelope, Recipient
from relaymta.mail.message import edit
from relaymta.mail.reply import Reply
from relaymta.mail.submission import completions
from relaymta.mail.trace import date
from relaymta.policy.pipeline import Pipeline
from relaymta.policy.quota import SCHEMA, Quotas
from relaymta.policy.rights import Rights
from relaymta.policy.submission import Submission
from relaymta.policy.verdict import Judgement, Opinion, Transaction, Verdict
from relaymta.queue.manager import POLICY
from relaymta.reception import LONG_HEADER, NOT_STORED, Arrival
from relaymta.smtp.commands import MailCommand, RcptCommand
from relaymta.store.interfaces import Schedule
from relaymta.store.state import State
from tests.test_reception import ALICE, BOB, NOW, SMALL_MAX, Porch, _now

BODY = b"\r\nhello\r\n"
LARGE = b"\r\n" + b"x" * 70 + b"\r\n" + b"hello\r\n" * SMALL_MAX
BODIES = [BODY, LARGE]


class Desk:
    """A check that logs `account` in, and says `judgement` at DATA and `content` of the header."""

    name = "desk"

    def __init__(self, account: Account | None = None, judgement: Any = None, content: Any = None) -> None:
        self.account = account
        self.judgement = judgement
        self.verdict = content
        self.hold = ""
        self.undone = 0
        self.seen: list[bytes] = []

    def mail(self, transaction: Transaction) -> Opinion:
        """Who it is."""
        if self.account is not None:
            transaction.account, transaction.rights = self.account.name, self.account
        return None

    def data(self, transaction: Transaction) -> Judgement:
        """What a quota would say."""
        transaction.hold = self.hold
        transaction.undo = self._undo
        judgement: Judgement = self.judgement
        return judgement

    def _undo(self) -> None:
        self.undone += 1

    def content(self, transaction: Transaction, header: bytes) -> Judgement:
        """What a scanner would say."""
        self.seen.append(header)
        judgement: Judgement = self.verdict
        return judgement


class Office(Porch):
    """A reception whose one listener is for submission, unless `listener` says otherwise."""

    def __init__(self, desk: Desk | None = None, listener: str = "mx") -> None:
        super().__init__()
        self.desk = desk or Desk()
        manners = self.reception.manners
        checks = [self.desk, manners.relaying, Submission([listener]), Rights()]
        self.reception.manners = evolve(manners, submission=frozenset([listener]), pipeline=Pipeline(checks))

    def send(self, content: bytes, piece: int = 1 << 20, **kwargs: Any) -> Reply:
        """The reply to the end of data, or to DATA."""
        sink = self.transaction(**kwargs)
        for at in range(0, len(content), piece):
            sink.write(content[at : at + piece])
        return self.answer(sink.finish())

    def answer(self, finished: Any) -> Reply:
        """The reply, also when it comes later."""
        if isinstance(finished, Reply):
            return finished
        said: list[Reply] = []
        later = finished if isinstance(finished, Deferred) else Deferred.fromCoroutine(finished)
        later.addCallback(said.append)
        self.settle()
        return said[0]

    def kept(self) -> bytes:
        """What lies on the shelf, behind our Received field."""
        stored = self.stored()[1]
        return stored[stored.index(b"+0000\r\n") + 7 :]


def no(check: str = "desk") -> Verdict:
    """A refusal."""
    return Verdict(Reply(550, "5.7.1", "no"), check)


async def _later(opinion: Opinion) -> Opinion:
    return opinion


# What is completed


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_submitted_mail_gets_what_it_lacks(body: bytes, piece: int) -> None:
    """Date and Message-ID are added, Bcc goes, every other octet stays; small or streamed (RFC 6409 §8)."""
    office = Office()
    header = b"from: a@x.example\r\nBCC: b@y.example,\r\n c@y.example\r\nSubject:  two  spaces \r\n"
    reply = office.send(header + body, piece)
    queue_id = reply.text.rpartition(" ")[2]
    assert reply.code == 250
    added = f"Date: {date(NOW)}\r\nMessage-ID: <{queue_id}@relay.example.org>\r\n".encode()
    assert office.kept() == added + b"from: a@x.example\r\nSubject:  two  spaces \r\n" + body
    [told] = office.of(events.MessageAccepted)
    assert told.message_id == f"<{queue_id}@relay.example.org>" and told.size == len(office.stored()[1])


@pytest.mark.parametrize("body", BODIES)
def test_complete_mail_stays_as_it_is(body: bytes) -> None:
    """Nothing is added to a message that lacks nothing."""
    office = Office()
    content = b"From: a@x.example\r\nDate: now\r\nMessage-ID: <1@x.example>\r\n" + body
    assert office.send(content).code == 250 and office.kept() == content


@pytest.mark.parametrize("body", BODIES)
def test_mail_at_other_listeners_stays_as_it_is(body: bytes) -> None:
    """A mail exchanger adds its Received field and nothing else (RFC 5321 §6.4)."""
    office = Office(listener="submission")
    content = b"Bcc: a@x.example\r\n" + body
    assert office.send(content).code == 250 and office.kept() == content


def test_a_message_without_a_body_is_completed_too() -> None:
    """The fields go where fields belong, whether or not an empty line ends them."""
    for content in (b"From: a@x.example\r\n", b"From: a@x.example\r\n\r\n"):
        office = Office()
        queue_id = office.send(content).text.rpartition(" ")[2]
        edits = completions(content, date=date(NOW), message_id=f"{queue_id}@relay.example.org")
        assert office.kept() == edit(content, edits)
        assert office.kept().endswith(content) and office.kept().startswith(b"Date: ")


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"Subject: x\r\n", "554 5.6.0 the message has no From field"),
        (b"From: a@x.example\r\nFrom: b@x.example\r\n", "554 5.6.0 the message has more than one From field"),
        (b"", "554 5.6.0 the message has no From field"),
    ],
)
def test_a_message_of_nobody_is_refused_and_leaves_nothing(header: bytes, said: str, body: bytes) -> None:
    """RFC 5322 §3.6 wants one From field, and nothing of ours can know it (RFC 6409 §8)."""
    office = Office()
    assert str(office.send(header + body)) == said
    office.settle()
    assert office.spool.stable == office.spool.shelf == {}
    assert office.desk.undone == 1
    [told] = office.of(events.ContentRefused)
    assert (told.check, told.reply) == ("submission", said)


@pytest.mark.parametrize("piece", [1000, 1 << 20])
def test_a_header_section_has_a_bound(piece: int) -> None:
    """One that nobody could see whole is refused where it would have to be vouched for: 552 5.3.4."""
    office = Office()
    content = b"From: a@x.example\r\n" + b"X: " + b"x" * HEADER_MAX + b"\r\nFrom: b@x.example\r\n" + LARGE
    assert office.send(content, piece) is LONG_HEADER
    account = Account("app", senders=("*",))
    assert Office(Desk(account), "submission").send(content, piece) is LONG_HEADER
    assert Office(listener="submission").send(content, piece).code == 250
    assert office.desk.undone == 1 and office.spool.shelf == {}


@pytest.mark.parametrize("size", [SMALL_MAX, 10 * SMALL_MAX, HEADER_MAX - 1000])
@pytest.mark.parametrize("piece", [999, 1 << 20])
def test_a_long_header_section_is_completed_before_the_rest_is_kept(size: int, piece: int) -> None:
    """Beyond what is kept in memory otherwise the section is waited for; a second From at its end is seen."""
    office = Office()
    field = b"X-Long: " + b"x" * size + b"\r\n"
    assert office.send(b"From: a@x.example\r\n" + field + b"Bcc: b@y.example\r\n" + LARGE, piece).code == 250
    assert office.kept().endswith(b"From: a@x.example\r\n" + field + LARGE)
    said = str(office.send(b"From: a@x.example\r\n" + field + b"From: b@x.example\r\n" + LARGE, piece))
    assert said == "554 5.6.0 the message has more than one From field"


# Who is served


def test_a_stranger_is_not_served() -> None:
    """Not even with mail for our own domains (RFC 6409 §4.3)."""
    office = Office()
    guest = office.guest("192.0.2.1")
    reply = guest.mail(MailCommand(ALICE))
    assert isinstance(reply, Reply) and (reply.code, reply.enhanced) == (530, "5.7.0")
    [told] = office.of(events.CommandRefused)
    assert (told.check, told.command) == ("submission", "MAIL")


def test_who_has_logged_in_is_served_wherever_he_is() -> None:
    """And relays, when the account may."""
    office = Office(Desk(Account("app")))
    assert office.send(b"From: a@x.example\r\n" + BODY, client="192.0.2.1").code == 250
    office = Office(Desk(Account("app", relay=False)))
    guest = office.guest("127.0.0.1")
    assert guest.mail(MailCommand(ALICE)) is None
    refused = guest.rcpt(RcptCommand(BOB))
    assert isinstance(refused, Reply) and refused.code == 550
    assert guest.rcpt(RcptCommand(Address("b", "ours.example"))) is None


@pytest.mark.parametrize("body", BODIES)
def test_an_account_is_held_to_its_senders(body: bytes) -> None:
    """In the envelope at MAIL, in the header at the end of data; small or streamed."""
    office = Office(Desk(Account("app", senders=("x.example",))))
    guest = office.guest()
    refused = guest.mail(MailCommand(ALICE))
    assert isinstance(refused, Reply) and (refused.code, refused.enhanced) == (550, "5.7.1")
    sender = Address("app", "x.example")
    assert str(office.send(b"From: boss@y.example\r\n" + body, sender=sender)).startswith("550 5.7.1 app may not send")
    assert office.desk.undone == 1 and office.spool.shelf == {}
    assert office.send(b"From: App <app@x.example>\r\n" + body, sender=sender).code == 250
    assert office.desk.undone == 1


# What the checks see and say


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("later", [False, True])
def test_a_check_sees_the_header_as_it_came(body: bytes, later: bool) -> None:
    """Without our Received field, before anything was added, the same for small and large mail."""
    office = Office(Desk(content=_later(None) if later else None))
    header = b"From: a@x.example\r\nBcc: b@y.example\r\n"
    assert office.send(header + body).code == 250
    assert office.desk.seen == [header + b"\r\n"]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("later", [False, True])
def test_a_refusal_of_the_content_leaves_nothing(body: bytes, later: bool) -> None:
    """Said at the end of data, told with the check's name, taken back from what was counted."""
    office = Office(Desk(content=_later(no()) if later else no()))
    assert office.send(b"From: a@x.example\r\n" + body) == no().reply
    office.settle()
    assert office.spool.stable == office.spool.shelf == {} and office.desk.undone == 1
    assert [event.check for event in office.of(events.ContentRefused)] == ["desk"]


@pytest.mark.parametrize("later", [False, True])
def test_a_refusal_at_data_saves_the_content(later: bool) -> None:
    """What is known of the envelope is judged before the content comes."""
    office = Office(Desk(judgement=_later(no()) if later else no()))
    guest = office.guest()
    guest.mail(MailCommand(ALICE))
    guest.rcpt(RcptCommand(BOB))
    reply = guest.data()
    assert (_now(reply) if later else reply) == no().reply
    [told] = office.of(events.CommandRefused)
    assert (told.command, told.check, told.sender) == ("DATA", "desk", "alice@example.net")


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("later", [False, True])
def test_what_is_held_is_taken_and_waits(body: bytes, later: bool) -> None:
    """250, told, on stable storage as held; nothing is attempted."""
    office = Office(Desk(judgement=_later(None) if later else None))
    office.desk.hold = "quota"
    guest = office.guest()
    guest.mail(MailCommand(ALICE))
    guest.rcpt(RcptCommand(BOB))
    sink = guest.data()
    sink = sink if isinstance(sink, Arrival) else _now(sink)
    assert isinstance(sink, Arrival)
    sink.write(b"From: a@x.example\r\n" + body)
    assert office.answer(sink.finish()).code == 250
    office.settle()
    [kept] = office.spool.stable.values()
    assert kept.schedule.held and office.ready == [] and office.desk.undone == 0
    assert office.of(events.MessageHeld) == [events.MessageHeld(sink.queue_id, POLICY, "quota")]


@pytest.mark.parametrize("body", BODIES)
def test_what_never_comes_is_given_back(body: bytes) -> None:
    """A client that goes, and a disk that fails, leave the account as it was."""
    office = Office()
    sink = office.transaction()
    sink.write(b"From: a@x.example\r\n" + body)
    sink.abort()
    assert office.desk.undone == 1
    sink = office.transaction()
    sink.write(b"From: a@x.example\r\n" + body)
    office.spool.refusal = "no space left on device"
    assert office.answer(sink.finish()) is NOT_STORED
    assert office.desk.undone == 2


def test_what_is_over_quota_is_held(tmp_path: Path) -> None:
    """The whole way with a real count: taken, then held, and an aborted message counts for nothing.

    Nor does one whose client went while it was counted, which was never given back.
    """
    office = Office(Desk(Account("app", quota=Quota(messages_per_hour=1))))
    calls: Queue[tuple[Any, ...]] = Queue()
    state = State(str(tmp_path / "state" / "quota.sqlite"), SCHEMA, lambda *call: calls.put(call))
    quotas = Quotas(state, office.clock.seconds, office.told.append)
    manners = office.reception.manners
    office.reception.manners = evolve(manners, pipeline=Pipeline([*manners.pipeline.checks, quotas]))

    def counted() -> None:
        call, *facts = calls.get(timeout=10)
        call(*facts)

    def ask() -> Deferred[Any]:
        guest = office.guest()
        guest.mail(MailCommand(ALICE))
        guest.rcpt(RcptCommand(BOB))
        return Deferred.fromCoroutine(guest.data())  # type: ignore[arg-type]

    def begin() -> Arrival:
        sinks: list[Any] = []
        ask().addCallback(sinks.append)
        assert sinks == []
        counted()
        assert isinstance(sinks[0], Arrival)
        return sinks[0]

    begin().abort()
    counted()
    gone = ask()
    gone.addErrback(lambda failure: failure.trap(CancelledError))
    gone.cancel()
    counted()
    counted()
    for _ in range(2):
        sink = begin()
        sink.write(b"From: a@x.example\r\n" + BODY)
        assert office.answer(sink.finish()).code == 250
        office.settle()
    state.close()
    assert [kept.schedule.held for kept in office.spool.stable.values()] == [False, True]
    [told] = office.of(events.QuotaExceeded)
    assert (told.session, told.account, told.limit, told.over) == ("s1", "app", "messages_per_hour", "hold")


# What the sender wished


@pytest.mark.parametrize("body", BODIES)
def test_a_release_is_kept_with_the_message(body: bytes) -> None:
    """RFC 4865: durable, and scheduled for its time."""
    office = Office()
    wish = {"release_at": NOW + 600.5, "release_request": "for;600"}
    assert office.send(b"From: a@x.example\r\n" + body, **wish).code == 250
    office.settle()
    stored = office.stored()[0]
    assert office.ready == [] and (stored.release_at, stored.release_request) == (NOW + 600.5, "for;600")
    [kept] = office.spool.stable.values()
    assert kept.schedule == Schedule(int(NOW) + 601, "", "alice@example.net")


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    ("field", "requiretls", "optional"),
    [
        (b"", False, False),
        (b"TLS-Required: No\r\n", False, True),
        (b"tls-required: NO\r\n", False, True),
        (b"TLS-Required: Yes\r\n", False, False),
        (b"TLS-Required: No\r\nTLS-Required: No\r\n", False, False),
        (b"TLS-Required: No\r\n", True, False),
        (b"", True, False),
    ],
)
@pytest.mark.parametrize("listener", ["mx", "submission"])
def test_wishes_about_tls_are_kept(
    body: bytes, field: bytes, requiretls: bool, optional: bool, listener: str
) -> None:
    """RFC 8689 §4.1: REQUIRETLS, else the TLS-Required field; at every listener, and neither changes the message."""
    office = Office(listener=listener)
    assert office.send(b"From: a@x.example\r\n" + field + body, requiretls=requiretls).code == 250
    envelope, content = office.stored()
    assert (envelope.requiretls, envelope.tls_optional) == (requiretls, optional)
    assert field in content


def test_mail_of_sendmail_may_wish_too() -> None:
    """The field says the same, whichever way a message came."""
    office = Office()
    envelope = Envelope(ALICE, (Recipient(BOB),), NOW)
    office.reception.take(envelope, b"From: a@x.example\r\nTLS-Required: No\r\n" + BODY)
    office.settle()
    assert office.stored()[0].tls_optional
