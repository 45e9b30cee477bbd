"""The control socket: the operator's commands come in as JSON lines over a UNIX socket, and rows go out.

A request is one line, `{"relaymta": 1, "command": "queue.list", "arguments": {...}}`. The answer is a line
`{"row": ...}` for each row and then `{"end": true}`, or `{"error": "..."}` at any point. Rows are made while
the peer reads them, so that a listing of a million messages costs no memory. Who may connect is said by the
socket's mode; what the commands do is left to admin.commands.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import socket
import struct
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IPullProducer, IReactorTime
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from relaymta.config.problems import suggestion
from relaymta.events import BugCaught, Event

VERSION = 1
LINE_MAX = 1 << 20  # octets of one request; ours, a list of 30,000 queue ids fits
CHUNK = 32 * 1024  # octets written for each time the transport asks; ours, half a socket buffer
PIPELINE_MAX = 16  # requests that may wait on one connection; ours, our own tools send one

Arguments = Mapping[str, Any]
Rows = Iterable[object]
Command = Callable[[Arguments], "Rows | Awaitable[Rows]"]


class CommandError(Exception):
    """A command that cannot be done; the text is one line for the operator."""


def encode(line: object) -> bytes:
    """One line of the protocol."""
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


@implementer(IPullProducer)
class _Answer:
    """Writes rows as the transport asks for them, and one last line.

    A row that is None says "nothing yet, let others run": a search through a million messages that finds
    none must not stop the mail.
    """

    def __init__(self, session: ControlSession, rows: Iterator[object], clock: IReactorTime) -> None:
        self._session = session
        self._rows = rows
        self._clock = clock
        self._breath: IDelayedCall | None = None

    def resumeProducing(self) -> None:
        """Write the next chunk; the transport asks again when it is sent."""
        if self._breath is None:
            self._produce()

    def _breathed(self) -> None:
        self._breath = None
        self._produce()

    def _produce(self) -> None:
        lines: list[bytes] = []
        size = 0
        last = False
        while size < CHUNK and not last:
            try:
                row = next(self._rows)
                if row is None:
                    break
                line = encode({"row": row})
            except StopIteration:
                line, last = encode({"end": True}), True
            except Exception as error:  # noqa: BLE001 - a row that cannot be made ends this answer alone
                line, last = encode({"error": self._session.explain(error)}), True
            lines.append(line)
            size += len(line)
        if lines:
            self._session.send(b"".join(lines), last=last)
        else:
            self._breath = self._clock.callLater(0, self._breathed)

    def stopProducing(self) -> None:
        """The peer is gone: let the generator clean up."""
        if self._breath is not None:
            self._breath.cancel()
            self._breath = None
        close = getattr(self._rows, "close", None)
        if close is not None:
            close()


class ControlSession(LineOnlyReceiver):
    """One connection: one command at a time, answered in order."""

    delimiter = b"\n"
    MAX_LENGTH = LINE_MAX
    transport: Any  # a UNIX server transport; ITransport has no producers

    def __init__(self, clock: IReactorTime, commands: Mapping[str, Command], tell: Callable[[Event], None]) -> None:
        self._clock = clock
        self._commands = commands
        self._tell = tell
        self._waiting: list[bytes] = []
        self._answer: _Answer | None = None
        self._running: Deferred[Any] | None = None
        self._caller = ""
        self._trusted = False

    def connectionMade(self) -> None:
        """Learn who is calling: the kernel knows, the peer need not be asked."""
        handle = getattr(self.transport, "getHandle", None)
        if handle is not None:
            uid = _caller_id(handle())
            self._caller, self._trusted = _user_name(uid), uid == os.geteuid()

    def lineReceived(self, line: bytes) -> None:
        """Take one request; it waits while another is answered."""
        self._waiting.append(line)
        if self._running is None and self._answer is None:
            self._next()
        elif len(self._waiting) > PIPELINE_MAX:
            self.transport.loseConnection()

    def lineLengthExceeded(self, line: bytes) -> None:
        """A request without an end: say so and hang up."""
        self.transport.write(encode({"error": f"a request has at most {LINE_MAX} octets"}))
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008 - as in Twisted
        """Stop what is being made for a peer that is gone."""
        self._waiting.clear()
        if self._running is not None:
            self._running.cancel()
        if self._answer is not None:
            self._answer.stopProducing()

    def send(self, octets: bytes, *, last: bool) -> None:
        """Write a part of an answer; after its last part the next request gets its turn."""
        self.transport.write(octets)
        if last:
            self.transport.unregisterProducer()
            self._answer = None
            self._next()

    def explain(self, error: BaseException) -> str:
        """An exception as one line; one that no rule foresaw is told as a bug of ours."""
        if isinstance(error, CommandError):
            return str(error)
        self._tell(BugCaught(where="admin.control", trace="".join(traceback.format_exception(error))))
        return f"internal error, see the log: {type(error).__name__}"

    def _next(self) -> None:
        if not self._waiting:
            return
        try:
            command, arguments = _request(self._waiting.pop(0), self._commands)
        except CommandError as error:
            self.transport.write(encode({"error": str(error)}))
            self._next()
            return
        asker = arguments.pop("for", None)  # our own parent says for whom it asks
        by = asker if self._trusted else None
        self._running = maybeDeferred(_settled, command, {**arguments, "by": by or self._caller})
        self._running.addCallbacks(self._answered, self._failed)

    def _answered(self, rows: Rows) -> None:
        self._running = None
        self._answer = _Answer(self, iter(rows), self._clock)
        self.transport.registerProducer(self._answer, False)

    def _failed(self, failure: Failure) -> None:
        self._running = None
        if self.connected and failure.value is not None:
            self.transport.write(encode({"error": self.explain(failure.value)}))
            self._next()


def _settled(command: Command, arguments: Arguments) -> Any:
    rows = command(arguments)
    if isinstance(rows, Deferred):
        return rows
    return ensureDeferred(rows) if hasattr(rows, "__await__") else rows  # type: ignore[arg-type]


def _request(line: bytes, commands: Mapping[str, Command]) -> tuple[Command, dict[str, Any]]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise CommandError("a request is one line of JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise CommandError('a request is a JSON object with a "command"')
    if request.get("relaymta", VERSION) != VERSION:
        raise CommandError(f"this daemon speaks version {VERSION} of the control protocol")
    name, arguments = request["command"], request.get("arguments", {})
    if not isinstance(arguments, dict):
        raise CommandError("arguments are a JSON object")
    if name not in commands:
        raise CommandError(f'there is no command "{name}"{suggestion(name, commands)}')
    return commands[name], arguments


def _caller_id(handle: socket.socket) -> int:
    """The user id of the peer, from the kernel (unix(7), SO_PEERCRED); -1 when unknown."""
    if not hasattr(socket, "SO_PEERCRED"):
        return -1
    try:
        uid: int = struct.unpack("3i", handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    except (OSError, AttributeError):
        return -1
    return uid


def _user_name(uid: int) -> str:
    """The name of a user, or the number; "" for -1."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid) if uid >= 0 else ""


class ControlFactory(Factory):
    """Makes a session for each caller."""

    noisy = False

    def __init__(self, clock: IReactorTime, commands: Mapping[str, Command], tell: Callable[[Event], None]) -> None:
        self._clock = clock
        self._commands = commands
        self._tell = tell

    def buildProtocol(self, addr: object) -> ControlSession:
        """A session that shares our commands."""
        session = ControlSession(self._clock, self._commands, self._tell)
        session.factory = self
        return session


class ControlSocket:
    """Listens on `path`; the socket belongs to the daemon's user alone, or also to `group` when one is named."""

    def __init__(
        self,
        reactor: Any,  # IReactorUNIX and IReactorTime
        path: str,
        commands: Mapping[str, Command],
        tell: Callable[[Event], None],
        group: str = "",
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._group = group
        self._factory = ControlFactory(reactor, commands, tell)
        self._port: IListeningPort | None = None

    def open(self) -> None:
        """Listen. Raises OSError where another daemon answers or the directory is not ours, KeyError for the group."""
        os.makedirs(os.path.dirname(self._path) or ".", mode=0o755, exist_ok=True)
        _clear_stale(self._path)
        umask = os.umask(0o177)  # nobody may connect between bind and chmod
        try:
            self._port = self._reactor.listenUNIX(self._path, self._factory, mode=0o600)
        finally:
            os.umask(umask)
        if self._group:
            os.chown(self._path, -1, grp.getgrnam(self._group).gr_gid)
            os.chmod(self._path, 0o660)

    def close(self) -> Deferred[Any]:
        """Stop listening; who is connected stays so until the process ends, which tells `stop` that it has."""
        port, self._port = self._port, None
        return maybeDeferred(port.stopListening) if port is not None else succeed(None)


def _clear_stale(path: str) -> None:
    """Remove the socket that a dead daemon left; a living one is not touched. Raises OSError."""
    probe = socket.socket(socket.AF_UNIX)
    probe.setblocking(False)
    try:
        probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except BlockingIOError:
        pass
    finally:
        probe.close()
    raise FileExistsError(f"another relaymta answers at {path}")
