"""Asking the daemon: one command over the control socket, and the rows of its answer as they come.

The protocol is relaymta.admin.control's; nothing of it is imported, so that a command starts at once.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

from relaymta.cli.output import CommandFailedError

VERSION = 1
_ROW = b'{"row":'


class DaemonError(CommandFailedError):
    """The daemon could not be asked, or said no; the text is for the operator."""


class NotRunningError(DaemonError):
    """Nobody answers at the control socket."""


class Conversation:
    """One connection to the daemon at the socket `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = _connect(path)
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def ask(self, command: str, arguments: dict[str, Any]) -> Iterator[bytes]:
        """The rows of the answer, each as JSON, as they come. Raises DaemonError."""
        request = {"relaymta": VERSION, "command": command, "arguments": arguments}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            for line in self._stream:
                if line.startswith(_ROW):
                    yield line[len(_ROW) : -2]
                    continue
                last = json.loads(line)
                if "error" in last:
                    raise DaemonError(str(last["error"]))
                return
        except OSError as error:
            raise DaemonError(f"the connection to {self._path} broke: {error.strerror}") from None
        raise DaemonError("relaymta ended before its answer did")

    def wait_for_end(self, seconds: float) -> bool:
        """Wait until the daemon has gone, at most so long; False when it has not."""
        self._socket.settimeout(seconds)
        try:
            return self._stream.read(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


def ask(path: str, command: str, arguments: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """One command, its rows as they come. Raises DaemonError."""
    with Conversation(path) as conversation:
        for row in conversation.ask(command, arguments or {}):
            yield json.loads(row)


def _connect(path: str) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.connect(path)
    except PermissionError:
        connected.close()
        raise DaemonError(f"you may not use {path}: become root, relaymta's user or of its admin.group") from None
    except OSError:
        connected.close()
        raise NotRunningError(f"relaymta is not running (no answer at {path})") from None
    return connected
