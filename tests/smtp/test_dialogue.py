"""The client's dialogue against servers that do as RFC 5321 says, and against those that do not."""

from __future__ import annotations

import pytest

from relaymta.mail.address import parse_mailbox
from relaymta.mail.envelope import Body, Notify, Recipient, Ret
from relaymta.mail.reply import Reply
from relaymta.smtp.actions import (
    Answer,
    Close,
    Finished,
    Opened,
    Refused,
    SendContent,
    Stage,
    StartTls,
    Tls,
    Trouble,
    Write,
)
from relaymta.smtp.dialogue import Dialogue
from tests.smtp.scripted import BODY, DROP, Server, Wire, parcel, told

LOCKSTEP = ("8BITMIME", "SIZE")


def wire(server: Server | None = None, **options: object) -> Wire:
    """A session that stands."""
    made = Wire(Dialogue(b"us.test", **options), server or Server())  # type: ignore[arg-type]
    return made.open()


def says(verb: str, reply: str, argument: str = "") -> Server:
    """A server that gives one answer of its own."""
    return Server(answers=lambda v, a: reply.encode() + b"\r\n" if v == verb and argument in a else None)


# The beginning


def test_a_session_begins_with_the_greeting_and_ehlo() -> None:
    """EHLO follows a 220, and the session stands after a 250 (RFC 5321 §3.1, §3.2)."""
    dialogue = Dialogue(b"us.test")
    assert dialogue.receive(b"220-peer.test\r\n220 ready\r\n") == [Write(b"EHLO us.test\r\n")]
    assert dialogue.receive(b"250 peer.test\r\n") == [Opened()]
    assert dialogue.usable


def test_keywords_are_upper_cased_and_the_first_line_is_no_keyword() -> None:
    """EHLO keywords have no case, and the greeting line is none even if it looks like one (RFC 5321 §4.1.1.1)."""
    made = wire(says("EHLO", "250-STARTTLS greets you\r\n250-pipelining\r\n250-Size 1000\r\n250 limits rcptmax=7"))
    offers = made.dialogue.offers
    assert offers.pipelining and offers.size == 1000 and offers.rcpt_max == 7 and not offers.starttls
    assert offers.keywords == {"PIPELINING": "", "SIZE": "1000", "LIMITS": "rcptmax=7"}


@pytest.mark.parametrize("code", [500, 501, 502, 504, 550, 554])
def test_a_server_without_ehlo_gets_helo(code: int) -> None:
    """A 5yz to EHLO is followed by HELO, and nothing is offered then (RFC 5321 §3.2)."""
    made = wire(says("EHLO", f"{code} what?"))
    assert made.opened and made.server.commands == ["EHLO us.test", "HELO us.test"]
    assert not made.dialogue.offers.keywords
    assert told(made.send(parcel("a@b.test"))) == [("DOT", 250)]
    assert made.server.commands[2:] == ["MAIL FROM:<s@from.test>", "RCPT TO:<a@b.test>", "DATA"]


def test_lmtp_says_lhlo_and_never_helo() -> None:
    """LMTP begins with LHLO, and its refusal is final (RFC 2033 §4.1)."""
    assert wire(Server(lmtp=True), lmtp=True).server.commands == ["LHLO us.test"]
    refused = wire(Server(lmtp=True, answers=lambda v, a: b"500 no\r\n" if v == "LHLO" else None), lmtp=True)
    assert refused.refused == Answer(Stage.HELLO, Reply(500, "", "no"))


@pytest.mark.parametrize("code", [220, 421, 450, 554])
def test_a_greeting_that_turns_us_away_is_told(code: int) -> None:
    """After a greeting other than 220 there is no session, and QUIT unless the peer hung up (RFC 5321 §3.1, §3.8)."""
    made = wire(says("BANNER", f"{code} 5.3.2 not now" if code != 220 else "220 ok"))
    if code == 220:
        assert made.opened
        return
    assert made.refused is not None and made.refused.stage is Stage.BANNER
    assert made.refused.reply is not None and made.refused.reply.code == code
    assert made.server.commands == ([] if code == 421 else ["QUIT"])


def test_a_refused_helo_is_told() -> None:
    """When HELO is refused as well there is no session."""
    made = wire(Server(answers=lambda v, a: b"550 no\r\n" if v in ("EHLO", "HELO") else None))
    assert made.refused == Answer(Stage.HELLO, Reply(550, "", "no"))


# STARTTLS


def test_tls_is_taken_where_offered_and_the_first_ehlo_is_forgotten() -> None:
    """After the handshake EHLO is said again and what was offered in clear counts no more (RFC 3207 §4.2)."""
    dialogue = Dialogue(b"us.test")
    dialogue.receive(b"220 hi\r\n")
    assert dialogue.receive(b"250-x\r\n250-STARTTLS\r\n250 PIPELINING\r\n") == [Write(b"STARTTLS\r\n")]
    assert dialogue.receive(b"220 go\r\n") == [StartTls()]
    assert dialogue.secured() == [Write(b"EHLO us.test\r\n")]
    assert not dialogue.offers.pipelining
    assert dialogue.receive(b"250-x\r\n250 STARTTLS\r\n") == [Opened()]
    assert dialogue.secure


@pytest.mark.parametrize("split", [False, True])
def test_crit_6_starttls_response_injection(split: bool) -> None:
    """Octets behind the 220 to STARTTLS end the session: they would be read as said under TLS."""
    dialogue = Dialogue(b"us.test")
    dialogue.receive(b"220 hi\r\n")
    dialogue.receive(b"250-x\r\n250 STARTTLS\r\n")
    injected = b"220 go\r\n250-mx\r\n250 AUTH PLAIN\r\n235 ok\r\n"[: 10 if split else None]
    actions = dialogue.receive(injected)
    assert [type(action) for action in actions] == [Refused, Close]
    assert isinstance(actions[0], Refused) and actions[0].answer.trouble is Trouble.GARBLED


def test_a_refused_starttls_leaves_the_session_in_clear_where_tls_is_a_wish() -> None:
    """Twisted issue 10334: 454 to STARTTLS is no reason to go where nothing demands TLS (RFC 3207 §4)."""
    server = Server(offers=("STARTTLS",), answers=lambda v, a: b"454 no\r\n" if v == "STARTTLS" else None)
    made = wire(server)
    assert made.opened and not made.dialogue.secure
    demanded = wire(Server(offers=("STARTTLS",), answers=server.answers), tls=Tls.MUST)
    assert demanded.refused == Answer(Stage.STARTTLS, Reply(454, "", "no"))


def test_tls_that_is_demanded_and_not_offered_ends_the_session() -> None:
    """No STARTTLS, no HELO fallback: where TLS is demanded there is then no session."""
    for made in (wire(Server(offers=()), tls=Tls.MUST), wire(says("EHLO", "502 no"), tls=Tls.MUST)):
        assert made.refused is not None and made.refused.trouble is Trouble.NO_TLS and not made.opened
        assert made.server.commands[-1] == "QUIT"  # RFC 5321 §4.1.1.10


def test_tls_that_is_not_wanted_is_not_asked_for() -> None:
    """Tls.NEVER does not say STARTTLS."""
    made = wire(Server(offers=("STARTTLS",)), tls=Tls.NEVER)
    assert made.opened and made.server.commands == ["EHLO us.test"]


def test_a_peer_that_is_not_who_it_must_be_hears_not_a_word() -> None:
    """The handshake ended well and the proof failed: no EHLO, no QUIT, and the answer says what was wrong."""
    dialogue = Dialogue(b"us.test", tls=Tls.MUST)
    dialogue.receive(b"220 hi\r\n")
    dialogue.receive(b"250-x\r\n250 STARTTLS\r\n")
    dialogue.receive(b"220 go\r\n")
    answer = Answer(Stage.HANDSHAKE, trouble=Trouble.TLS, text="it has expired", result="certificate-expired")
    assert dialogue.unverified("it has expired", "certificate-expired") == [Refused(answer), Close(abruptly=True)]


def test_a_lost_handshake_is_told_as_tls_trouble() -> None:
    """A connection that ends in the handshake is TLS's trouble, so that delivery may go on in clear."""
    dialogue = Dialogue(b"us.test")
    dialogue.receive(b"220 hi\r\n")
    dialogue.receive(b"250-x\r\n250 STARTTLS\r\n")
    dialogue.receive(b"220 go\r\n")
    actions = dialogue.lost("bad certificate")
    assert actions[0] == Refused(Answer(Stage.HANDSHAKE, trouble=Trouble.TLS, text="bad certificate"))


# Transactions


def test_a_pipelined_transaction_is_two_writes() -> None:
    """MAIL, all RCPT and DATA go as one group where PIPELINING is offered (RFC 2920 §3.1)."""
    made = wire(Server(offers=("PIPELINING",)))
    actions = made.dialogue.send(parcel("a@b.test", "c@b.test"))
    assert actions == [
        Write(b"MAIL FROM:<s@from.test>\r\nRCPT TO:<a@b.test>\r\nRCPT TO:<c@b.test>\r\nDATA\r\n"),
    ]
    assert made.dialogue.receive(b"250 a\r\n250 b\r\n") == []
    assert made.dialogue.stage is Stage.RCPT
    assert [type(one) for one in made.dialogue.receive(b"250 c\r\n354 d\r\n")] == [SendContent]
    made.dialogue.content_sent()
    ok = Answer(Stage.DOT, Reply(250, "2.0.0", "ok"))
    assert made.dialogue.receive(b"250 2.0.0 ok\r\n") == [Finished([ok, ok])]


def test_without_pipelining_each_command_waits_for_its_reply() -> None:
    """No command is sent ahead of a reply where PIPELINING is not offered (RFC 5321 §4.1.4)."""
    made = wire(Server(offers=LOCKSTEP))
    dialogue = made.dialogue
    first = dialogue.send(parcel("a@b.test", "c@b.test", content=b"x\r\n"))
    assert first == [Write(b"MAIL FROM:<s@from.test> SIZE=3\r\n")]
    assert dialogue.receive(b"250 ok\r\n") == [Write(b"RCPT TO:<a@b.test>\r\n")]
    assert dialogue.receive(b"550 no\r\n") == [Write(b"RCPT TO:<c@b.test>\r\n")]
    assert dialogue.receive(b"250 ok\r\n") == [Write(b"DATA\r\n")]


@pytest.mark.parametrize("offers", [("PIPELINING",), LOCKSTEP])
def test_each_recipient_gets_its_own_answer(offers: tuple[str, ...]) -> None:
    """Refused recipients have the reply to their RCPT, the others the reply to the end of the message."""
    server = Server(offers=offers, answers=lambda v, a: b"550 5.1.1 who?\r\n" if v == "RCPT" and "bad" in a else None)
    made = wire(server)
    assert told(made.send(parcel("a@b.test", "bad@b.test", "c@b.test"))) == [("DOT", 250), ("RCPT", 550), ("DOT", 250)]
    assert server.taken[0].recipients == ("TO:<a@b.test>", "TO:<c@b.test>")
    assert server.taken[0].content == BODY


@pytest.mark.parametrize("offers", [("PIPELINING",), LOCKSTEP])
def test_a_refused_sender_is_the_answer_for_all(offers: tuple[str, ...]) -> None:
    """What MAIL was refused with stands for every recipient, whatever the pipelined RCPTs were told."""
    made = wire(Server(offers=offers, answers=lambda v, a: b"550 5.7.1 no\r\n" if v == "MAIL" else None))
    assert told(made.send(parcel("a@b.test", "c@b.test"))) == [("MAIL", 550)] * 2
    assert made.dialogue.usable and made.contents == 0


@pytest.mark.parametrize("offers", [("PIPELINING",), LOCKSTEP])
def test_rset_only_when_a_transaction_was_left_open(offers: tuple[str, ...]) -> None:
    """RSET is said before the next MAIL when the last transaction did not reach its end, and never else."""
    server = Server(offers=offers, answers=lambda v, a: b"550 5.1.1 who?\r\n" if v == "RCPT" and "bad" in a else None)
    made = wire(server)
    made.send(parcel("a@b.test"))
    made.send(parcel("b@b.test"))
    assert "RSET" not in server.commands
    assert told(made.send(parcel("bad@b.test"))) == [("RCPT", 550)]
    assert "RSET" not in server.commands
    assert told(made.send(parcel("c@b.test"))) == [("DOT", 250)]
    assert server.commands.count("RSET") == 1 and len(server.taken) == 3


def test_a_refused_rset_sends_the_message_elsewhere() -> None:
    """Where RSET is refused nothing of the message was said, so that another connection will do."""
    server = says("RCPT", "550 no", "bad")
    server.answers = lambda v, a: b"550 no\r\n" if v == "RSET" or "bad" in a else None
    made = wire(server)
    made.send(parcel("bad@b.test"))
    assert told(made.send(parcel("a@b.test"))) == [("MAIL", "STALE")] or told(made.results[-1]) == [("RSET", "STALE")]
    assert made.closed


def test_354_without_a_recipient_gets_the_dot_alone() -> None:
    """When every RCPT failed and 354 comes all the same, `.CRLF` is sent and no content (RFC 2920 §3.1)."""
    server = Server(answers=lambda v, a: {"RCPT": b"550 no\r\n", "DATA": b"354 go\r\n"}.get(v))
    made = wire(server)
    assert told(made.send(parcel("a@b.test", "c@b.test"))) == [("RCPT", 550)] * 2
    assert server.transcript.endswith(b"DATA\r\n.\r\n") and made.contents == 0
    assert made.dialogue.usable
    server.answers = lambda v, a: None
    assert told(made.send(parcel("a@b.test"))) == [("DOT", 250)]


def test_a_recipient_without_a_sender_never_gets_an_empty_message() -> None:
    """A peer that refuses MAIL and takes RCPT and DATA is cut off: `.CRLF` would be a message for somebody."""
    dialogue = wire(Server(offers=("PIPELINING",))).dialogue
    dialogue.send(parcel("a@b.test"))
    actions = dialogue.receive(b"550 no\r\n250 yes\r\n354 go\r\n")
    assert [type(one) for one in actions] == [Finished, Close]
    assert isinstance(actions[0], Finished) and told(actions[0].answers) == [("MAIL", 550)]


def test_data_refused_is_the_answer_for_those_that_were_taken() -> None:
    """4yz or 5yz to DATA answers for the accepted recipients, the refused ones keep theirs."""
    made = wire(
        Server(answers=lambda v, a: b"451 4.3.0 later\r\n" if v == "DATA" else b"550 x\r\n" if "bad" in a else None)
    )
    assert told(made.send(parcel("a@b.test", "bad@b.test"))) == [("DATA", 451), ("RCPT", 550)]


# Too many recipients


@pytest.mark.parametrize("offers", [("PIPELINING",), LOCKSTEP])
@pytest.mark.parametrize("most", [1, 2, 3, 7, 20])
def test_452_on_the_nth_recipient_ends_the_list_for_this_transaction(offers: tuple[str, ...], most: int) -> None:
    """The rest goes in further transactions on the same connection (RFC 5321 §4.5.3.1.10)."""
    server = Server(offers=offers, recipients_max=most)
    made = wire(server)
    names = [f"r{n}@b.test" for n in range(7)]
    assert told(made.send(parcel(*names))) == [("DOT", 250)] * 7
    assert sorted(name for taken in server.taken for name in taken.recipients) == [f"TO:<{name}>" for name in names]
    assert max(len(taken.recipients) for taken in server.taken) <= most


def test_552_after_accepted_recipients_means_the_same() -> None:
    """RFC 821's code for too many recipients is read as 452 (RFC 5321 §4.5.3.1.10), a full mailbox is not."""
    count: list[int] = []

    def answers(verb: str, argument: str) -> bytes | None:
        if verb == "RCPT" and "full" in argument:
            return b"552 5.2.2 mailbox full\r\n"
        if verb == "RCPT" and "second" in argument and not count:
            count.append(1)
            return b"552 too many recipients\r\n"
        return None

    made = wire(Server(answers=answers))
    assert told(made.send(parcel("first@b.test", "full@b.test", "second@b.test"))) == [
        ("DOT", 250), ("RCPT", 552), ("DOT", 250),
    ]  # fmt: skip


def test_452_on_the_first_recipient_is_its_answer() -> None:
    """Where none was taken there is no next transaction to hope for."""
    made = wire(Server(recipients_max=0))
    assert told(made.send(parcel("a@b.test", "b@b.test"))) == [("RCPT", 452)] * 2


def test_a_batch_is_split_at_our_own_limit() -> None:
    """No transaction has more recipients than the settings say."""
    server = Server()
    made = wire(server, max_recipients=2)
    assert told(made.send(parcel(*[f"r{n}@b.test" for n in range(5)]))) == [("DOT", 250)] * 5
    assert [len(taken.recipients) for taken in server.taken] == [2, 2, 1]


def test_limits_rcptmax_and_rcptdomainmax_are_honoured() -> None:
    """No transaction has more recipients or domains than LIMITS tells (RFC 9422 §4.2, §4.3)."""
    server = Server(offers=("PIPELINING", "LIMITS RCPTMAX=3 RCPTDOMAINMAX=1"))
    made = wire(server)
    assert told(made.send(parcel(*[f"r{n}@b.test" for n in range(4)], "x@c.test"))) == [("DOT", 250)] * 5
    assert [len(taken.recipients) for taken in server.taken] == [3, 1, 1]


def test_limits_mailmax_leaves_the_rest_untried() -> None:
    """Beyond MAILMAX transactions the connection is used up, and what is left goes over another (RFC 9422 §4.1)."""
    server = Server(offers=("LIMITS MAILMAX=2 RCPTMAX=1",))
    made = wire(server)
    assert told(made.send(parcel("a@b.test", "b@b.test", "c@b.test"))) == [("DOT", 250), ("DOT", 250), None]
    assert not made.dialogue.usable and made.dialogue.stage is Stage.IDLE


# Parameters


def test_size_and_body_are_said_where_offered() -> None:
    """SIZE= with SIZE, BODY=8BITMIME with 8BITMIME for 8-bit or declared content (RFC 1870 §5, RFC 6152 §2)."""
    made = wire(Server(offers=("SIZE 0", "8BITMIME")))
    made.send(parcel("a@b.test", content=b"\r\n\xe4\r\n"))
    made.send(parcel("a@b.test", content=b"\r\nx\r\n", body=Body.EIGHTBIT))
    made.send(parcel("a@b.test", content=b"\r\nx\r\n"))
    assert [line for line in made.server.commands if line.startswith("MAIL")] == [
        "MAIL FROM:<s@from.test> SIZE=5 BODY=8BITMIME",
        "MAIL FROM:<s@from.test> SIZE=5 BODY=8BITMIME",
        "MAIL FROM:<s@from.test> SIZE=5",
    ]


def test_nothing_is_said_that_was_not_offered() -> None:
    """A peer without extensions gets bare MAIL and RCPT."""
    made = wire(Server(offers=()))
    recipient = Recipient(parse_mailbox("a@b.test"), Notify.NEVER, "rfc822;a@b.test")
    made.send(parcel(recipient, ret=Ret.HDRS, envid="x", body=Body.EIGHTBIT, smtputf8=True, sender=""))
    assert made.server.commands[1:3] == ["MAIL FROM:<>", "RCPT TO:<a@b.test>"]


def test_dsn_parameters_are_passed_on_as_xtext() -> None:
    """RET, ENVID, NOTIFY and ORCPT go to a peer that offers DSN (RFC 3461 §4)."""
    made = wire(Server(offers=("DSN",)))
    one = Recipient(parse_mailbox("a@b.test"), Notify.SUCCESS | Notify.DELAY, "rfc822;a+b=c@b.test")
    two = Recipient(parse_mailbox("c@b.test"), Notify.NEVER, "utf-8;j\u00fcrgen@b.test")
    made.send(parcel(one, two, ret=Ret.FULL, envid="QQ 3+4"))
    assert made.server.commands[1:4] == [
        "MAIL FROM:<s@from.test> RET=FULL ENVID=QQ+203+2B4",
        "RCPT TO:<a@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb+3Dc@b.test",
        "RCPT TO:<c@b.test> NOTIFY=NEVER ORCPT=utf-8;j\\x{FC}rgen@b.test",
    ]


def test_a_message_larger_than_the_peer_takes_is_not_sent() -> None:
    """Above the peer's SIZE the message fails with 5.3.4 and not a word is said (RFC 1870 §6.1)."""
    made = wire(Server(offers=("SIZE 10",)))
    (answer,) = made.send(parcel("a@b.test"))
    assert answer is not None and answer.trouble is Trouble.UNFIT and answer.status == "5.3.4"
    assert made.server.commands == ["EHLO us.test"] and made.dialogue.usable


def test_eight_bit_content_never_goes_to_a_peer_without_8bitmime() -> None:
    """What was not converted fails with 5.6.3 (RFC 6152 §3)."""
    made = wire(Server(offers=()))
    (answer,) = made.send(parcel("a@b.test", content=b"\r\n\xe4\r\n"))
    assert answer is not None and answer.trouble is Trouble.UNFIT and answer.status == "5.6.3"


# SMTPUTF8


def test_smtputf8_is_said_when_an_address_needs_it() -> None:
    """A non-ASCII address goes with the SMTPUTF8 parameter (RFC 6531 §3.4)."""
    made = wire(Server(offers=("SMTPUTF8", "8BITMIME")))
    assert told(made.send(parcel("j\u00fcrgen@b.test", smtputf8=True))) == [("DOT", 250)]
    assert made.server.commands[1:3] == ["MAIL FROM:<s@from.test> SMTPUTF8", "RCPT TO:<j\u00fcrgen@b.test>"]


def test_smtputf8_is_not_said_when_nothing_needs_it() -> None:
    """A declared SMTPUTF8 message that is ASCII all through is sent as any other."""
    made = wire(Server(offers=("SMTPUTF8", "8BITMIME")))
    made.send(parcel("a@b.test", smtputf8=True, content=b"Subject: x\r\n\r\n\xc3\xa4\r\n"))
    made.send(parcel("a@b.test", smtputf8=True, content=b"Subject: \xc3\xa4\r\n\r\nx\r\n"))
    mails = [line for line in made.server.commands if line.startswith("MAIL")]
    assert ["SMTPUTF8" in line for line in mails] == [False, True]


def test_without_smtputf8_those_who_need_it_fail_and_the_others_are_served() -> None:
    """A peer without SMTPUTF8 never sees a non-ASCII address or header (RFC 6531 §3.2)."""
    made = wire(Server(offers=("8BITMIME",)))
    answers = made.send(parcel("j\u00fcrgen@b.test", "a@b.test", smtputf8=True))
    assert told(answers) == [("MAIL", "UNFIT"), ("DOT", 250)]
    assert answers[0] is not None and answers[0].status == "5.6.7"
    by_sender = made.send(parcel("a@b.test", sender="j\u00fcrgen@b.test", smtputf8=True))
    by_header = made.send(parcel("a@b.test", smtputf8=True, content=b"Subject: \xc3\xa4\r\n\r\nx\r\n"))
    assert [one.status for one in by_sender + by_header if one] == ["5.6.7", "5.6.9"]
    assert told(made.send(parcel("a@b.test", smtputf8=True))) == [("DOT", 250)]


# LMTP


def test_lmtp_gives_each_accepted_recipient_its_own_end() -> None:
    """After the dot there is one reply for each accepted recipient, in their order (RFC 2033 §4.2)."""
    answers = {
        ("RCPT", "TO:<b@b.test>"): b"550 5.1.1 who?\r\n",
        ("DOT", "TO:<c@b.test>"): b"452 4.2.2 full\r\n",
        ("DOT", "TO:<d@b.test>"): b"550 5.7.1 no\r\n",
    }
    made = wire(Server(lmtp=True, answers=lambda v, a: answers.get((v, a))), lmtp=True)
    assert told(made.send(parcel("a@b.test", "b@b.test", "c@b.test", "d@b.test"))) == [
        ("DOT", 250), ("RCPT", 550), ("DOT", 452), ("DOT", 550),
    ]  # fmt: skip
    assert made.dialogue.usable


def test_lmtp_lost_between_replies_leaves_the_first_ones_standing() -> None:
    """Recipients whose reply came are settled, the others are lost after the dot."""
    made = wire(Server(lmtp=True, answers=lambda v, a: DROP if v == "DOT" and "c@" in a else None), lmtp=True)
    lost = ("DOT", "LOST")
    assert told(made.send(parcel("a@b.test", "c@b.test", "d@b.test"))) == [("DOT", 250), lost, lost]


# Ends before their time


@pytest.mark.parametrize("offers", [("PIPELINING",), LOCKSTEP])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
def test_421_anywhere_ends_the_connection(offers: tuple[str, ...], verb: str) -> None:
    """421 answers for all who have no answer yet, and the connection is not used again (RFC 5321 §3.8)."""
    made = wire(Server(offers=offers, answers=lambda v, a: b"421 4.3.2 bye\r\n" if v == verb else None))
    assert told(made.send(parcel("a@b.test", "b@b.test"))) == [(verb, 421)] * 2
    assert made.closed and not made.dialogue.usable


@pytest.mark.parametrize("offers", [("PIPELINING",), LOCKSTEP])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
def test_a_drop_anywhere_is_told_with_its_place(offers: tuple[str, ...], verb: str) -> None:
    """A lost connection answers with the stage in which it was lost."""
    made = wire(Server(offers=offers, answers=lambda v, a: DROP if v == verb else None))
    assert told(made.send(parcel("a@b.test", "b@b.test"))) == [(verb, "LOST")] * 2


def test_a_connection_that_had_ended_is_stale_and_not_lost() -> None:
    """No reply or a 421 to the first command of a later transaction is the peer's idle timer: nothing was lost."""
    for ending in (DROP, b"421 4.4.2 idle too long\r\n"):
        server = Server()
        made = wire(server)
        made.send(parcel("a@b.test"))
        server.answers = lambda v, a, ending=ending: ending if v == "MAIL" else None  # type: ignore[misc]
        assert told(made.send(parcel("b@b.test"))) in ([("MAIL", "STALE")], [("MAIL", 421)])
        (answer,) = made.results[-1]
        assert answer is not None and answer.trouble is Trouble.STALE


def test_never_stale_once_a_reply_came() -> None:
    """After the reply to MAIL the loss is this message's."""
    server = Server(offers=LOCKSTEP)
    made = wire(server)
    made.send(parcel("a@b.test"))
    server.answers = lambda v, a: DROP if v == "RCPT" else None
    assert told(made.send(parcel("b@b.test"))) == [("RCPT", "LOST")]


def test_recipients_of_a_later_transaction_are_not_unknown() -> None:
    """A drop after the dot is told for those in that transaction; nothing was sent for the others."""
    made = wire(Server(answers=lambda v, a: DROP if v == "DOT" else None), max_recipients=1)
    assert told(made.send(parcel("a@b.test", "b@b.test"))) == [("DOT", "LOST"), ("MAIL", "LOST")]


def test_a_421_that_follows_a_reply_ends_the_connection_after_it() -> None:
    """A reply with a 421 behind it in one segment still counts; the connection is then gone."""
    dialogue = wire(Server(offers=("PIPELINING",))).dialogue
    dialogue.send(parcel("a@b.test"))
    dialogue.receive(b"250 a\r\n250 b\r\n354 c\r\n")
    dialogue.content_sent()
    actions = dialogue.receive(b"250 2.0.0 ok\r\n421 4.3.2 bye\r\n")
    assert [type(one) for one in actions] == [Finished, Close] and not dialogue.usable


def test_a_peer_that_speaks_out_of_turn_is_cut_off() -> None:
    """A reply that was there before its command is none: the two would be out of step from then on."""
    made = wire(Server(offers=LOCKSTEP))
    made.dialogue.send(parcel("a@b.test"))
    actions = made.dialogue.receive(b"250 ok\r\n250 also this\r\n")
    assert isinstance(actions[0], Finished) and told(actions[0].answers) == [("RCPT", "GARBLED")]
    idle = wire(Server()).dialogue
    assert [type(one) for one in idle.receive(b"250 hello?\r\n")] == [Close]
    assert idle.receive(b"250 hello?\r\n") == []


def test_a_peer_that_refuses_in_the_middle_of_the_content_gets_no_dot() -> None:
    """A reply before the end of data answers; the connection is cut, so that half a message is never taken."""
    for said, expected in ((b"552 5.3.4 enough\r\n", ("CONTENT", 552)), (b"250 ok\r\n", ("CONTENT", "GARBLED"))):
        dialogue = wire(Server(offers=("PIPELINING",))).dialogue
        dialogue.send(parcel("a@b.test"))
        dialogue.receive(b"250 a\r\n250 b\r\n354 c\r\n")
        actions = dialogue.receive(said)
        assert isinstance(actions[0], Finished) and told(actions[0].answers) == [expected]
        assert actions[1] == Close(abruptly=True)


def test_content_that_cannot_be_read_is_cut_off_and_ours() -> None:
    """When our own disk fails in the midst of content, the peer must not take the half for the whole."""
    dialogue = wire(Server(offers=("PIPELINING",))).dialogue
    dialogue.send(parcel("a@b.test"))
    dialogue.receive(b"250 a\r\n250 b\r\n354 c\r\n")
    actions = dialogue.content_failed("disk")
    assert isinstance(actions[0], Finished) and told(actions[0].answers) == [("CONTENT", "UNREADABLE")]
    assert actions[1] == Close(abruptly=True)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (Stage.MAIL, b""),
        (Stage.RCPT, b"250 a\r\n"),
        (Stage.DATA, b"250 a\r\n250 b\r\n"),
        (Stage.CONTENT, b"250 a\r\n250 b\r\n354 c\r\n"),
    ],
)
def test_time_runs_out_at_its_stage(stage: Stage, said: bytes) -> None:
    """What expires is the stage that the dialogue waits in (RFC 5321 §4.5.3.2)."""
    dialogue = wire(Server(offers=("PIPELINING",))).dialogue
    dialogue.send(parcel("a@b.test"))
    dialogue.receive(said)
    assert dialogue.stage is stage
    actions = dialogue.expired()
    assert isinstance(actions[0], Finished) and told(actions[0].answers) == [(stage.name, "TIMEOUT")]
    assert dialogue.expired() == [] and dialogue.lost("again") == []


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
def test_a_reply_of_the_wrong_class_breaks_the_protocol(verb: str) -> None:
    """354 where none can be, and 250 to DATA, end the connection and defer."""
    said = b"250 ok\r\n" if verb == "DATA" else b"354 go\r\n"
    made = wire(Server(answers=lambda v, a: said if v == verb else None))
    assert told(made.send(parcel("a@b.test"))) == [(verb, "GARBLED")]


def test_quit_is_said_when_idle_and_the_peer_may_answer() -> None:
    """QUIT, its reply, and the end (RFC 5321 §4.1.1.10)."""
    made = wire(Server())
    made.quit()
    assert made.server.commands[-1] == "QUIT" and made.closed


def test_a_line_end_in_a_command_is_never_written() -> None:
    """An address that would become a second command is a bug of ours, told before a word is said."""
    made = wire(Server())
    bad = parcel("a@b.test", envid="x\r\nRCPT TO:<evil@b.test>")
    dsn = wire(Server(offers=("DSN",)))
    with pytest.raises(ValueError):
        dsn.dialogue.send(bad)
    assert dsn.dialogue.usable
    assert told(made.send(parcel("a@b.test"))) == [("DOT", 250)]
