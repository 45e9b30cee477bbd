"""Real servers of accounts on loopback, each for as long as a `with` block lasts: PostgreSQL, OpenLDAP, Dovecot.

Each NAME_MISSING is "" or why there is none. Nothing of the machine's own configuration is touched.
"""

from __future__ import annotations

import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from tests.directory.certificates import Files, certificates

READY = 20.0  # seconds that a server may take to start
NOBODY = "nobody"  # PostgreSQL will not run as root

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *glob.glob("/usr/lib/postgresql/*/bin")])
_POSTGRES, _INITDB = shutil.which("postgres", path=_PATH), shutil.which("initdb", path=_PATH)
_SLAPD, _DOVECOT = shutil.which("slapd", path=_PATH), shutil.which("dovecot", path=_PATH)
POSTGRES_MISSING = "" if _POSTGRES and _INITDB else "postgres is not installed (Debian: apt-get install postgresql)"
SLAPD_MISSING = "" if _SLAPD else "slapd is not installed (Debian: apt-get install slapd)"
DOVECOT_MISSING = "" if _DOVECOT else "dovecot is not installed (Debian: apt-get install dovecot-core)"
if _DOVECOT and os.geteuid() != 0:
    DOVECOT_MISSING = "dovecot's master process wants to be root"


class ServerError(Exception):
    """It did not start; the text is what it said."""


@contextmanager
def postgres(password: str) -> Iterator[str]:
    """A cluster whose user "relaymta" has that password; yields the directory of its UNIX socket."""
    assert _POSTGRES and _INITDB, POSTGRES_MISSING
    as_user = NOBODY if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="relaymta-pg-") as folder:
        secret = Path(folder, "password")
        secret.write_text(password + "\n")
        if as_user:
            for path in (folder, secret):
                shutil.chown(path, as_user)
        made = subprocess.run(
            [_INITDB, "-D", f"{folder}/data", "-U", "relaymta", "-A", "scram-sha-256", f"--pwfile={secret}",
             "--no-sync", "-E", "UTF8", "--locale=C"],
            user=as_user, cwd=folder, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if made.returncode:
            raise ServerError(made.stdout + made.stderr)
        words = [_POSTGRES, "-D", f"{folder}/data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        state = Path(folder, "data", "postmaster.pid")

        def ready() -> bool:  # its socket answers before it does
            return state.exists() and "ready" in state.read_text().split()

        with _running(words, Path(folder), ready, signal.SIGINT, as_user):
            yield folder


@frozen
class Ldap:
    """A running slapd: its ports, and the files of its certificate."""

    port: int
    tls_port: int
    files: Files


@contextmanager
def slapd(ldif: str, *, root_password: str) -> Iterator[Ldap]:
    """A slapd with `ldif` below dc=example,dc=org, whose cn=admin has that password."""
    assert _SLAPD, SLAPD_MISSING
    with tempfile.TemporaryDirectory(prefix="relaymta-ldap-") as folder:
        here = Path(folder)
        files = certificates(here)
        (here / "data").mkdir()
        (here / "conf").write_text(
            "".join(f"include /etc/ldap/schema/{one}.schema\n" for one in ("core", "cosine", "inetorgperson"))
            + "modulepath /usr/lib/ldap\nmoduleload back_mdb\n"
            + f"pidfile {here}/pid\nTLSCertificateFile {files.certificate}\nTLSCertificateKeyFile {files.key}\n"
            + f"TLSCACertificateFile {files.ca}\nallow bind_anon_dn\n"
            + f"database mdb\nsuffix dc=example,dc=org\ndirectory {here}/data\n"
            + f"rootdn cn=admin,dc=example,dc=org\nrootpw {root_password}\n"
            + "access to attrs=userPassword by anonymous auth by * none\naccess to * by * read\n"
        )
        (here / "ldif").write_text(ldif)
        filled = subprocess.run(
            [_SLAPD, "-T", "add", "-f", here / "conf", "-l", here / "ldif"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        if filled.returncode:
            raise ServerError(filled.stdout + filled.stderr)
        port, tls_port = _free_ports(2)
        words = [_SLAPD, "-d", "0", "-f", str(here / "conf"), "-h"]
        words.append(f"ldap://127.0.0.1:{port} ldaps://127.0.0.1:{tls_port}")
        with _running(words, here, lambda: _answers(tls_port)):
            yield Ldap(port, tls_port, files)


@contextmanager
def dovecot(users: str) -> Iterator[str]:
    """Dovecot's auth service alone, with `users` in the form of its passwd-file; yields the path of its socket."""
    assert _DOVECOT, DOVECOT_MISSING
    with tempfile.TemporaryDirectory(prefix="relaymta-dc-") as folder:
        here = Path(folder)
        here.chmod(0o755)  # the service's own user looks for its sockets
        (here / "passwd").write_text(users)
        (here / "passwd").chmod(0o644)
        (here / "conf").write_text(
            f"protocols =\nbase_dir = {here}/run\nstate_dir = {here}/state\nlog_path = {here}/log\nssl = no\n"
            "auth_failure_delay = 0 secs\n"
            f"passdb {{\n driver = passwd-file\n args = scheme=PLAIN {here}/passwd\n}}\n"
            "userdb {\n driver = static\n args = uid=65534 gid=65534 home=/nonexistent\n}\n"
            f"service auth {{\n unix_listener {here}/client {{\n  mode = 0600\n }}\n}}\n"
        )
        with _running([_DOVECOT, "-F", "-c", str(here / "conf")], here, lambda: _answers(f"{here}/client")):
            yield f"{here}/client"


@contextmanager
def _running(
    words: Sequence[str],
    folder: Path,
    ready: Callable[[], bool],
    stop: signal.Signals = signal.SIGTERM,
    user: str | None = None,
) -> Iterator[None]:
    with open(folder / "output", "wb") as log:
        process = subprocess.Popen(
            words, cwd=folder, user=user, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        end = time.monotonic() + READY
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                raise ServerError((folder / "output").read_text(errors="replace"))
            time.sleep(0.02)
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(place: str | int) -> bool:
    """Whether something listens at a UNIX socket, or at a port of 127.0.0.1."""
    with socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET) as sock:
        try:
            sock.connect(place if isinstance(place, str) else ("127.0.0.1", place))
        except OSError:
            return False
        return True


def _free_ports(count: int) -> list[int]:
    """Ports that are free at the moment."""
    socks = [socket.socket() for _ in range(count)]
    for sock in socks:
        sock.bind(("127.0.0.1", 0))
    ports = [int(sock.getsockname()[1]) for sock in socks]
    for sock in socks:
        sock.close()
    return ports
