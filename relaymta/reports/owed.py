"""All notices that one round of attempts owes: the kinds in order, each composed or dropped.

RFC 3461 §5.2 (what the outcomes of a round ask for). Pure, as dsn is: who stores them, and what is recorded
afterwards, is left to the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from attrs import frozen

from relaymta.mail.content import Content
from relaymta.mail.envelope import Envelope
from relaymta.mail.outcome import Outcome
from relaymta.reports.dsn import Kind, Notice, compose, owed
from relaymta.reports.settings import Settings

_ROUND = (Kind.FAILED, Kind.DELIVERED, Kind.RELAYED)


@frozen(slots=True)
class Owed:
    """One notice that is owed for `recipients` (indices in the envelope), under the queue id `notice_id`.

    `notice` is None where nobody is to be told of it, or where `error` says why the content could not be read.
    """

    kind: Kind
    recipients: frozenset[int]
    notice_id: str
    notice: Notice | None
    error: OSError | None = None


def notices(
    queue_id: str,
    envelope: Envelope,
    content: Content,
    outcomes: Sequence[Outcome],
    late: Sequence[Outcome],
    *,
    hostname: str,
    settings: Settings,
    now: float,
    retry_until: float,
    new_id: Callable[[], str],
) -> Iterator[Owed]:
    """What `outcomes` of a round, and `late`, the deferred ones whose delay is to be told, owe to the sender.

    `now` and `retry_until` are POSIX times in seconds; `new_id` makes queue ids.
    """
    news = [(kind, outcomes) for kind in _ROUND if outcomes]
    if late:
        news.append((Kind.DELAYED, late))
    for kind, about in news:
        told = owed(kind, envelope, about)
        if not told:
            continue
        recipients = frozenset(one.outcome.recipient for one in told)
        notice_id = new_id()
        try:
            notice = compose(
                kind,
                queue_id,
                envelope,
                told,
                content,
                hostname=hostname,
                settings=settings,
                now=now,
                notice_id=notice_id,
                retry_until=retry_until if kind is Kind.DELAYED else None,
            )
        except OSError as error:
            yield Owed(kind, recipients, notice_id, None, error)
        else:
            yield Owed(kind, recipients, notice_id, notice)
