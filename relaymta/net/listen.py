"""Listening sockets: bound early, while we may, and served later, when the queue is open.

A bound socket already queues the connections of clients, so that nobody is refused while a start or a reload goes on.
How an address is written is left to config.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from contextlib import suppress
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    serverFromString,
)
from twisted.internet.interfaces import IListeningPort, IReactorSocket
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from relaymta.config import SocketAddress
from relaymta.net.eager import EagerServer

BACKLOG = 1024  # connections the kernel queues; ours, a burst of a second


class ListenError(OSError):
    """An address that cannot be listened on; the text names it and the cause."""

    def __str__(self) -> str:
        return str(self.strerror)


def family(address: SocketAddress) -> socket.AddressFamily:
    """The address family of a socket for `address`; a host name is listened on over IPv4."""
    if address.is_unix:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET


def bind(address: SocketAddress, group: str = "") -> socket.socket:
    """A listening, non-blocking socket; `group`, which exists, may open it if it is a UNIX one. Raises ListenError."""
    sock = socket.socket(family(address), socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if address.path:
            _clear_stale(address.path)
            _bind_path(sock, address.path, group)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # "0.0.0.0" may stand beside "[::]"
            sock.bind((address.host, address.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        cause = error.strerror or str(error)
        raise ListenError(error.errno, f"cannot listen on {address}: {cause}") from error
    return sock


def _bind_path(sock: socket.socket, path: str, group: str) -> None:
    if not group:
        sock.bind(path)
        return
    umask = os.umask(0o177)  # nobody else may connect before the group is set
    try:
        sock.bind(path)
    finally:
        os.umask(umask)
    os.chown(path, -1, grp.getgrnam(group).gr_gid)
    os.chmod(path, 0o660)


def _clear_stale(path: str) -> None:
    """Remove the socket that a dead process left; a living one makes the bind fail."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except BlockingIOError:
                return


def close(sock: socket.socket) -> None:
    """End a socket that `bind` made, and its file, where we may: after giving up root, as a rule we may not."""
    path = sock.getsockname() if sock.family == socket.AF_UNIX else ""
    sock.close()
    if path:
        with suppress(OSError):
            os.unlink(path)


def bind_endpoint(reactor: Any, text: str) -> socket.socket:
    """A listening socket for a Twisted endpoint, such as "systemd:domain=INET:index=0". Raises ListenError.

    TCP alone, and what systemd or a file descriptor hands over: TLS is the listener's business, and a UNIX socket has
    an address of its own in the configuration.
    """
    try:
        endpoint = serverFromString(reactor, text)
    except Exception as error:
        raise ListenError(errno.EINVAL, f'endpoint "{text}": {error}') from error
    if not isinstance(endpoint, (TCP4ServerEndpoint, TCP6ServerEndpoint, AdoptedStreamServerEndpoint)):
        raise ListenError(errno.EINVAL, f'endpoint "{text}": only tcp, tcp6, systemd and fd can be listened on')
    ports: list[Any] = []
    failures: list[Failure] = []
    listening: Deferred[Any] = endpoint.listen(ServerFactory())  # type: ignore[no-untyped-call]
    listening.addCallbacks(ports.append, failures.append)
    if not ports:
        why = failures[0].getErrorMessage() if failures else "it does not listen at once"
        raise ListenError(errno.EADDRNOTAVAIL, f'endpoint "{text}": {why}')
    sock: socket.socket = ports[0].socket.dup()
    ports[0].stopListening()
    sock.setblocking(False)
    return sock


class _UnixPort(unix.Port):
    """Serves a UNIX socket whose file is somebody else's: who bound it gave it its mode, and others serve it after us.

    Twisted's own port opens the file to everybody when it begins, and unlinks it and shuts down the socket for all who
    share it when it ends.
    """

    _shouldShutdown = False

    def startListening(self) -> None:
        """Accept what comes."""
        this: Any = self
        tcp._reservedFD.reserve()
        this.factory.doStart()
        this.socket, this._preexistingSocket = this._preexistingSocket, None
        this.fileno = this.socket.fileno
        this.connected = True
        this.startReading()

    def connectionLost(self, reason: Failure) -> None:
        """The end of our descriptor."""
        tcp.Port.connectionLost(self, reason)


def serve(reactor: IReactorSocket, sock: socket.socket, factory: ServerFactory) -> IListeningPort:
    """Accept on a bound socket; the caller keeps its own descriptor and closes it."""
    port: Any
    if sock.family == socket.AF_UNIX:
        port = _UnixPort._fromListeningDescriptor(reactor, sock.fileno(), factory)  # type: ignore[no-untyped-call]
        port.startListening()
    else:
        # A late reply must not wait for the ACK of an early one. What is accepted has it from the listening socket.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = reactor.adoptStreamPort(sock.fileno(), sock.family, factory)
        port.transport = EagerServer
    accept = port.doRead

    def accept_one() -> None:
        # A stock port takes all that wait. Of workers that share a socket, the first to wake would get every client.
        port.numberAccepts = 1
        accept()

    port.doRead = accept_one
    listening: IListeningPort = port
    return listening
