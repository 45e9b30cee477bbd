"""Quotas: what is over waits or comes again later; the host counts as one, over workers and restarts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from relaymta import events
from relaymta.directory.account import Account, Over, Quota
from relaymta.mail.address import Address
from relaymta.mail.envelope import Recipient
from relaymta.policy.quota import DAY, HOUR, SCHEMA, SPANS, UNCOUNTABLE, Quotas, count, give_back, give_back_held
from relaymta.policy.verdict import Transaction, Verdict
from relaymta.store.state import State

NOW = 1_790_000_000.0


class Office:
    """Workers that share one database; each question is answered when it was asked."""

    def __init__(self, folder: Path, **defaults: Any) -> None:
        self.path = str(folder / "state" / "quota.sqlite")
        self.now = NOW
        self.told: list[events.Event] = []
        self.defaults = defaults

    def do(self, work: Callable[[Quotas], Any]) -> Any:
        """Let a worker that was just started do something, and end."""
        state = State(self.path, SCHEMA, lambda call, *args: call(*args))
        results: list[Any] = []
        answer = work(Quotas(state, lambda: self.now, self.told.append, **self.defaults))
        if isinstance(answer, Deferred):
            answer.addBoth(results.append)
        else:
            results.append(answer)
        state.close()
        return results[0]

    def send(self, account: Account, recipients: int = 1, later: float = 0.0) -> tuple[str, Transaction]:
        """What DATA is answered ("" for go ahead), and the transaction."""
        transaction = Transaction("192.0.2.1", account=account.name, rights=account, session="s1")
        transaction.release_at = self.now + later if later else 0.0
        transaction.recipients = [Recipient(Address("r", "y.example"))] * recipients
        verdict = self.do(lambda quotas: quotas.data(transaction))
        assert verdict is None or isinstance(verdict, Verdict), verdict
        return "" if verdict is None else str(verdict.reply), transaction


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """An office whose accounts have no quota but their own."""
    return Office(tmp_path)


@pytest.mark.parametrize(
    "limit", ["messages_per_hour", "messages_per_day", "recipients_per_hour", "recipients_per_day"]
)
def test_what_is_over_is_refused_for_now(office: Office, limit: str) -> None:
    """Two are taken, the third is 451 4.7.1, told, and not counted; another worker knows it too."""
    account = Account("app", quota=Quota(**{limit: 2}), over=Over.REFUSE)
    assert [office.send(account)[0] for _ in range(2)] == ["", ""]
    for _ in range(3):
        said = office.send(account)[0]
        assert said == f"451 4.7.1 over quota: at most 2 {limit.replace('_', ' ')}, try again later"
    assert office.send(Account("other", quota=account.quota))[0] == ""
    assert office.told == [events.QuotaExceeded("s1", "192.0.2.1", "app", limit, 3, 2, "refuse")] * 3


def test_what_is_over_is_held_by_default(office: Office) -> None:
    """The message is taken and waits for the operator; what is held is not counted."""
    account = Account("app", quota=Quota(messages_per_hour=1))
    assert office.send(account)[1].hold == ""
    for _ in range(2):
        said, transaction = office.send(account)
        assert (said, transaction.hold) == ("", "quota")
    assert [event.over for event in office.told if isinstance(event, events.QuotaExceeded)] == ["hold", "hold"]
    office.now += HOUR + SPANS[HOUR]
    assert office.send(account)[1].hold == ""


def test_what_is_held_has_an_end(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account whose password is known to others filled the spool with held messages, for everybody."""
    monkeypatch.setattr("relaymta.policy.quota.HELD_PER_DAY", 2)
    account = Account("app", quota=Quota(messages_per_hour=1))
    assert [office.send(account)[1].hold for _ in range(3)] == ["", "quota", "quota"]
    assert office.send(account)[0] == "451 4.7.1 over quota: at most 1 messages per hour, try again later"
    assert office.told[-1] == events.QuotaExceeded("s1", "192.0.2.1", "app", "messages_per_hour", 2, 1, "refuse")
    assert office.send(Account("other", quota=account.quota))[0] == ""
    office.now += DAY + SPANS[DAY]
    assert [office.send(account)[1].hold for _ in range(2)] == ["", "quota"]
    rows = sqlite3.connect(office.path)
    give_back_held(rows, "app", office.now)
    rows.commit()
    rows.close()
    assert [office.send(account)[1].hold for _ in range(3)] == ["quota", "quota", ""]
    assert office.do(lambda quotas: quotas.reset("app")) is True
    assert [office.send(account)[1].hold for _ in range(2)] == ["", "quota"]


def test_a_clock_that_ran_ahead_bars_nobody(office: Office) -> None:
    """What was sent while the clock was years ahead counted until that time came."""
    account = Account("app", quota=Quota(messages_per_hour=1, messages_per_day=1), over=Over.REFUSE)
    office.now += 10 * 365 * DAY
    assert office.send(account)[0] == ""
    office.now = NOW
    assert [office.send(account)[0][:3] for _ in range(2)] == ["", "451"]
    office.now -= 30  # a second or a minute is no such thing
    assert office.send(account)[0][:3] == "451"
    assert office.do(lambda quotas: quotas.listing())[0]["messages_day"] == 1


def test_a_message_that_never_fits_is_refused_for_good(office: Office) -> None:
    """More recipients than the quota would ever allow: there is nothing to wait for."""
    account = Account("app", quota=Quota(recipients_per_day=3), over=Over.REFUSE)
    assert office.send(account, 4)[0] == "550 5.7.1 over quota: at most 3 recipients per day"
    assert office.send(account, 3)[0] == ""


def test_an_account_without_a_quota_has_the_default(tmp_path: Path) -> None:
    """And what becomes of what is over is the account's word, or else the configuration's."""
    office = Office(tmp_path, default=Quota(messages_per_day=1), over=Over.REFUSE)
    assert office.send(Account("a"))[0] == ""
    assert office.send(Account("a"))[0].startswith("451 4.7.1")
    assert office.send(Account("a", over=Over.HOLD))[1].hold == "quota"
    assert office.send(Account("a", quota=Quota()))[0] == ""


def test_nobody_is_asked_for_an_account_without_limits(office: Office) -> None:
    """No limit, or no account: a plain None, and no database is made."""
    assert office.do(lambda quotas: quotas.data(Transaction("192.0.2.1"))) is None
    assert office.do(lambda quotas: quotas.data(Transaction("192.0.2.1", rights=Account("a")))) is None
    assert not Path(office.path).exists()


def test_what_is_not_taken_is_given_back(office: Office) -> None:
    """A message that is refused later, or never comes, has not been sent."""
    account = Account("app", quota=Quota(messages_per_hour=1), over=Over.REFUSE)
    calls: Queue[tuple[Any, ...]] = Queue()
    state = State(office.path, SCHEMA, lambda *call: calls.put(call))
    transaction = Transaction("192.0.2.1", rights=account)
    judgement = Quotas(state, lambda: NOW, office.told.append).data(transaction)
    assert isinstance(judgement, Deferred)
    call, *facts = calls.get(timeout=10)
    call(*facts)
    assert transaction.undo is not None
    transaction.undo()
    state.close()
    assert office.send(account)[0] == ""


def test_when_nobody_can_be_asked_it_is_451(office: Office) -> None:
    """A database that is broken lets no account with a quota through, and bounces nothing."""
    Path(office.path).mkdir(parents=True)
    assert office.send(Account("app", quota=Quota(messages_per_hour=1)))[0] == str(UNCOUNTABLE)
    assert office.send(Account("app"))[0] == ""


def test_the_operator_sees_and_resets(office: Office) -> None:
    """What each account has sent in the last hour and day; after a reset it begins anew."""
    account = Account("app", quota=Quota(messages_per_hour=2), over=Over.REFUSE)
    office.send(account, 3)
    office.now += HOUR + SPANS[HOUR]
    office.send(account, 2)
    office.send(Account("b", quota=Quota(messages_per_day=5)))
    assert office.do(lambda quotas: quotas.listing()) == [
        {"account": "app", "messages_hour": 1, "recipients_hour": 2, "messages_day": 2, "recipients_day": 5},
        {"account": "b", "messages_hour": 1, "recipients_hour": 1, "messages_day": 1, "recipients_day": 1},
    ]
    assert office.do(lambda quotas: quotas.reset("app")) is True
    assert office.do(lambda quotas: quotas.reset("app")) is False
    assert [row["account"] for row in office.do(lambda quotas: quotas.listing())] == ["b"]
    office.now += DAY + SPANS[DAY]
    assert office.do(lambda quotas: quotas.listing()) == []


def test_what_is_released_later_counts_then(office: Office) -> None:
    """RFC 4865: a week's quota could be saved up, and leave all at once."""
    account = Account("app", quota=Quota(messages_per_hour=2), over=Over.REFUSE)
    saved = []
    for _ in range(24):
        saved.append(office.send(account, later=3 * DAY + NOW - office.now)[0][:3])
        office.now += HOUR + SPANS[HOUR]
    assert saved == ["", ""] + ["451"] * 22
    assert office.do(lambda quotas: quotas.listing()) == []
    assert [office.send(account)[0][:3] for _ in range(3)] == ["", "", "451"]
    office.now = NOW + 3 * DAY + 60
    assert office.send(account)[0][:3] == "451"
    assert office.do(lambda quotas: quotas.listing())[0]["messages_hour"] == 2


sendings = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(1, 4), st.booleans(), st.sampled_from([0, 0, 1500, 5000, 80_000])),
    max_size=60,
)


@settings(max_examples=60)
@given(sendings, st.builds(Quota, *(st.integers(0, 12) for _ in range(4))))
def test_no_window_ever_holds_more_than_the_quota(steps: list[tuple[int, int, bool, int]], quota: Quota) -> None:
    """Of what was counted, any rolling hour or day has at most what is allowed; what is given back counts no more."""
    rows = sqlite3.connect(":memory:", isolation_level=None)
    rows.executescript(SCHEMA)
    now, sent = NOW, list[tuple[float, int]]()
    for step, recipients, kept, later in steps:
        now += step
        if count(rows, "app", quota, recipients, now, now + later) is None:
            if kept:
                sent.append((now + later, recipients))
            else:
                give_back(rows, "app", recipients, now + later)
        else:
            assert quota != Quota()
    for at, _ in sent:
        for span, messages, receivers in (
            (HOUR, quota.messages_per_hour, quota.recipients_per_hour),
            (DAY, quota.messages_per_day, quota.recipients_per_day),
        ):
            window = [many for when, many in sent if at <= when < at + span]
            assert not messages or len(window) <= messages
            assert not receivers or sum(window) <= receivers
