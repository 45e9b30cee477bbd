"""Accounts behind a program that reads a password on descriptor 3."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import gatherResults

from relaymta.config import Duration
from relaymta.directory.account import Account
from relaymta.directory.accounts import Accounts
from relaymta.directory.credentials import DirectoryUnavailableError
from relaymta.directory.settings import CheckpasswordSettings, UserSettings
from tests.directory.rig import AccountsCase

# As Bernstein's interface has it: what is on 3, and only then the command behind the arguments.
PROGRAM = """#!/bin/sh
exec </dev/null
given=$(tr '\\0' '|' <&3)
echo "$given $HOME" >>"$1"
echo "on standard output: $given" ; echo "on standard error: $given" >&2
case $given in
    "ann|pencil|"[0-9]*"|") shift; exec "$@" ;;
    "slow|"*) exec sleep 20 ;;
    "broken|"*) exit 111 ;;
    "killed|"*) kill -9 $$ ;;
esac
exit 1
"""


class TestCheckpassword(AccountsCase):
    """A program of our own, run as theirs are."""

    def setUp(self) -> None:
        """The program."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.program = self.folder / "check password"
        self.program.write_text(PROGRAM)
        self.program.chmod(0o755)

    def directory(self, *words: str, timeout: float = 20) -> Accounts:
        """Accounts behind it, with these arguments."""
        program = (str(self.program), str(self.folder / "seen"), *(words or ("/bin/true",)))
        settings = CheckpasswordSettings(program=program, timeout=Duration(timeout), senders=("{name}@example.org",))
        return self.make(UserSettings(checkpassword=settings), self.folder)

    async def test_its_status_is_the_answer(self) -> None:
        """0 is yes, 1 is no; it sees name, password and a time, and nothing of our environment."""
        os.environ["RELAYMTA_TEST"] = "x"
        accounts = self.directory()
        self.assertEqual(await self.password(accounts, "Ann", "pencil"), Account("ann", ("ann@example.org",)))
        wrong = [("ann", "pen"), ("nobody", "pencil"), ("x" * 255, "y" * 400)]
        await gatherResults([self.assertFailure(self.password(accounts, *one), UnauthorizedLogin) for one in wrong])
        seen = (self.folder / "seen").read_text().splitlines()
        self.assertRegex(seen[0], r"^ann\|pencil\|\d+\| $")
        self.assertEqual(len(seen), 3)  # what is longer than the interface allows is not shown

    async def test_whatever_else_it_does_is_no_answer(self) -> None:
        """111, a signal, no end, a command of the operator's that is not there, no program at all."""
        accounts = self.directory(timeout=0.5)
        for name, said in (("broken", "status 111"), ("killed", "signal 9"), ("slow", "no answer within 0.5 s")):
            error = await self.assertFailure(self.password(accounts, name, "secret"), DirectoryUnavailableError)
            self.assertIn(said, str(error))
            self.assertNotIn("secret", str(error))
        accounts = self.directory("/nonexistent/true")
        await self.assertFailure(self.password(accounts, "ann", "pencil"), DirectoryUnavailableError)
        self.program.unlink()
        await self.assertFailure(self.password(self.directory(), "ann", "pencil"), DirectoryUnavailableError)

    async def test_what_it_leaves_running_is_not_waited_for(self) -> None:
        """A module of PAM may start a daemon that keeps our pipes open: a log-in took the whole time, and failed."""
        self.program.write_text("#!/bin/sh\ncat <&3 >/dev/null\nsleep 30 &\nexit 0\n")
        found = await self.password(self.directory(timeout=10), "ann", "pencil")
        self.assertEqual(found.name, "ann")

    async def test_no_shell_looks_at_anything(self) -> None:
        """Arguments and passwords are what they are."""
        accounts = self.directory("/bin/true", "; touch x", "$(touch x)", "`touch x`")
        await self.assertFailure(self.password(accounts, "ann", "$(touch x); `touch x`"), UnauthorizedLogin)
        self.assertEqual(await self.password(accounts, "ann", "pencil"), Account("ann", ("ann@example.org",)))
        self.assertFalse((self.folder / "x").exists() or os.path.exists("x"))
