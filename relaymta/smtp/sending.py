"""The transactions that carry one parcel over one connection, as a machine: half of the client's dialogue.

RFC 5321 §3.3 (transactions), §4.5.3.1.10 (one recipient too many), RFC 2920 (PIPELINING), RFC 2033 (LMTP), RFC 9422
(LIMITS). A pipelined transaction takes the same way through the stages as one in lockstep; only the writes differ:

    [RSET] -> MAIL -> RCPT (each) -> DATA -> CONTENT -> DOT (LMTP: each) -> the next transaction, or done

A session's beginning and end are left to smtp.dialogue.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from relaymta.mail.reply import Reply
from relaymta.smtp.actions import Action, Answer, Finished, Parcel, SendContent, Stage, Trouble, Write
from relaymta.smtp.offers import NOTHING, Offers, mail_command, needs_utf8, rcpt_command
from relaymta.smtp.replies import Raw, reply_of

_DOT = Write(b".\r\n")


@define(eq=False)
class Link:
    """What both halves of the dialogue know of the connection.

    `limit` is how many recipients a transaction may have; `transactions` counts MAIL; `open` says that the peer
    holds a transaction that RSET must end before the next MAIL.
    """

    limit: int
    lmtp: bool = False
    stage: Stage = Stage.BANNER
    offers: Offers = NOTHING
    transactions: int = 0
    open: bool = False


class Broken(Exception):
    """The peer broke the protocol; the text is one short sentence."""


class Sending:
    """One parcel under way. Positions count within the parcel's recipients."""

    __slots__ = (
        "_accepted",
        "_answers",
        "_crowded",
        "_current",
        "_cursor",
        "_link",
        "_mail",
        "_parcel",
        "_rcpts",
        "_refusal",
        "_replied",
        "_waiting",
    )

    def __init__(self, link: Link, parcel: Parcel) -> None:
        self._link = link
        self._parcel = parcel
        self._answers: list[Answer | None] = [None] * len(parcel.recipients)
        self._waiting = list(range(len(parcel.recipients)))  # no transaction has held them yet
        self._current: list[int] = []  # in this transaction, in the order of their RCPT
        self._accepted: list[int] = []
        self._crowded: list[tuple[int, Answer]] = []  # refused as one recipient too many
        self._refusal: Answer | None = None  # of MAIL
        self._replied = False  # to MAIL
        self._cursor = 0
        self._mail = b""
        self._rcpts: list[bytes] = []  # by position

    def start(self, actions: list[Action]) -> None:
        """Say MAIL, or Finished where this peer can serve no recipient.

        Raises ValueError, with nothing said, where a command cannot be written: it would be read as two, or an
        original recipient or envelope id has no xtext. No parser of ours lets such a value pass.
        """
        utf8 = self._weigh()
        if self._waiting:
            parcel, offers = self._parcel, self._link.offers
            envelope = parcel.envelope
            self._mail = _one_line(mail_command(offers, envelope, parcel.content, utf8=utf8))
            self._rcpts = [
                _one_line(rcpt_command(offers, envelope.recipients[index], utf8=utf8)) for index in parcel.recipients
            ]
        self._next_transaction(actions)

    def receive(self, raw: Raw, actions: list[Action]) -> None:
        """One reply other than 421. Raises Broken."""
        _REPLIED[self._link.stage](self, raw, actions)

    def abandon(self, answer: Answer, actions: list[Action]) -> None:
        """The connection is of no more use: `answer` stands for all that have none yet."""
        stale = None
        if answer.trouble is Trouble.STALE:
            stale = answer
        elif self._link.transactions > 1 and not self._replied and _hung_up(answer):
            # It had ended before this transaction began, as the peer's idle timer does: nothing was lost by it.
            stale = Answer(Stage.MAIL, answer.reply, Trouble.STALE, answer.text)
        unsaid = stale or Answer(Stage.MAIL, answer.reply, answer.trouble, answer.text)
        for position in self._waiting:
            self._answers[position] = unsaid
        for position, crowded in self._crowded:
            self._answers[position] = crowded
        for position in self._current:
            if self._refusal is not None:
                self._answers[position] = self._refusal
            elif self._answers[position] is None:
                self._answers[position] = stale or answer
        self._finish(actions)

    # Before a word is said

    def _weigh(self) -> bool:
        """Answer for the recipients that this peer cannot serve; whether the others need SMTPUTF8."""
        offers, content = self._link.offers, self._parcel.content
        if offers.size and content.size > offers.size:
            # RFC 1870 §6.1: the client need not try; the enhanced code is RFC 3463 §3.4's.
            self._unfit(
                "5.3.4", f"message of {content.size} octets is larger than the {offers.size} that the peer takes"
            )
        elif content.eightbit and not offers.eightbitmime:
            self._unfit("5.6.3", "8-bit content cannot be converted for a peer without 8BITMIME")  # RFC 6152 §3
        elif needs_utf8(self._parcel.envelope, content, self._parcel.recipients):
            if offers.smtputf8:
                return True
            self._refuse_utf8()
        return False

    def _unfit(self, status: str, text: str) -> None:
        answer = Answer(Stage.MAIL, trouble=Trouble.UNFIT, status=status, text=text)
        self._answers = [answer] * len(self._answers)
        self._waiting = []

    def _refuse_utf8(self) -> None:
        """RFC 6531 §3.2: without SMTPUTF8 no such address or header; recipients that need neither are served."""
        envelope, recipients = self._parcel.envelope, self._parcel.recipients
        text = "the peer does not offer SMTPUTF8"
        if envelope.sender is not None and envelope.sender.internationalized:
            self._unfit("5.6.7", text)
            return
        if needs_utf8(envelope, self._parcel.content, ()):
            self._unfit("5.6.9", text)
            return
        answer = Answer(Stage.MAIL, trouble=Trouble.UNFIT, status="5.6.7", text=text)
        for position in self._waiting:
            if envelope.recipients[recipients[position]].address.internationalized:
                self._answers[position] = answer
        self._waiting = [position for position in self._waiting if self._answers[position] is None]

    # Transactions

    def _next_transaction(self, actions: list[Action]) -> None:
        """Begin the next transaction of this parcel, or finish it."""
        link = self._link
        if not self._waiting or 0 < link.offers.mail_max <= link.transactions:  # RFC 9422 §4.1
            self._finish(actions)
            return
        self._current = self._take()
        self._accepted = []
        self._crowded = []
        self._refusal = None
        self._replied = False
        self._cursor = 0
        link.transactions += 1
        link.stage = Stage.RSET if link.open else Stage.MAIL
        if link.offers.pipelining:
            wire = [b"RSET\r\n"] if link.open else []
            wire.append(self._mail)
            wire += [self._rcpts[position] for position in self._current]
            wire.append(b"DATA\r\n")  # RFC 2920 §3.1: DATA ends the group
            actions.append(Write(b"".join(wire)))
        elif link.open:
            actions.append(Write(b"RSET\r\n"))
        else:
            actions.append(Write(self._mail))

    def _take(self) -> list[int]:
        """The positions for one transaction: no more of them, and no more domains, than the peer allows."""
        waiting, limit = self._waiting, self._link.limit
        domains = self._link.offers.domain_max
        if domains and len(waiting) > 1:
            seen: set[str] = set()
            for count, position in enumerate(waiting[:limit]):
                seen.add(self._parcel.envelope.recipients[self._parcel.recipients[position]].address.domain)
                if len(seen) > domains:  # RFC 9422 §4.3
                    limit = count
                    break
        self._waiting = waiting[limit:]
        return waiting[:limit]

    def _end_transaction(self, actions: list[Action]) -> None:
        """All replies of the transaction are there."""
        if self._refusal is not None:
            for position in self._current:
                self._answers[position] = self._refusal
        elif self._crowded:
            # These go in the next transaction; at least one recipient was taken in this one, so it comes to an end.
            self._waiting = sorted([position for position, _ in self._crowded] + self._waiting)
        self._next_transaction(actions)

    def _finish(self, actions: list[Action]) -> None:
        self._link.stage = Stage.IDLE
        actions.append(Finished(self._answers))

    # Replies, one method a stage

    def _on_rset(self, raw: Raw, actions: list[Action]) -> None:
        if not 200 <= raw[0] < 300:
            # RFC 5321 §4.1.1.5 knows no refusal. Nothing of this message was said, so that another connection will do.
            raise Broken("RSET was refused")
        self._link.open = False
        self._link.stage = Stage.MAIL
        if not self._link.offers.pipelining:
            actions.append(Write(self._mail))

    def _on_mail(self, raw: Raw, actions: list[Action]) -> None:
        code = raw[0]
        self._replied = True
        if code < 300:
            self._link.open = True
        elif code < 400:
            raise Broken(f"{code} in answer to MAIL")
        else:
            self._refusal = Answer(Stage.MAIL, reply_of(raw))
        if self._link.offers.pipelining:
            self._link.stage = Stage.RCPT
        elif self._refusal is None:
            self._link.stage = Stage.RCPT
            actions.append(Write(self._rcpts[self._current[0]]))
        else:
            self._end_transaction(actions)

    def _on_rcpt(self, raw: Raw, actions: list[Action]) -> None:
        code = raw[0]
        position = self._current[self._cursor]
        full = False
        if code < 300:
            self._accepted.append(position)
        elif code < 400:
            raise Broken(f"{code} in answer to RCPT")
        else:
            reply = reply_of(raw)
            full = bool(self._accepted) and _too_many(reply)
            if full:
                self._crowded.append((position, Answer(Stage.RCPT, reply)))
            else:
                self._answers[position] = Answer(Stage.RCPT, reply)
        self._cursor += 1
        if self._link.offers.pipelining:
            if self._cursor == len(self._current):
                self._link.stage = Stage.DATA
        elif full:
            # RFC 5321 §4.5.3.1.10: the message goes to those that were taken, then to the rest.
            self._waiting = self._current[self._cursor :] + self._waiting
            del self._current[self._cursor :]
            self._say_data(actions)
        elif self._cursor < len(self._current):
            actions.append(Write(self._rcpts[self._current[self._cursor]]))
        elif self._accepted:
            self._say_data(actions)
        else:
            self._end_transaction(actions)

    def _say_data(self, actions: list[Action]) -> None:
        self._link.stage = Stage.DATA
        actions.append(Write(b"DATA\r\n"))

    def _on_data(self, raw: Raw, actions: list[Action]) -> None:
        code = raw[0]
        if code == 354:
            if self._accepted and self._refusal is None:
                self._link.stage = Stage.CONTENT
                actions.append(SendContent(self._parcel.content))
            elif self._accepted or self._link.lmtp:
                # A recipient without MAIL, or no reply to wait for after the dot (RFC 2033 §4.2).
                raise Broken("354 without a recipient")
            else:
                self._link.stage = Stage.DOT
                actions.append(_DOT)  # RFC 2920 §3.1: no valid recipient, so the dot alone
        elif code < 400:
            raise Broken(f"{code} in answer to DATA")
        else:
            if self._accepted:
                answer = Answer(Stage.DATA, reply_of(raw))
                for position in self._accepted:
                    self._answers[position] = answer
            self._end_transaction(actions)

    def _on_content(self, raw: Raw, actions: list[Action]) -> None:
        raise Broken("the peer spoke before the end of the message")

    def _on_dot(self, raw: Raw, actions: list[Action]) -> None:
        code = raw[0]
        if self._accepted:
            if 300 <= code < 400:
                raise Broken(f"{code} in answer to the end of the message")
            answer = Answer(Stage.DOT, reply_of(raw))
            if self._link.lmtp:
                # RFC 2033 §4.2: one reply for each recipient that was taken, in the order of the RCPTs.
                self._answers[self._accepted.pop(0)] = answer
                if self._accepted:
                    return
            else:
                for position in self._accepted:
                    self._answers[position] = answer
        self._link.open = False
        self._end_transaction(actions)


def _hung_up(answer: Answer) -> bool:
    """Whether the peer closed the connection, with a 421 or without a word."""
    return answer.trouble is Trouble.LOST or answer.reply is not None


def _too_many(reply: Reply) -> bool:
    """Whether RCPT was refused since the transaction holds as many as the peer takes (RFC 5321 §4.5.3.1.10)."""
    return reply.code in (452, 552) and reply.enhanced in ("", "4.5.3", "5.5.3")


def _one_line(command: bytes) -> bytes:
    """`command`, unless it would be read as two. Raises ValueError."""
    if command.find(b"\n") != len(command) - 1 or command.find(b"\r") != len(command) - 2:
        raise ValueError("line end inside a command")
    return command


_REPLIED: dict[Stage, Callable[[Sending, Raw, list[Action]], None]] = {
    Stage.RSET: Sending._on_rset,
    Stage.MAIL: Sending._on_mail,
    Stage.RCPT: Sending._on_rcpt,
    Stage.DATA: Sending._on_data,
    Stage.CONTENT: Sending._on_content,
    Stage.DOT: Sending._on_dot,
}
