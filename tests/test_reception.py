"""The way in on a Clock: policy at every stage, content kept or refused, nothing acknowledged that is not stored."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Any

import pytest
from attrs import evolve
from twisted.cred.credentials import UsernamePassword
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from relaymta import events
from relaymta.config import Size
from relaymta.directory.account import Account
from relaymta.mail.address import Address
from relaymta.mail.content import HEADER_MAX, header_of
from relaymta.mail.envelope import Body, Envelope, Notify, Origin, Recipient, Ret
from relaymta.mail.message import fields
from relaymta.mail.queueid import IdMaker
from relaymta.mail.reply import Reply
from relaymta.mail.trace import HOPS_MAX
from relaymta.policy.pipeline import Pipeline
from relaymta.policy.relaying import Relaying
from relaymta.policy.settings import RelaySettings
from relaymta.policy.verdict import Judgement, Verdict
from relaymta.queue.manager import Manager
from relaymta.queue.message import Message
from relaymta.queue.settings import Settings
from relaymta.queue.story import decode_envelope
from relaymta.reception import LOOP, NO_ROOM, NOT_STORED, PIECES_MAX, Arrival, Guest, Manners, Reception
from relaymta.smtp.authing import LoggingIn
from relaymta.smtp.commands import MailCommand, RcptCommand
from relaymta.smtp.handler import Peer
from relaymta.smtp.sasl import Shown
from relaymta.store.interfaces import SpoolError
from tests.queue.memory_spool import MemorySpool

NOW = 1_790_000_000.0
SMALL_MAX = 4096
ALICE, BOB = Address("alice", "example.net"), Address("bob", "example.org")
CONTENT = b"Subject: hello\r\nMessage-ID: <m1@example.net>\r\n\r\ntext\r\n"
NO = Reply(550, "5.7.1", "no")


class Check:
    """A policy check that says `judgements[stage]`, and notes what it was asked."""

    name = "check"

    def __init__(self, **judgements: Any) -> None:
        self.judgements = judgements
        self.asked: list[str] = []

    def _say(self, stage: str, facts: str) -> Judgement:
        self.asked.append(f"{stage} {facts}".strip())
        judgement: Judgement = self.judgements.get(stage)
        return judgement

    def connect(self, transaction: Any) -> Judgement:
        return self._say("connect", transaction.client)

    def helo(self, transaction: Any) -> Judgement:
        return self._say("helo", transaction.helo)

    def mail(self, transaction: Any) -> Judgement:
        return self._say("mail", f"{transaction.sender} {transaction.size}")

    def rcpt(self, _transaction: Any, address: Address) -> Judgement:
        return self._say("rcpt", str(address))


class Porch:
    """One reception over a queue in memory. `told` are the events; `ready` the messages that the queue gave out."""

    def __init__(self, check: object | None = None, *, min_free: int = 0) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.spool = MemorySpool(self.clock)
        settings = Settings(min_free=Size(min_free))
        self.manager = Manager(self.spool, self.clock, settings, IdMaker(self.clock.seconds), lambda: 0.5)
        self.manager.open()
        self.ready: list[Message] = []
        self.manager.on_ready = self.ready.append
        self.told: list[events.Event] = []
        relaying = Relaying(RelaySettings((IPv4Network("127.0.0.0/8"),), ("ours.example",)))
        checks = [relaying] if check is None else [relaying, check]
        manners = Manners(
            "relay.example.org", Address("postmaster", "relay.example.org"), relaying, Pipeline(checks), SMALL_MAX
        )
        self.reception = Reception(manners, self.manager, self.clock.seconds, self.told.append)

    def guest(self, client: str = "127.0.0.1", *, esmtp: bool = True, tls: str = "") -> Guest:
        """A session that has said EHLO."""
        peer = Peer("s1", "mx", client, 4711, "127.0.0.1")
        guest = self.reception.handler(peer)
        assert guest.connect() is None
        peer.helo, peer.esmtp, peer.tls = "client.example.net", esmtp, tls
        assert guest.helo(peer.helo, esmtp) is None
        return guest

    def transaction(self, *recipients: Address, **kwargs: Any) -> Arrival:
        """A session that has come to its DATA."""
        guest = self.guest(**{key: kwargs.pop(key) for key in ("client", "esmtp", "tls") if key in kwargs})
        assert guest.mail(MailCommand(kwargs.pop("sender", ALICE), **kwargs)) is None
        for recipient in recipients or (BOB,):
            assert guest.rcpt(RcptCommand(recipient)) is None
        sink = guest.data()
        assert isinstance(sink, Arrival)
        return sink

    def settle(self) -> None:
        """Let the spool sync and the queue give out what it has."""
        for _ in range(4):
            self.clock.advance(0)

    def reply(self, finished: Reply | Deferred[Reply]) -> Reply:
        """What the end of data was answered; nothing is answered 250 before the sync."""
        if isinstance(finished, Reply):
            return finished
        said: list[Reply] = []
        finished.addCallback(said.append)
        assert not said or not said[0].positive, "answered before it was durable"
        self.settle()
        return said[0]

    def of(self, kind: type[events.Event]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.told if type(event) is kind]

    def stored(self) -> tuple[Envelope, bytes]:
        """The only message on stable storage."""
        [kept] = self.spool.stable.values()
        return decode_envelope(kept.head), kept.content


def _now(answer: Any) -> Any:
    """The value of a coroutine that has nothing to wait for."""
    result: list[Any] = []
    Deferred.fromCoroutine(answer).addCallback(result.append)
    return result[0]


async def _later(verdict: Verdict | None) -> Verdict | None:
    return verdict


# A message that is taken


def test_a_small_message_is_stored_before_its_250() -> None:
    """250 comes after the sync, names the queue id, and the queue attempts it then (RFC 5321 §6.1)."""
    porch = Porch()
    sink = porch.transaction()
    sink.write(CONTENT[:10])
    sink.write(CONTENT[10:])
    reply = porch.reply(sink.finish())
    assert (reply.code, reply.enhanced, reply.text) == (250, "2.0.0", f"queued as {sink.queue_id}")
    envelope, content = porch.stored()
    assert (envelope.sender, [one.address for one in envelope.recipients]) == (ALICE, [BOB])
    assert content.endswith(b"+0000\r\n" + CONTENT)
    assert [message.queue_id for message in porch.ready] == [sink.queue_id]
    [told] = porch.of(events.MessageAccepted)
    assert (told.id, told.session, told.client) == (sink.queue_id, "s1", "127.0.0.1")
    assert (told.sender, told.recipients, told.size) == ("alice@example.net", 1, len(content))
    assert (told.message_id, told.protocol) == ("<m1@example.net>", "ESMTP")


@pytest.mark.parametrize("size", [SMALL_MAX - 400, SMALL_MAX, SMALL_MAX + 1, 10 * SMALL_MAX])
@pytest.mark.parametrize("piece", [100, 1 << 20])
def test_content_of_any_size_is_stored_whole(size: int, piece: int) -> None:
    """Below and above small_max, in one piece or many: every octet, once, behind one Received field."""
    porch = Porch()
    sink = porch.transaction()
    content = b"Subject: x\r\n\r\n" + b"0123456789abcd\r\n" * (size // 16)
    for at in range(0, len(content), piece):
        sink.write(content[at : at + piece])
    assert porch.reply(sink.finish()).code == 250
    _, stored = porch.stored()
    assert stored.endswith(content) and stored.count(b"Received: ") == 1
    assert stored[: -len(content)].endswith(b"+0000\r\n")
    assert porch.of(events.MessageAccepted)[0].size == len(stored)


def test_an_empty_message_is_a_message() -> None:
    """No octet of content: stored as its Received field."""
    porch = Porch()
    assert porch.reply(porch.transaction().finish()).code == 250
    assert porch.stored()[1].startswith(b"Received: ")


@pytest.mark.parametrize("blank", [b" ", b"\t"])
@pytest.mark.parametrize("more", [b"", b"x" * 2 * SMALL_MAX])
def test_content_that_begins_with_a_blank_is_no_part_of_received(blank: bytes, more: bytes) -> None:
    """RFC 5322 §2.2.3: our own field went on in what the client had written; now all of that is body."""
    content = blank + b"for <x@y.example>; Mon, 1 Jan 2001 00:00:00 +0000\r\nSubject: x\r\n\r\n" + more
    porch = Porch()
    sink = porch.transaction()
    for octet in content[:5], content[5:]:
        sink.write(octet)
    assert porch.reply(sink.finish()).code == 250
    stored = porch.stored()[1]
    assert header_of(stored).count(b"\r\n\t") == 2 and stored.removeprefix(header_of(stored)) == content
    assert porch.of(events.MessageAccepted)[0].size == len(stored)


def test_content_in_tiny_pieces_takes_no_more_room() -> None:
    """A client that sends an octet or two at a time made one object of each: 128 KiB took three megabytes."""
    content = b"Subject: x\r\n\r\n" + b"ab" * 1500
    porch = Porch()
    sink = porch.transaction()
    for at in range(0, len(content), 2):
        sink.write(content[at : at + 2])
        assert len(sink._parts) <= PIECES_MAX
    assert porch.reply(sink.finish()).code == 250 and porch.stored()[1].endswith(content)


def test_mail_of_sendmail_that_begins_with_a_blank_is_no_part_of_received() -> None:
    """The same where no session was."""
    porch = Porch()
    porch.reception.take(Envelope(ALICE, (Recipient(BOB),), NOW, Origin(protocol="local")), b" x: y\r\n\r\n")
    porch.settle()
    assert porch.stored()[1].endswith(b"\r\n\r\n x: y\r\n\r\n")


def test_what_was_asked_at_mail_and_rcpt_is_in_the_envelope() -> None:
    """BODY, SMTPUTF8, RET, ENVID, NOTIFY and ORCPT are kept with the message."""
    porch = Porch()
    guest = porch.guest()
    guest.mail(MailCommand(None, 100, Body.EIGHTBIT, True, Ret.HDRS, "e1"))
    guest.rcpt(RcptCommand(BOB, Notify.SUCCESS | Notify.DELAY, "rfc822;b@example.org"))
    sink = guest.data()
    assert isinstance(sink, Arrival)
    assert porch.reply(sink.finish()).code == 250
    envelope, _ = porch.stored()
    assert (envelope.sender, envelope.body, envelope.smtputf8) == (None, Body.EIGHTBIT, True)
    assert (envelope.ret, envelope.envid) == (Ret.HDRS, "e1")
    assert envelope.recipients == (Recipient(BOB, Notify.SUCCESS | Notify.DELAY, "rfc822;b@example.org"),)
    assert envelope.accepted_at == NOW
    assert (envelope.origin.session, envelope.origin.helo, envelope.origin.client, envelope.origin.port) == (
        "s1", "client.example.net", "127.0.0.1", 4711,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("session", "command", "word"),
    [
        ({"esmtp": False}, {}, b"SMTP"),
        ({}, {}, b"ESMTP"),
        ({"tls": "TLSv1.3 X"}, {}, b"ESMTPS"),
        ({}, {"smtputf8": True}, b"UTF8SMTP"),
        ({"tls": "TLSv1.3 X"}, {"smtputf8": True}, b"UTF8SMTPS"),
    ],
)
def test_received_says_by_which_protocol(session: dict[str, Any], command: dict[str, Any], word: bytes) -> None:
    """The "with" keyword is that of RFC 3848 and RFC 6531 §4.3."""
    porch = Porch()
    sink = porch.transaction(**session, **command)
    sink.write(CONTENT)
    porch.reply(sink.finish())
    _, content = porch.stored()
    assert b" with %s id %s" % (word, sink.queue_id.encode()) in content.replace(b"\r\n\t", b" ")
    assert content.startswith(b"Received: from client.example.net ([127.0.0.1])")


def test_received_names_a_recipient_only_when_it_is_the_only_one() -> None:
    """One recipient: "for" names it; two: none is shown to the other (RFC 5321 §7.6)."""
    one, two = Porch(), Porch()
    one.reply(one.transaction(BOB).finish())
    two.reply(two.transaction(BOB, Address("carol", "example.org")).finish())
    assert b"for <bob@example.org>;" in one.stored()[1]
    assert b"for <" not in two.stored()[1] and b"bob" not in two.stored()[1]


def test_a_client_certificate_counts_from_starttls_on() -> None:
    """Who was a stranger at the greeting may relay when it has shown a certificate that is listed; Received says so."""
    porch = Porch()
    relaying = Relaying(RelaySettings((), ("ours.example",), certificates=("AB" * 32,)))
    porch.reception.manners = evolve(porch.reception.manners, relaying=relaying, pipeline=Pipeline([relaying]))
    peer = Peer("s1", "mx", "192.0.2.1", 4711, "127.0.0.1")
    guest = porch.reception.handler(peer)
    guest.connect()

    def tries() -> Reply | None:
        peer.helo, peer.esmtp = "client.example.net", True
        assert guest.helo(peer.helo, True) is None and guest.mail(MailCommand(ALICE)) is None
        answer = guest.rcpt(RcptCommand(BOB))
        assert answer is None or isinstance(answer, Reply)
        return answer

    refused = tries()
    assert refused is not None and refused.code == 550
    peer.tls, peer.certificate = "TLSv1.3 X 256", "cd" * 32
    assert tries() is not None
    peer.certificate = "ab" * 32
    assert tries() is None
    sink = guest.data()
    assert isinstance(sink, Arrival)
    sink.write(CONTENT)
    porch.reply(sink.finish())
    field = b"\r\n\t(using TLSv1.3 X 256;\r\n\t client certificate %s)\r\n\tby " % (b"ab" * 32)
    assert field in porch.stored()[1]


@pytest.mark.parametrize("size", [0, 3 * SMALL_MAX, 3 * HEADER_MAX])
@pytest.mark.parametrize("blank", [b" ", b"\t"])
def test_nobody_else_writes_in_our_received_field(blank: bytes, size: int) -> None:
    """A first line that begins with a blank was a folded line of ours: another host or date in our trace."""
    porch = Porch()
    guest = porch.guest()
    guest.mail(MailCommand(ALICE))
    guest.rcpt(RcptCommand(BOB))
    sink = guest.data()
    assert isinstance(sink, Arrival)
    content = blank + b"from bank.example; Mon, 1 Jan 2001 00:00:00 +0000\r\nFrom: a@b.example\r\n\r\n"
    content += b"x" * size + b"\r\n"
    for start in range(0, len(content), 5000):
        sink.write(content[start : start + 5000])
    porch.reply(sink.finish())
    stored = porch.stored()[1]
    header, _, body = stored.partition(b"\r\n\r\n")
    assert body == content and [one.name for one in fields(header)] == [b"received"]
    [told] = porch.of(events.MessageAccepted)
    assert told.size == len(stored)


# Who has logged in


def test_an_account_is_a_fact_of_the_transaction() -> None:
    """Checks see name and rights from the log-in on, envelope and protocol tell of it, and the log does once."""
    porch = Porch()
    guest = porch.guest("192.0.2.1", tls="TLSv1.3")
    peer, rights = guest._peer, Account("tim", relay=True)
    peer.account = "tim"
    guest.authenticated(rights, "PLAIN")
    assert (guest._transaction.account, guest._transaction.rights) == ("tim", rights)
    guest.mail(MailCommand(ALICE))
    assert (guest._transaction.account, guest._transaction.rights) == ("tim", rights)
    assert guest.rcpt(RcptCommand(Address("far", "elsewhere.example"))) is None
    sink = guest.data()
    assert isinstance(sink, Arrival)
    porch.reply(sink.finish())
    origin = porch.stored()[0].origin
    assert (origin.account, origin.protocol) == ("tim", "ESMTPSA")
    [told] = porch.of(events.Authenticated)
    assert (told.session, told.client, told.account, told.mechanism) == ("s1", "192.0.2.1", "tim", "PLAIN")


def test_rights_end_with_the_login() -> None:
    """RFC 3207 §4.2: after a handshake nobody is logged in, and the network alone counts."""
    porch = Porch()
    guest = porch.guest("192.0.2.1")
    guest._peer.account = "tim"
    guest.authenticated(Account("tim"), "PLAIN")
    guest._peer.account = ""
    guest.mail(MailCommand(ALICE))
    refusal = guest.rcpt(RcptCommand(Address("far", "elsewhere.example")))
    assert isinstance(refusal, Reply) and refusal.code == 550 and guest._transaction.rights is None


def test_without_accounts_nobody_can_be_asked() -> None:
    """A reload that took the accounts away while a client logs in: 454, and it may come again."""
    guest = Porch().guest()
    shown = Shown("tim", UsernamePassword(b"tim", b"x"))
    for answer in (guest.keys("tim"), guest.auth(LoggingIn("PLAIN", shown))):
        assert isinstance(answer, Reply) and answer.code == 454


# Refusals


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("stage", ["connect", "helo", "mail", "rcpt"])
def test_a_check_refuses_at_its_stage(stage: str, waits: bool) -> None:
    """A verdict is the reply, at once or after waiting, and is told with the check's name."""
    verdict = Verdict(NO, "check", "because")
    porch = Porch(Check(**{stage: _later(verdict) if waits else verdict}))
    peer = Peer("s1", "mx", "127.0.0.1", 4711, "127.0.0.1")
    guest = porch.reception.handler(peer)
    calls: dict[str, Callable[[], Any]] = {
        "connect": guest.connect,
        "helo": lambda: guest.helo("h.example", True),
        "mail": lambda: guest.mail(MailCommand(ALICE)),
        "rcpt": lambda: guest.rcpt(RcptCommand(BOB)),
    }
    for name, call in calls.items():
        answer = call()
        if name == stage:
            assert (_now(answer) if waits else answer) == NO
            break
        assert answer is None
    [told] = porch.of(events.CommandRefused)
    assert (told.session, told.client, told.check, told.reply) == ("s1", "127.0.0.1", "check", str(NO))
    assert told.command == {"connect": "CONNECT", "helo": "EHLO", "mail": "MAIL", "rcpt": "RCPT"}[stage]
    assert told.recipient == ("bob@example.org" if stage == "rcpt" else "")
    assert told.sender == ("alice@example.net" if stage in ("mail", "rcpt") else "")


def test_a_check_that_waits_and_has_nothing_against_it_lets_it_in() -> None:
    """A recipient judged later is a recipient when the answer is there, and not before."""
    porch = Porch(Check(rcpt=_later(None)))
    guest = porch.guest()
    guest.mail(MailCommand(ALICE))
    answer = guest.rcpt(RcptCommand(BOB))
    assert isinstance(guest.data(), Reply)
    assert _now(answer) is None
    assert isinstance(guest.data(), Arrival)


def test_a_refused_recipient_is_not_in_the_envelope() -> None:
    """Of three recipients the refused one gets nothing."""
    porch = Porch()
    guest = porch.guest("192.0.2.1")
    guest.mail(MailCommand(ALICE))
    assert guest.rcpt(RcptCommand(Address("a", "ours.example"))) is None
    refusal = guest.rcpt(RcptCommand(Address("victim", "elsewhere.example")))
    assert isinstance(refusal, Reply) and (refusal.code, refusal.enhanced) == (550, "5.7.1")
    assert guest.rcpt(RcptCommand(Address("b", "ours.example"))) is None
    sink = guest.data()
    assert isinstance(sink, Arrival)
    porch.reply(sink.finish())
    assert [str(one.address) for one in porch.stored()[0].recipients] == ["a@ours.example", "b@ours.example"]


def test_postmaster_without_domain_is_never_refused() -> None:
    """<postmaster> is taken from a stranger too, and is the postmaster of the configuration (RFC 5321 §4.5.1)."""
    porch = Porch()
    guest = porch.guest("192.0.2.1")
    guest.mail(MailCommand(ALICE))
    assert guest.rcpt(RcptCommand(Address("postmaster", ""))) is None
    sink = guest.data()
    assert isinstance(sink, Arrival)
    porch.reply(sink.finish())
    assert [str(one.address) for one in porch.stored()[0].recipients] == ["postmaster@relay.example.org"]


def test_data_without_recipients_is_554() -> None:
    """No MAIL, or no recipient left: 554 5.5.1 (RFC 5321 §3.3)."""
    porch = Porch()
    guest = porch.guest()
    for begin in (lambda: None, lambda: guest.mail(MailCommand(ALICE))):
        begin()
        reply = guest.data()
        assert isinstance(reply, Reply) and (reply.code, reply.enhanced) == (554, "5.5.1")


def test_a_refused_ehlo_loses_no_recipient() -> None:
    """RFC 5321 §4.1.4: the state stays what it was, and who was taken before EHLO gets the message too."""
    check = Check()
    porch = Porch(check)
    guest = porch.guest()
    guest.mail(MailCommand(ALICE))
    guest.rcpt(RcptCommand(BOB))
    check.judgements["helo"] = Verdict(NO, "check")
    assert guest.helo("other.example.net", True) is NO
    guest.rcpt(RcptCommand(ALICE))
    sink = guest.data()
    assert isinstance(sink, Arrival)
    sink.write(CONTENT)
    porch.reply(sink.finish())
    envelope = porch.stored()[0]
    assert [recipient.address for recipient in envelope.recipients] == [BOB, ALICE]


def test_a_reset_forgets_the_transaction() -> None:
    """After RSET neither sender nor recipients of before are left."""
    porch = Porch()
    guest = porch.guest()
    guest.mail(MailCommand(ALICE))
    guest.rcpt(RcptCommand(BOB))
    guest.reset()
    assert isinstance(guest.data(), Reply)
    guest.mail(MailCommand(None))
    assert isinstance(guest.data(), Reply)


def test_no_room_is_452_at_mail() -> None:
    """Below min_free, and when the spool refuses: 452 4.3.1, before any octet is sent (RFC 5321 §4.2.2)."""
    porch = Porch(min_free=1000)
    guest = porch.guest()
    assert guest.mail(MailCommand(ALICE)) is None
    porch.spool.octets_free = 999
    assert guest.mail(MailCommand(ALICE)) is NO_ROOM
    assert (NO_ROOM.code, NO_ROOM.enhanced) == (452, "4.3.1")
    porch.spool.octets_free = 1000
    assert guest.mail(MailCommand(ALICE)) is None
    porch.spool.refusal = "the disk is broken"
    assert guest.mail(MailCommand(ALICE)) is NO_ROOM


@pytest.mark.parametrize("size", [100, 3 * SMALL_MAX])
@pytest.mark.parametrize(("fields", "taken"), [(HOPS_MAX - 1, True), (HOPS_MAX, True), (HOPS_MAX + 1, False)])
def test_a_message_that_goes_round_is_refused(fields: int, taken: bool, size: int) -> None:
    """With our own field above HOPS_MAX of them: 554 5.4.6, whatever the size, and nothing is kept (RFC 5321 §6.3)."""
    porch = Porch()
    sink = porch.transaction()
    header = b"Received: from a by b; then\r\n" * (fields - 1) + b"Subject: round\r\n\r\n"
    body = b"Received: in the body\r\n" * 60 + b"x" * size + b"\r\n"
    for piece in (header + body[:50], body[50:], b"more\r\n"):
        sink.write(piece)
    reply = porch.reply(sink.finish())
    if taken:
        assert reply.code == 250
        return
    assert reply is LOOP and (reply.code, reply.enhanced) == (554, "5.4.6")
    porch.settle()
    assert porch.spool.stable == porch.spool.shelf == {} and porch.ready == []
    [told] = porch.of(events.ContentRefused)
    assert (told.session, told.sender, told.recipients, told.reply) == ("s1", "alice@example.net", 1, str(LOOP))


@pytest.mark.parametrize("size", [100, 3 * SMALL_MAX])
def test_a_store_that_fails_is_451_and_keeps_nothing(size: int) -> None:
    """No write's failure is ignored: 451 4.3.0, told, nothing attempted, and the next message is taken again."""
    porch = Porch()
    sink = porch.transaction()
    sink.write(CONTENT + b"x" * size)
    porch.spool.refusal = "no space left on device"
    reply = porch.reply(sink.finish())
    assert reply is NOT_STORED and (reply.code, reply.enhanced) == (451, "4.3.0")
    porch.settle()
    assert porch.spool.stable == {} and porch.ready == [] and porch.of(events.MessageAccepted) == []
    assert len(porch.of(events.ContentRefused)) == 1
    assert porch.of(events.BugCaught) == []
    porch.spool.refusal = ""
    assert porch.reply(porch.transaction().finish()).code == 250


def test_a_bug_in_the_store_is_451_and_told() -> None:
    """What is neither SpoolError nor OSError is a bug of ours: the peer tries again, the operator hears of it."""
    porch = Porch()
    sink = porch.transaction()
    sink.write(CONTENT)
    failing: Deferred[None] = Deferred()
    porch.spool.append = lambda *_: failing  # type: ignore[method-assign]
    finished = sink.finish()
    assert isinstance(finished, Deferred)
    said: list[Reply] = []
    finished.addCallback(said.append)
    failing.errback(ZeroDivisionError("a bug"))
    assert said == [NOT_STORED]
    assert "ZeroDivisionError" in porch.of(events.BugCaught)[0].trace


@pytest.mark.parametrize("size", [100, 3 * SMALL_MAX])
def test_an_aborted_message_leaves_nothing(size: int) -> None:
    """A client that goes in the midst of its content leaves neither message nor event behind."""
    porch = Porch()
    sink = porch.transaction()
    sink.write(CONTENT + b"x" * size)
    sink.abort()
    sink.abort()
    porch.settle()
    assert porch.spool.stable == porch.spool.shelf == {} and porch.ready == []
    assert porch.of(events.MessageAccepted) == porch.of(events.ContentRefused) == []
    assert porch.manager.stats().difference == 0


# The session's own story


def test_a_session_is_told_from_its_beginning_to_its_end() -> None:
    """Opened, refused by grammar, closed: each with the session id; the end counts the accepted messages."""
    porch = Porch()
    guest = porch.guest()
    for _ in range(2):
        guest.mail(MailCommand(ALICE))
        guest.rcpt(RcptCommand(BOB))
        sink = guest.data()
        assert isinstance(sink, Arrival)
        porch.reply(sink.finish())
        guest.reset()
    guest.refused("XYZZY", Reply(500, "5.5.1", "command not recognized"))
    porch.clock.advance(2.5)
    guest.closed("quit")
    [opened], [closed] = porch.of(events.SessionOpened), porch.of(events.SessionClosed)
    assert (opened.session, opened.listener, opened.client, opened.port) == ("s1", "mx", "127.0.0.1", 4711)
    assert (closed.session, closed.helo, closed.messages, closed.seconds, closed.reason) == (
        "s1", "client.example.net", 2, 2.5, "quit",
    )  # fmt: skip
    [refused] = porch.of(events.CommandRefused)
    assert (refused.command, refused.reply) == ("XYZZY", "500 5.5.1 command not recognized")


def test_a_new_configuration_is_for_the_next_command() -> None:
    """Manners are looked at anew at each stage, so that a reload reaches sessions that are open."""
    porch = Porch()
    guest = porch.guest()
    manners = porch.reception.manners
    check = Check(mail=Verdict(NO, "check"))
    porch.reception.manners = Manners(
        "new.example.org", manners.postmaster, manners.relaying, Pipeline([check]), SMALL_MAX
    )
    assert guest.mail(MailCommand(ALICE, 77)) == NO
    assert check.asked == ["mail alice@example.net 77"]


# Mail by no session


def test_mail_of_sendmail_is_stamped_stored_and_told() -> None:
    """take() puts Received in front, fires when it is durable, and tells of it."""
    porch = Porch()
    envelope = Envelope(ALICE, (Recipient(BOB),), NOW, Origin(protocol="local"))
    done: list[None] = []
    porch.reception.take(envelope, CONTENT).addCallback(done.append)
    assert done == []
    porch.settle()
    assert done == [None]
    _, content = porch.stored()
    assert content.startswith(b"Received: by relay.example.org") and content.endswith(CONTENT)
    assert porch.of(events.MessageAccepted)[0].protocol == "local"


def test_mail_of_sendmail_that_cannot_be_stored_fails() -> None:
    """Its file stays in the drop directory then: take() fails with SpoolError, and nothing is told as accepted."""
    porch = Porch()
    porch.spool.refusal = "no space left on device"
    failed: list[Any] = []
    taken = porch.reception.take(Envelope(ALICE, (Recipient(BOB),), NOW), CONTENT)
    taken.addErrback(lambda failure: failed.append(failure.check(SpoolError)))
    assert failed == [SpoolError]
    assert porch.of(events.MessageAccepted) == []
