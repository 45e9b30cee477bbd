"""Listening sockets: addresses, binding, stale UNIX sockets."""

from __future__ import annotations

import grp
import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet import reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from relaymta.config import SocketAddress
from relaymta.net.listen import ListenError, bind, bind_endpoint, close, serve


def test_ipv4_and_ipv6_wildcards_stand_beside_each_other() -> None:
    """"0.0.0.0" and "[::]" on one port are two sockets, not a conflict."""
    with bind(SocketAddress("0.0.0.0", 0)) as four, bind(SocketAddress("::", four.getsockname()[1])) as six:
        assert six.family == socket.AF_INET6


def test_a_taken_port_names_address_and_cause() -> None:
    """The operator reads which address is taken, not a traceback."""
    with bind(SocketAddress("127.0.0.1", 0)) as first, pytest.raises(ListenError, match=r"127\.0\.0\.1:\d+.*in use"):
        bind(SocketAddress("127.0.0.1", first.getsockname()[1]))


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed process left behind does not stop the next start."""
    path = str(tmp_path / "s")
    bind(SocketAddress(path=path)).close()
    with bind(SocketAddress(path=path)):
        assert os.path.exists(path)


def test_a_living_unix_socket_is_not_stolen(tmp_path: Path) -> None:
    """A second daemon on one socket path is refused."""
    path = str(tmp_path / "s")
    with bind(SocketAddress(path=path)), pytest.raises(ListenError, match="in use"):
        bind(SocketAddress(path=path))


def test_a_unix_socket_may_be_opened_by_a_group(tmp_path: Path) -> None:
    """Its members may connect, others not; without a group the umask decides."""
    group = grp.getgrgid(os.getgid()).gr_name
    umask = os.umask(0o022)
    try:
        paths = [str(tmp_path / name) for name in ("theirs", "ours")]
        with bind(SocketAddress(path=paths[0]), group), bind(SocketAddress(path=paths[1])):
            theirs, ours = map(os.stat, paths)
            assert (theirs.st_mode & 0o777, theirs.st_gid) == (0o660, os.getgid())
            assert ours.st_mode & 0o777 == 0o755
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(umask)


def test_who_serves_a_unix_socket_leaves_its_file_alone(tmp_path: Path) -> None:
    """Its mode stays what `group` says, and it is there for the next generation when this one ends."""
    group, path = grp.getgrgid(os.getgid()).gr_name, str(tmp_path / "s")
    sock = bind(SocketAddress(path=path), group)
    ports: list[Any] = [serve(cast("Any", reactor), sock, ServerFactory()) for _ in range(2)]
    assert os.stat(path).st_mode & 0o777 == 0o660
    ports[0].connectionLost(Failure(ConnectionDone()))
    assert os.path.exists(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    ports[1].connectionLost(Failure(ConnectionDone()))
    assert os.path.exists(path)
    close(sock)
    assert not os.path.exists(path)


def test_a_file_is_never_removed_for_a_socket(tmp_path: Path) -> None:
    """A path that holds something else than a socket is left alone."""
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(ListenError):
        bind(SocketAddress(path=str(path)))
    assert path.read_text() == "mine"


def test_an_endpoint_of_twisted_gives_a_socket() -> None:
    """`endpoint = "tcp:..."` is bound like an address, and can be handed to workers."""
    with bind_endpoint(reactor, "tcp:0:interface=127.0.0.1") as sock, socket.create_connection(sock.getsockname()):
        assert sock.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("text", ["nonsense", "unix:/tmp/x", "tcp:port=x", "ssl:0:privateKey=none"])
def test_an_endpoint_that_cannot_be_is_a_clear_error(text: str) -> None:
    """What cannot be listened on names the endpoint."""
    with pytest.raises(ListenError, match=f'endpoint "{text}'):
        bind_endpoint(reactor, text)


def test_replies_do_not_wait_for_acknowledgements() -> None:
    """TCP_NODELAY is set on what is accepted, which has it from the listening socket."""
    with bind(SocketAddress("127.0.0.1", 0)) as sock:
        port: Any = serve(cast("Any", reactor), sock, ServerFactory())
        with socket.create_connection(sock.getsockname()):
            accepted, _ = sock.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        port.connectionLost(Failure(ConnectionDone()))
