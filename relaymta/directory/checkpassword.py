"""Accounts behind a checkpassword program: one is started for each question, without a shell.

The interface is D. J. Bernstein's: on descriptor 3 the program reads name, password and a timestamp, each ended by NUL;
it runs the command behind its own arguments when they are right (the operator names one that does nothing), and ends
with 1 when they are wrong, 111 when it cannot say. checkpassword-pam makes PAM such a program.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from relaymta.directory.account import Account
from relaymta.directory.credentials import DirectoryUnavailableError
from relaymta.directory.patience import within
from relaymta.directory.settings import CheckpasswordSettings

PASSWORD_FD = 3
WRONG = 1  # the status for a no
SHOWN_MAX = 512  # octets of name, password and timestamp together, the interface's own limit
PROGRAMS = 10  # at the same time, of each process; ours
WAITING = 100
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Question(ProcessProtocol):
    """One run; `answer` fires with whether the password is right."""

    def __init__(self, shown: bytes) -> None:
        self._shown = shown
        self.answer: Deferred[bool] = Deferred(self._stop)

    def connectionMade(self) -> None:
        """Show it what it wants to see."""
        assert self.transport is not None
        self.transport.writeToChild(PASSWORD_FD, self._shown)
        self.transport.closeChildFD(PASSWORD_FD)
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """What it prints is not for us: a password may be in it."""

    def processExited(self, reason: Failure) -> None:
        """Its status is the answer, whatever it has left running with our pipes (as modules of PAM do)."""
        assert self.transport is not None
        self.transport.loseConnection()
        if self.answer.called:
            return
        ended = reason.value
        if isinstance(ended, ProcessDone):
            self.answer.callback(True)
        elif isinstance(ended, ProcessTerminated) and ended.exitCode == WRONG:
            self.answer.callback(False)
        else:
            how = getattr(ended, "exitCode", None)
            said = f"status {how}" if how is not None else f"signal {getattr(ended, 'signal', None)}"
            self.answer.errback(DirectoryUnavailableError(f"checkpassword: the program ended with {said}"))

    def _stop(self, _: object) -> None:
        assert self.transport is not None
        try:
            self.transport.signalProcess("KILL")
        except ProcessExitedAlready:
            pass


class CheckpasswordJudge:
    """Judges passwords by the program of `settings`."""

    def __init__(self, settings: CheckpasswordSettings, reactor: Any) -> None:
        self._settings = settings
        self._rights = settings.rights
        self._reactor = reactor
        self._places = DeferredSemaphore(PROGRAMS)

    def check(self, name: str, password: bytes) -> Deferred[Account | None]:
        """Whose password it is."""
        asked = Deferred.fromCoroutine(self._check(name, password))
        return within(self._settings.timeout, asked, self._reactor, "checkpassword")

    def close(self) -> None:
        """What runs ends by itself, or when its time is over."""

    async def _check(self, name: str, password: bytes) -> Account | None:
        shown = b"%s\0%s\0%d\0" % (name.encode(), password, self._reactor.seconds())
        if len(shown) > SHOWN_MAX:
            return None
        if len(self._places.waiting) >= WAITING:
            raise DirectoryUnavailableError("checkpassword: too many at once")
        return self._rights.account(name) if await self._places.run(self._run, shown) else None

    def _run(self, shown: bytes) -> Deferred[bool]:
        question = _Question(shown)
        program = self._settings.program
        descriptors = {0: "w", 1: "r", 2: "r", PASSWORD_FD: "w"}
        try:
            self._reactor.spawnProcess(question, program[0], program, env={"PATH": PATH}, childFDs=descriptors)
        except OSError as error:
            raise DirectoryUnavailableError(f"checkpassword: {program[0]}: {error.strerror}") from None
        return question.answer
