"""How long a client may take, and the one timer of a session.

RFC 5321 §4.5.3.2 (timeouts by phase). A timer that is moved at every command costs as much as the command; so the
deadline is a number, and the timer looks at it when it rings.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relaymta.mail.reply import Reply
from relaymta.smtp import answers
from relaymta.smtp.session import Session
from relaymta.smtp.settings import Timeouts
from relaymta.smtp.turns import State


class Patience:
    """The deadlines of one session. All times are those of one monotonic clock, in seconds."""

    __slots__ = ("_content_since", "_messages", "_since", "_timeouts")

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        self._timeouts = timeouts
        self._since = now  # the greeting, or the last accepted message
        self._messages = 0
        self._content_since = 0.0  # 0: no content is being read

    def deadline(self, session: Session, now: float) -> float:
        """Until when something has to come from the client, of whom something has just come; inf: it is our turn."""
        if session.messages != self._messages:
            self._messages = session.messages
            self._since = now
        if session.owes:
            return inf
        timeouts, state = self._timeouts, session.state
        last = self._since + timeouts.message
        if state is State.CONTENT or state is State.CHUNK:
            if not self._content_since:
                self._content_since = now
            return min(now + timeouts.content, self._slowest(session), last)
        if state is not State.CHUNKS:
            self._content_since = 0.0
        return min(now + timeouts.command, last)

    def _slowest(self, session: Session) -> float:
        """When content of the lowest bearable rate would have come so far."""
        timeouts = self._timeouts
        return self._content_since + timeouts.content + session.size / max(timeouts.min_rate, 1)

    def reply(self, session: Session, now: float) -> Reply:
        """What is said when the deadline has passed."""
        if now >= self._since + self._timeouts.message:
            return answers.OVERTIME
        if self._content_since and session.size and now >= self._slowest(session):
            return answers.TOO_SLOW
        return answers.TIMED_OUT


class Alarm:
    """Calls `ring` once the deadline has passed; the deadline may be moved as often as one likes."""

    __slots__ = ("_call", "_clock", "_deadline", "_ring", "_wakes_at")

    def __init__(self, clock: IReactorTime, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._deadline = inf
        self._wakes_at = inf
        self._call: IDelayedCall | None = None

    def set(self, deadline: float) -> None:
        """Ring at `deadline` (seconds of the clock), inf for not at all, instead of when it was to ring before."""
        self._deadline = deadline
        if deadline < self._wakes_at:
            self._wake_at(deadline)

    def stop(self) -> None:
        """Never ring again."""
        self._deadline = inf
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _wake_at(self, moment: float) -> None:
        if self._call is not None:
            self._call.cancel()
        self._wakes_at = moment
        self._call = self._clock.callLater(max(0.0, moment - self._clock.seconds()), self._wake)

    def _wake(self) -> None:
        self._call, self._wakes_at = None, inf
        if self._deadline == inf:
            return
        if self._deadline <= self._clock.seconds():
            self._deadline = inf
            self._ring()
        else:
            self._wake_at(self._deadline)
