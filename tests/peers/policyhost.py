"""The web server of MTA-STS policies (RFC 8461 §3.2), on port 443 of an address of loopback, in a thread."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.net.certificates import Made, make

WEB = "127.0.0.241"


def why_not(host: str = WEB, port: int = 443) -> str:
    """Why that port cannot be had, or ""."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            return f"port {port} of {host} cannot be bound ({error.strerror}): run as root"
    return ""


def context_of(folder: Path, made: Made) -> ssl.SSLContext:
    """The server's side of TLS with this certificate."""
    certificate, key = made.write(folder, f"server-{made.fingerprint[:16]}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


class _Page(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        self.server.house.paths.append(self.path)
        host = str(self.headers["Host"]).partition(":")[0]
        page = self.server.house.policies.get(host.removeprefix("mta-sts."))
        self.send_response(404 if page is None else 200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(page or b"")))
        self.end_headers()
        self.wfile.write(page or b"")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class PolicyHost:
    """The policies by domain. `ca` signs its certificate; `paths` are those that were asked for.

    Files of tests run beside each other: each has an `address` of its own.
    """

    def __init__(self, folder: Path, ca: Made, policies: Mapping[str, bytes], address: str = WEB) -> None:
        self.policies = policies
        self.paths: list[str] = []
        made = make(*(f"mta-sts.{domain}" for domain in policies), by=ca)
        self._server: Any = HTTPServer((address, 443), _Page)
        self._server.house = self
        self._server.socket = context_of(folder, made).wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> PolicyHost:
        self._thread.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
