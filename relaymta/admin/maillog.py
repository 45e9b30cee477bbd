"""The mail log: one line for each event, as key=value text or as JSON.

    2026-11-23T20:00:00.123Z 1aBcD2 message-accepted session=s4f client=192.0.2.7 ... reply="250 2.0.0 Ok"

The line is an interface: time (UTC), queue id or session id ("-" where an event has neither), the event's
name, then its fields in their order. What came from a peer can never start a new line or another field:
a value is quoted as soon as it holds anything but plain printable characters. Rotation: the file is opened
anew when its name no longer means the open file, and by `reopen`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from attrs import frozen

from relaymta.admin.logline import Renderer, json_renderer, text_renderer
from relaymta.events import Ears, Event, TlsChecked

FLUSH_SECONDS = 0.05  # ours: nobody sees the delay, and a write costs as much as ten lines
FLUSH_OCTETS = 64 * 1024  # ours: written at once when so much waits
KEEP_OCTETS = 4 * 1024 * 1024  # ours: what is kept when the disk refuses, before the oldest is given up
LOOK_SECONDS = 1.0  # how often the file's name is compared with the open file
MODE = 0o640  # a group may read the log, others may not: it holds addresses


class Format(Enum):
    """How a line is written."""

    TEXT = "text"
    JSON = "json"


class _Cancellable(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], _Cancellable]


@frozen(slots=True)
class LogLost(Event):
    """The disk refused so long that this many lines were given up."""

    lines: int


class MailLog:
    """An ear that writes. Lines wait at most FLUSH_SECONDS; `path` "-" is standard output.

    `clock` gives POSIX time; `call_later` is the reactor's callLater.
    """

    def __init__(
        self,
        path: str,
        clock: Callable[[], float],
        call_later: CallLater,
        format: Format = Format.TEXT,
    ) -> None:
        self._path = path
        self._clock = clock
        self._call_later = call_later
        self._renderer = text_renderer if format is Format.TEXT else json_renderer
        self._stamp = _Stamp("", "Z ") if format is Format.TEXT else _Stamp('{"time":"', 'Z",')
        self._renderers: dict[type[Event], Renderer] = {}
        self._lines: list[str] = []
        self._size = 0
        self._rest = b""  # what the disk has refused
        self._torn = False  # whether the file ends in the midst of a line
        self._lost = 0
        self._timer: _Cancellable | None = None
        self._looked = 0.0
        self._fd = -1
        self._open()

    def __call__(self, event: Event) -> None:
        """Write one event, soon."""
        kind = event.__class__
        renderer = self._renderers.get(kind)
        if renderer is None:
            renderer = self._renderers[kind] = _reticent(kind, self._renderer(kind))
        said = renderer(event)
        if not said:
            return
        line = self._stamp(self._clock()) + said
        self._lines.append(line)
        self._size += len(line)
        if self._timer is None:
            self._timer = self._call_later(FLUSH_SECONDS, self._due)
        elif self._size >= FLUSH_OCTETS:
            self.flush()

    def flush(self) -> None:
        """Write what waits. A disk that refuses never hurts mail: lines are kept, then counted as lost."""
        now = self._clock()
        if self._path != "-" and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._follow()
        self._write_all()

    def _write_all(self) -> None:
        octets = self._rest + "".join(self._lines).encode("utf-8", "backslashreplace")
        self._lines.clear()
        self._size = 0
        if not octets:
            return
        mark = b""
        if self._lost:
            line = self._stamp(self._clock()) + self._renderer(LogLost)(LogLost(self._lost))
            mark = (b"\n" if self._torn else b"") + line.encode()
        left = self._write(mark + octets)
        if len(left) == len(mark) + len(octets):
            left = octets  # not a word was written: the count goes on
        else:
            self._lost = 0
        self._rest = self._kept(left)

    def reopen(self) -> None:
        """Open the file anew, after a rotation (SIGUSR1); what waits still goes to the old one."""
        self._write_all()
        self._close()
        self._open()

    def close(self) -> None:
        """Write what waits and close."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()
        self._close()

    def _due(self) -> None:
        self._timer = None
        self.flush()
        if self._rest:
            self._timer = self._call_later(LOOK_SECONDS, self._due)

    def _write(self, octets: bytes) -> bytes:
        """Write; what could not be written comes back."""
        view = memoryview(octets)
        try:
            while view:
                count = os.write(self._fd, view)
                self._torn = view[count - 1] != 10
                view = view[count:]
        except OSError:
            pass
        return bytes(view)

    def _kept(self, octets: bytes) -> bytes:
        """Less the oldest lines, where it is too much to keep."""
        if len(octets) <= KEEP_OCTETS:
            return octets
        cut = octets.index(b"\n", len(octets) - KEEP_OCTETS) + 1
        self._lost += octets.count(b"\n", 0, cut)
        return octets[cut:]

    def _open(self) -> None:
        if self._path == "-":
            self._fd = 1
            return
        directory = os.path.dirname(self._path)
        if directory:
            os.makedirs(directory, exist_ok=True)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)

    def _close(self) -> None:
        if self._path != "-" and self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _follow(self) -> None:
        """After logrotate's rename the name means nothing or another file: go with the name."""
        opened = os.fstat(self._fd)
        try:
            named = os.stat(self._path)
            same = (named.st_ino, named.st_dev) == (opened.st_ino, opened.st_dev)
        except OSError:
            same = False
        if not same:
            former = self._fd
            try:
                self._open()
            except OSError:
                return  # the old file is better than none
            os.close(former)


def _reticent(kind: type[Event], renderer: Renderer) -> Renderer:
    """Of sessions with a host of a policy domain those alone are written that broke a policy: the others are many."""
    if kind is not TlsChecked:
        return renderer

    def render(event: Event) -> str:
        assert isinstance(event, TlsChecked)
        return renderer(event) if event.result and event.policy != "no-policy-found" else ""

    return render


class _Stamp:
    """POSIX time as the start of a line; the text of a second is made once."""

    def __init__(self, before: str, after: str) -> None:
        self._before = before
        self._after = after
        self._second = -1
        self._text = ""

    def __call__(self, now: float) -> str:
        second = int(now)
        if second != self._second:
            self._second = second
            self._text = self._before + time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{int((now - second) * 1000):03d}{self._after}"


def open_log(reactor: Any, file: str, style: Format) -> tuple[MailLog, Ears]:
    """The log as configured, and the ears of which it is the first."""
    log = MailLog(file, reactor.seconds, reactor.callLater, style)
    ears = Ears()
    ears.add(log)
    return log, ears
