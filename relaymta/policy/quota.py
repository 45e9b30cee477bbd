"""How much an account may send: messages and recipients in the last hour and day, counted for the host as a whole.

Ours; no standard speaks of it. What is over is held for the operator, or refused for now, as the account or the
configuration says. It is asked when the envelope is known and before content comes, and what is not taken after all is
given back. What is held is not counted: it has not left; but of each account only so much is held in a day, lest one
whose password is known to others fills the spool. A message that is to be released later (RFC 4865) counts then, lest
many leave together, and so does one that was counted while the clock was ahead. When nobody can be asked, an account
with a quota has to come again later. The rows are in store.state's database, so that workers and restarts share them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relaymta import events
from relaymta.directory.account import Account, Over, Quota
from relaymta.mail.reply import Reply
from relaymta.policy.verdict import Judgement, Opinion, Transaction, Verdict
from relaymta.store.state import State

HOUR, DAY = 3600, 86_400
SPANS = {HOUR: 60, DAY: 900}  # seconds that are counted together in each; ours, so that a sum reads a hundred rows
UNCOUNTABLE = Reply(451, "4.3.0", "the quota of this account cannot be looked up, try again later")
UNLIMITED = Quota()
HELD = "quota"  # the reason of a hold
HELD_PER_DAY = 1000  # messages of an account; ours, more than anybody looks through

_WORDS = {HOUR: "hour", DAY: "day"}

SCHEMA = """
CREATE TABLE IF NOT EXISTS sent (
    account TEXT NOT NULL,
    span INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    recipients INTEGER NOT NULL,
    PRIMARY KEY (account, span, slot)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held (
    account TEXT NOT NULL,
    slot INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    PRIMARY KEY (account, slot)
) WITHOUT ROWID;
"""


@frozen(slots=True)
class Excess:
    """One limit that a message would exceed: what it is called, how much it would be, and how much may be."""

    limit: str
    would_be: int
    allowed: int


class Quotas:
    """The check, and the operator's view of it. `seconds` gives POSIX time.

    `default` is for accounts that have no quota of their own, `over` for those that do not say what is to become of
    what is over.
    """

    name = "quota"

    def __init__(
        self,
        state: State,
        seconds: Callable[[], float],
        tell: Callable[[events.Event], None],
        *,
        default: Quota = UNLIMITED,
        over: Over = Over.HOLD,
    ) -> None:
        self._state = state
        self._seconds = seconds
        self._tell = tell
        self.default = default
        self.over = over

    def data(self, transaction: Transaction) -> Judgement:
        """Count a message to these recipients, or say what is to become of it."""
        account = transaction.rights
        if account is None:
            return None
        quota = self.default if account.quota is None else account.quota
        if quota == UNLIMITED:
            return None
        now, recipients, over = self._seconds(), len(transaction.recipients), account.over or self.over
        at = max(now, transaction.release_at)

        def work(rows: sqlite3.Connection) -> tuple[Excess | None, Over]:
            excess = count(rows, account.name, quota, recipients, now, at)
            held = excess is not None and over is Over.HOLD and hold(rows, account.name, now)
            return excess, Over.HOLD if held else Over.REFUSE

        counted = self._state.run(work)
        judged = counted.addCallbacks(
            self._counted,
            self._not_counted,
            callbackArgs=(transaction, account, recipients, at, now),
            errbackArgs=(account,),
        )
        heard: Deferred[Opinion] = Deferred()  # cancelled alone, when the client goes: it is counted all the same

        def tell(opinion: Opinion) -> None:
            if not heard.called:
                heard.callback(opinion)
            elif transaction.undo is not None:
                transaction.undo()

        judged.addCallbacks(tell, heard.errback)
        return heard

    def _counted(
        self,
        found: tuple[Excess | None, Over],
        transaction: Transaction,
        account: Account,
        recipients: int,
        at: float,
        now: float,
    ) -> Opinion:
        excess, over = found
        if excess is None:
            transaction.undo = lambda: self._give_back(account.name, recipients, at)
            return None
        self._tell(
            events.QuotaExceeded(
                transaction.session, transaction.client, account.name, excess.limit, excess.would_be, excess.allowed,
                over.value,
            )
        )  # fmt: skip
        if over is Over.HOLD:
            transaction.hold = HELD
            transaction.undo = lambda: self._give_back_held(account.name, now)
            return None
        text = f"over quota: at most {excess.allowed} {excess.limit.replace('_', ' ')}"
        if excess.limit.startswith("recipients") and recipients > excess.allowed:  # it would never be less
            reply = Reply(550, "5.7.1", text)
        else:
            reply = Reply(451, "4.7.1", f"{text}, try again later")
        return Verdict(reply, self.name, f"{account.name}: {excess.limit} {excess.would_be}")

    def _not_counted(self, failure: Failure, account: Account) -> Opinion:
        failure.trap(sqlite3.Error, OSError)
        return Verdict(UNCOUNTABLE, self.name, f"{account.name}: {failure.getErrorMessage()}")

    def _give_back(self, account: str, recipients: int, at: float) -> None:
        # Failing that, the account has a message less until the time is over.
        self._state.run(lambda rows: give_back(rows, account, recipients, at)).addErrback(lambda _: None)

    def _give_back_held(self, account: str, at: float) -> None:
        self._state.run(lambda rows: give_back_held(rows, account, at)).addErrback(lambda _: None)

    # The operator

    def listing(self) -> Deferred[list[dict[str, object]]]:
        """A row for each account that has sent in the last day."""
        now = self._seconds()
        return self._state.run(lambda rows: _listing(rows, now))

    def reset(self, account: str) -> Deferred[bool]:
        """Forget what an account has sent; whether there was anything."""

        def forget(rows: sqlite3.Connection) -> bool:
            sent, held = (rows.execute(f"DELETE FROM {one} WHERE account = ?", (account,)) for one in ("sent", "held"))
            return sent.rowcount + held.rowcount > 0

        return self._state.run(forget)


def count(
    rows: sqlite3.Connection, account: str, quota: Quota, recipients: int, now: float, at: float
) -> Excess | None:
    """Count one message to so many recipients that leaves at `at`, unless that would be too much: then nothing is.

    The time is rolling, in whole slots: what was sent counts for its hour or day and for at most a slot more. No hour
    in which `at` lies begins more than an hour before it, or ends more than an hour behind it.
    """
    for span, slot in SPANS.items():
        rows.execute(
            "DELETE FROM sent WHERE account = ? AND span = ? AND slot < ?", (account, span, int(now - span) // slot)
        )
        messages, receivers = rows.execute(
            "SELECT TOTAL(messages), TOTAL(recipients) FROM sent WHERE account = ? AND span = ?"
            " AND slot BETWEEN ? AND ?",
            (account, span, int(at - span) // slot, int(at + span) // slot),
        ).fetchone()
        for limit, would_be in (("messages", int(messages) + 1), ("recipients", int(receivers) + recipients)):
            name = f"{limit}_per_{_WORDS[span]}"
            allowed = getattr(quota, name)
            if 0 < allowed < would_be:
                return Excess(name, would_be, allowed)
    _add(rows, account, 1, recipients, at)
    return None


def give_back(rows: sqlite3.Connection, account: str, recipients: int, at: float) -> None:
    """Take back what was counted at that time."""
    _add(rows, account, -1, -recipients, at)


def hold(rows: sqlite3.Connection, account: str, now: float) -> bool:
    """Count one message that is held, unless too many are: then nothing is counted."""
    slot = SPANS[DAY]
    rows.execute("DELETE FROM held WHERE account = ? AND slot NOT BETWEEN ? AND ?", (account, *_slots(now, DAY, slot)))
    [messages] = rows.execute("SELECT TOTAL(messages) FROM held WHERE account = ?", (account,)).fetchone()
    if messages >= HELD_PER_DAY:
        return False
    rows.execute(
        "INSERT INTO held VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET messages = messages + 1",
        (account, int(now) // slot),
    )
    return True


def give_back_held(rows: sqlite3.Connection, account: str, at: float) -> None:
    """Take back what was counted as held at that time."""
    rows.execute(
        "UPDATE held SET messages = MAX(messages - 1, 0) WHERE account = ? AND slot = ?",
        (account, int(at) // SPANS[DAY]),
    )


def _slots(now: float, span: int, slot: int) -> tuple[int, int]:
    """The first and the last slot of the time until now; one more for a clock that was set back a little."""
    return int(now - span) // slot, int(now) // slot + 1


def _add(rows: sqlite3.Connection, account: str, messages: int, recipients: int, at: float) -> None:
    for span, slot in SPANS.items():
        key = (account, span, int(at) // slot)
        if messages > 0:
            rows.execute(
                "INSERT INTO sent VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " messages = messages + excluded.messages, recipients = recipients + excluded.recipients",
                (*key, messages, recipients),
            )
        else:  # what the operator has reset meanwhile is not given back twice
            rows.execute(
                "UPDATE sent SET messages = MAX(messages + ?, 0), recipients = MAX(recipients + ?, 0)"
                " WHERE account = ? AND span = ? AND slot = ?",
                (messages, recipients, *key),
            )


def _listing(rows: sqlite3.Connection, now: float) -> list[dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    rows.execute("DELETE FROM held WHERE slot NOT BETWEEN ? AND ?", _slots(now, DAY, SPANS[DAY]))
    for span, slot in SPANS.items():
        first, last = _slots(now, span, slot)
        rows.execute("DELETE FROM sent WHERE span = ? AND slot < ?", (span, first))  # of accounts that came no more
        word = _WORDS[span]
        for account, messages, recipients in rows.execute(
            "SELECT account, SUM(messages), SUM(recipients) FROM sent WHERE span = ? AND slot <= ? GROUP BY account",
            (span, last),
        ):
            row = found.setdefault(account, {"account": account, **_NOTHING})
            row[f"messages_{word}"], row[f"recipients_{word}"] = messages, recipients
    return [found[account] for account in sorted(found) if any(found[account][key] for key in _NOTHING)]


_NOTHING = {"messages_hour": 0, "recipients_hour": 0, "messages_day": 0, "recipients_day": 0}
