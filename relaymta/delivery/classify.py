"""What a failure means: whom it concerns, whether it is for good, and whether another host may do better.

The only place that decides it. RFC 5321 §3.1, §3.8, §4.2.1, §4.2.5, §4.5.3.2.6, §5.1; RFC 3463 (status codes);
RFC 8689 (REQUIRETLS). What the queue does with an Outcome is left to scheduler and queue.
"""

from __future__ import annotations

from enum import Enum

from attrs import evolve, frozen

from relaymta.mail.outcome import Fate, Outcome, Scope
from relaymta.mail.reply import Reply
from relaymta.routing.mx import Refusal
from relaymta.smtp.actions import Answer, Stage, Trouble


class _Part(Enum):
    """The stages, as far as they differ in what a failure means."""

    OPENING = "opening"  # connecting, greeting, EHLO, TLS
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"  # up to the end of the content
    DOT = "dot"

    __hash__ = object.__hash__


class _Said(Enum):
    """What came in answer: a reply, by class and subject, or a trouble (whose own name is in the table)."""

    DONE = "2yz"
    GOING = "421"  # RFC 5321 §3.8
    SYSTEM = "4yz, the mail system's state"  # RFC 3463 §3.4: x.3.x
    LATER = "4yz"
    NEVER = "5yz"

    __hash__ = object.__hash__


@frozen(slots=True)
class Meaning:
    """One row. `status` "" is the reply's own; `elsewhere`: another address may do better, now."""

    fate: Fate
    scope: Scope
    status: str
    elsewhere: bool
    unknown: bool = False


_DEFERRED, _FAILED, _RELAYED = Fate.DEFERRED, Fate.FAILED, Fate.RELAYED
_HOST, _MESSAGE, _RECIPIENT = Scope.HOST, Scope.MESSAGE, Scope.RECIPIENT
_OPENING, _AUTH, _MAIL, _RCPT, _DATA, _DOT = _Part
_DONE, _GOING, _SYSTEM, _LATER, _NEVER = _Said

_TABLE: dict[tuple[_Part, _Said | Trouble], Meaning] = {
    # No session. A 5yz greeting or EHLO is the host's trouble and not the message's: RFC 5321 §3.1 has 554 for "no
    # SMTP service here", and the next host of the site may have it. When none has, we wait: a host that is being
    # set up, or a list that we stand on for a day, must not bounce a queue.
    (_OPENING, _NEVER): Meaning(_DEFERRED, _HOST, "", True),
    (_OPENING, _LATER): Meaning(_DEFERRED, _HOST, "", True),
    (_OPENING, _SYSTEM): Meaning(_DEFERRED, _HOST, "", True),
    (_OPENING, _GOING): Meaning(_DEFERRED, _HOST, "", True),  # RFC 5321 §3.8
    (_OPENING, _DONE): Meaning(_DEFERRED, _HOST, "4.5.0", True),  # a greeting other than 220
    (_OPENING, Trouble.UNREACHABLE): Meaning(_DEFERRED, _HOST, "4.4.1", True),  # RFC 5321 §5.1
    (_OPENING, Trouble.LOST): Meaning(_DEFERRED, _HOST, "4.4.2", True),
    (_OPENING, Trouble.TIMEOUT): Meaning(_DEFERRED, _HOST, "4.4.2", True),
    (_OPENING, Trouble.GARBLED): Meaning(_DEFERRED, _HOST, "4.5.0", True),
    (_OPENING, Trouble.NO_TLS): Meaning(_DEFERRED, _HOST, "4.7.4", True),  # RFC 3463 §3.8: not supported
    (_OPENING, Trouble.TLS): Meaning(_DEFERRED, _HOST, "4.7.5", True),  # RFC 3463 §3.8: cryptographic failure
    # RFC 8689 §4.2.1: each host of the list is tried; when none will do, the sender is told at once.
    (_OPENING, Trouble.UNSAFE): Meaning(_FAILED, _MESSAGE, "", True),  # the trouble brings its own status
    # AUTH. It is about us and never about the message: a changed password must not bounce a queue. Another next hop may
    # know us. RFC 4954 §6: 535 5.7.8, and 454 4.7.0 for what passes.
    (_AUTH, _NEVER): Meaning(_DEFERRED, _HOST, "4.7.8", True),
    (_AUTH, _LATER): Meaning(_DEFERRED, _HOST, "", True),
    (_AUTH, _SYSTEM): Meaning(_DEFERRED, _HOST, "", True),
    (_AUTH, _GOING): Meaning(_DEFERRED, _HOST, "", True),
    (_AUTH, _DONE): Meaning(_DEFERRED, _HOST, "4.7.0", True),  # neither 235 nor 334
    (_AUTH, Trouble.NO_AUTH): Meaning(_DEFERRED, _HOST, "4.7.0", True),  # the trouble may bring its own status
    (_AUTH, Trouble.LOST): Meaning(_DEFERRED, _HOST, "4.4.2", True),
    (_AUTH, Trouble.TIMEOUT): Meaning(_DEFERRED, _HOST, "4.4.2", True),
    (_AUTH, Trouble.GARBLED): Meaning(_DEFERRED, _HOST, "4.5.0", True),
    # MAIL. The state of the host's mail system (full disk, overload) is not the other hosts'; any other "later" is
    # about this sender or message (greylisting, a look-up that failed), and asking all hosts would not help it.
    (_MAIL, _NEVER): Meaning(_FAILED, _MESSAGE, "", False),
    (_MAIL, _LATER): Meaning(_DEFERRED, _MESSAGE, "", False),
    (_MAIL, _SYSTEM): Meaning(_DEFERRED, _HOST, "", True),
    (_MAIL, _GOING): Meaning(_DEFERRED, _HOST, "", True),  # nothing of the message was taken yet
    (_MAIL, Trouble.STALE): Meaning(_DEFERRED, _HOST, "4.4.2", True),
    (_MAIL, Trouble.LOST): Meaning(_DEFERRED, _HOST, "4.4.2", True),
    (_MAIL, Trouble.TIMEOUT): Meaning(_DEFERRED, _HOST, "4.4.2", True),
    (_MAIL, Trouble.GARBLED): Meaning(_DEFERRED, _HOST, "4.5.0", True),
    (_MAIL, Trouble.UNFIT): Meaning(_FAILED, _MESSAGE, "", False),  # the trouble brings its own status
    # RCPT.
    (_RCPT, _NEVER): Meaning(_FAILED, _RECIPIENT, "", False),
    (_RCPT, _LATER): Meaning(_DEFERRED, _RECIPIENT, "", False),
    (_RCPT, _SYSTEM): Meaning(_DEFERRED, _RECIPIENT, "", False),
    # From here a 421 or a drop defers this message only; a drop is told as the host's, which slows its lane.
    (_RCPT, _GOING): Meaning(_DEFERRED, _MESSAGE, "", False),
    (_RCPT, Trouble.LOST): Meaning(_DEFERRED, _HOST, "4.4.2", False),
    (_RCPT, Trouble.TIMEOUT): Meaning(_DEFERRED, _HOST, "4.4.2", False),
    (_RCPT, Trouble.GARBLED): Meaning(_DEFERRED, _HOST, "4.5.0", False),
    # DATA and the content.
    (_DATA, _NEVER): Meaning(_FAILED, _MESSAGE, "", False),
    (_DATA, _LATER): Meaning(_DEFERRED, _MESSAGE, "", False),
    (_DATA, _SYSTEM): Meaning(_DEFERRED, _MESSAGE, "", False),
    (_DATA, _GOING): Meaning(_DEFERRED, _MESSAGE, "", False),
    (_DATA, Trouble.LOST): Meaning(_DEFERRED, _HOST, "4.4.2", False),
    (_DATA, Trouble.TIMEOUT): Meaning(_DEFERRED, _HOST, "4.4.2", False),
    (_DATA, Trouble.GARBLED): Meaning(_DEFERRED, _HOST, "4.5.0", False),
    (_DATA, Trouble.UNREADABLE): Meaning(_DEFERRED, _MESSAGE, "4.3.0", False),  # our own disk
    # The end of the message.
    (_DOT, _DONE): Meaning(_RELAYED, _MESSAGE, "", False),
    (_DOT, _NEVER): Meaning(_FAILED, _MESSAGE, "", False),
    (_DOT, _LATER): Meaning(_DEFERRED, _MESSAGE, "", False),
    (_DOT, _SYSTEM): Meaning(_DEFERRED, _MESSAGE, "", False),
    (_DOT, _GOING): Meaning(_DEFERRED, _MESSAGE, "", False),
    # RFC 5321 §4.5.3.2.6: no answer to the dot leaves it open who has the message. We keep it (RFC 5321 §4.2.5: the
    # duty passes with the 250), and say that nobody knows: it may arrive twice.
    (_DOT, Trouble.LOST): Meaning(_DEFERRED, _HOST, "4.4.2", False, unknown=True),
    (_DOT, Trouble.TIMEOUT): Meaning(_DEFERRED, _HOST, "4.4.2", False, unknown=True),
    (_DOT, Trouble.GARBLED): Meaning(_DEFERRED, _HOST, "4.5.0", False, unknown=True),
}

_PARTS = {
    Stage.CONNECT: _OPENING,
    Stage.BANNER: _OPENING,
    Stage.HELLO: _OPENING,
    Stage.STARTTLS: _OPENING,
    Stage.HANDSHAKE: _OPENING,
    Stage.AUTH: _AUTH,
    Stage.RSET: _MAIL,
    Stage.MAIL: _MAIL,
    Stage.RCPT: _RCPT,
    Stage.DATA: _DATA,
    Stage.CONTENT: _DATA,
    Stage.DOT: _DOT,
}
_OURS = Meaning(_DEFERRED, _MESSAGE, "4.3.0", False)


@frozen(slots=True)
class Peer:
    """Who answered, as far as an Outcome tells it. `dsn`: it took over the DSN duties (RFC 3461 §5.2.2)."""

    host: str = ""
    address: str = ""
    tls: str = ""
    dsn: bool = False
    lmtp: bool = False


NOBODY = Peer()


def meaning(answer: Answer) -> Meaning:
    """The row for `answer`."""
    part = _PARTS[answer.stage]
    if answer.trouble is not None:
        return _TABLE.get((part, answer.trouble), _OURS)
    assert answer.reply is not None
    return _TABLE.get((part, _said(answer.reply)), _OURS)


def _said(reply: Reply) -> _Said:
    if reply.code < 400:
        return _DONE
    if reply.code >= 500:
        return _NEVER
    if reply.code == 421:
        return _GOING
    # RFC 5321 §4.2.3: 452 is "insufficient system storage" where no enhanced code says more.
    if reply.enhanced.startswith("4.3.") or (reply.code == 452 and not reply.enhanced):
        return _SYSTEM
    return _LATER


def reason(answer: Answer) -> str:
    """What the matter was, in a short sentence for the log and the notice."""
    if answer.reply is not None:
        return str(answer.reply)
    if answer.trouble in (Trouble.LOST, Trouble.STALE, Trouble.GARBLED):
        return f"{answer.trouble.value} {answer.stage.value}: {answer.text}"
    return answer.text


def outcome(
    recipient: int, answer: Answer, at: float, peer: Peer = NOBODY, row: Meaning | None = None
) -> Outcome:
    """The Outcome that `answer` of `peer` is for the recipient of that index; `at` is POSIX time.

    `row` is what `meaning` said of the answer, where the caller has asked already.
    """
    row = row or meaning(answer)
    reply, fate, scope = answer.reply, row.fate, row.scope
    if reply is None:
        return Outcome(
            recipient, fate, scope, answer.status or row.status, reason(answer), at,
            None, peer.host, peer.address, peer.tls, False, row.unknown,
        )  # fmt: skip
    if fate is _RELAYED:
        if peer.lmtp:
            fate, scope = Fate.DELIVERED, _RECIPIENT  # RFC 2033 §4.2: a mailbox has it, or has not
        return Outcome(
            recipient, fate, scope, reply.status, "taken by the peer", at,
            reply, peer.host, peer.address, peer.tls, peer.dsn,
        )  # fmt: skip
    if peer.lmtp and answer.stage is Stage.DOT:
        scope = _RECIPIENT
    status = row.status or _in_class(reply.status, fate)
    text = f"refused {answer.stage.value}" if fate is _FAILED else f"put off {answer.stage.value}"
    return Outcome(recipient, fate, scope, status, text, at, reply, peer.host, peer.address, peer.tls)


def _in_class(status: str, fate: Fate) -> str:
    """`status` with the class of what we make of it: a 5yz greeting defers, and a DSN must not contradict itself."""
    return ("5" if fate is _FAILED else "4") + status[1:]


def of_refusal(recipient: int, refusal: Refusal, at: float) -> Outcome:
    """The Outcome of a name look-up that gave no host: NXDOMAIN, null MX (RFC 7505 §4.2), a loop, DNS trouble."""
    fate = _FAILED if refusal.permanent else _DEFERRED
    return Outcome(recipient, fate, Scope.SITE, refusal.status, refusal.text, at)


def everywhere(outcome: Outcome) -> Outcome:
    """The Outcome when no host of the site was better: what was one host's trouble is then the site's."""
    return evolve(outcome, scope=Scope.SITE) if outcome.scope is _HOST else outcome


def of_route(recipient: int, reply: Reply, at: float) -> Outcome:
    """The Outcome of a route that says `error:`: the operator's own reply."""
    fate = _DEFERRED if reply.transient else _FAILED
    return Outcome(recipient, fate, _RECIPIENT, _in_class(reply.status, fate), "refused by a route", at, reply)


def discarded(recipient: int, at: float) -> Outcome:
    """The Outcome of a route that says `discard`."""
    return Outcome(recipient, Fate.DELIVERED, _RECIPIENT, "2.0.0", "discarded by a route", at)


def ours(recipient: int, at: float, text: str, status: str = "4.3.0") -> Outcome:
    """The Outcome of a fault or a decision of our own: it waits, and no peer is to blame."""
    return Outcome(recipient, _DEFERRED, _MESSAGE, status, text, at)


def nowhere(recipient: int, at: float) -> Outcome:
    """The Outcome of a route that names no host at all."""
    return Outcome(recipient, _DEFERRED, Scope.SITE, "4.4.4", "no host to deliver to", at)


def stopping(recipient: int, at: float) -> Outcome:
    """The Outcome of what had not left yet when the relay was stopped."""
    return ours(recipient, at, "the relay is stopping", "4.3.2")
