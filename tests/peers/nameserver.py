"""A broken name server: it says SERVFAIL, or nothing at all."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType

SERVFAIL = 2


class BrokenNameserver:
    """Answers names that begin with "silent" not at all, all others with SERVFAIL. `asked` counts questions."""

    def __init__(self) -> None:
        self.asked = 0
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._sock.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> BrokenNameserver:
        self._thread.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self._sock.getsockname())
        self._thread.join(10)
        self._sock.close()

    def _serve(self) -> None:
        while True:
            octets, client = self._sock.recvfrom(4096)
            if not octets:
                return
            self.asked += 1
            if octets[13:].lower().startswith(b"silent"):
                continue
            end = octets.index(b"\0", 12) + 5  # behind the question
            flags = 0x8180 | SERVFAIL
            self._sock.sendto(octets[:2] + struct.pack("!5H", flags, 1, 0, 0, 0) + octets[12:end], client)
