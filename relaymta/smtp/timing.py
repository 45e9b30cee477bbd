"""How long a client may take.

RFC 5321 §4.5.3.2 (timeouts by phase). A timer that is moved at every command costs as much as the command; so the shell
notes when it heard something, and asks for the deadline when its timer rings, at least once in `shortest` seconds.
"""

from __future__ import annotations

from math import inf

from relaymta.mail.reply import Reply
from relaymta.smtp import answers
from relaymta.smtp.session import Session
from relaymta.smtp.settings import Timeouts
from relaymta.smtp.turns import State


class Patience:
    """The deadlines of one session. All times are those of one monotonic clock, in seconds.

    `heard` is when the client last sent something, or was last answered; the shell keeps it.
    """

    __slots__ = ("_content_since", "_since", "_timeouts", "heard", "shortest")

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        self._timeouts = timeouts
        self._since = now  # the greeting, or the last accepted message
        self._content_since = now
        self.heard = now
        self.shortest: float = min(timeouts.command, timeouts.content)

    def begin_content(self) -> None:
        """Content may come from now on."""
        self._content_since = self.heard

    def accept(self) -> None:
        """A message was accepted."""
        self._since = self.heard

    def deadline(self, session: Session) -> float:
        """Until when something has to come; inf when it is not the client's turn."""
        if session.owes:
            return inf
        last = self._since + self._timeouts.message
        if session.state in (State.CONTENT, State.CHUNK):
            return min(self.heard + self._timeouts.content, self._slowest(session), last)
        return min(self.heard + self._timeouts.command, last)

    def _slowest(self, session: Session) -> float:
        """When content of the lowest bearable rate would have come so far."""
        timeouts = self._timeouts
        return self._content_since + timeouts.content + session.size / max(timeouts.min_rate, 1)

    def reply(self, session: Session, now: float) -> Reply:
        """What is said when the deadline has passed."""
        if now >= self._since + self._timeouts.message:
            return answers.OVERTIME
        if now < self.heard + self._timeouts.content and session.state in (State.CONTENT, State.CHUNK):
            return answers.TOO_SLOW
        return answers.TIMED_OUT
