"""A private Postfix: its own configuration, queue and data under a directory of ours, started and stopped by `-c`.

Tuned as its own documentation tunes it for a busy relay (TUNING_README): more processes, more concurrency to one
destination, connection caching, no limits on clients, no reverse look-ups, no input flow control delay. Its
durability is left as it is: cleanup(8) syncs the queue file before it answers.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from attrs import define, field

from bench.certificate import Files
from bench.processes import cpu_seconds, free_port, greets, memory, wait_for

# postlog writes the mail log to a file, as syslog does for an ordinary Postfix and as relaymta does.
MASTER = """\
{port}    inet  n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
local     unix  - n n - - local
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
tlsmgr    unix  - - n 1000? 1 tlsmgr
postlog   unix-dgram n - n - 1 postlogd
"""

SETTINGS = {
    "compatibility_level": "3.6",
    "command_directory": "/usr/sbin",
    "mail_owner": "postfix",
    "setgid_group": "postdrop",
    "myhostname": "postfix.bench.test",
    "mydestination": "",
    "mynetworks": "127.0.0.0/8",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "alias_maps": "",
    "alias_database": "",
    "local_recipient_maps": "",
    "smtpd_relay_restrictions": "permit_mynetworks, reject",
    "smtpd_peername_lookup": "no",
    "smtpd_tls_security_level": "none",
    "smtp_tls_security_level": "none",
    "message_size_limit": "104857600",
    # room to work
    "default_process_limit": "200",
    "default_destination_concurrency_limit": "100",
    "initial_destination_concurrency": "20",
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_connection_rate_limit": "0",
    "smtpd_client_message_rate_limit": "0",
    "qmgr_message_active_limit": "50000",
    "qmgr_message_recipient_limit": "50000",
    "in_flow_delay": "0",
    "smtp_connection_cache_on_demand": "yes",
    "smtp_connection_reuse_time_limit": "300s",
}


def why_not() -> str:
    """ "" where a private Postfix can be run, else the reason."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    if not shutil.which("postfix", path=path):
        return "postfix is not installed"
    if os.geteuid() != 0:
        return "Postfix's master needs root"
    return ""


@define
class Postfix:
    """One instance, with everything below `directory`. `sink` is where it relays to; None: by MX."""

    directory: Path
    sink: int | None
    port: int = field(factory=free_port)
    settings: dict[str, str] = field(factory=dict)
    resolver: str = ""  # address of a name server on port 53; "" needs no DNS
    logging: bool = True
    tls: Files | None = None  # STARTTLS is offered with this certificate
    name: str = "postfix"
    pid: int = 0

    @property
    def version(self) -> str:
        """The mail_version it says it is."""
        return self._postconf("-dh", "mail_version")

    def _postconf(self, *words: str) -> str:
        return subprocess.run(
            ["/usr/sbin/postconf", *words], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    def _postfix(self, command: str) -> None:
        words = ["/usr/sbin/postfix", "-c", str(self.directory / "etc"), command]
        if self.resolver and command == "start":
            # libresolv reads /etc/resolv.conf alone: this family of processes sees another file there.
            resolv = self.directory / "resolv.conf"
            resolv.write_text(f"nameserver {self.resolver}\noptions timeout:2 attempts:2\n")
            inner = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
            words = ["unshare", "--mount", "sh", "-c", inner, str(resolv), *words]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"postfix {command}: {done.stdout}{done.stderr}{self.log()}")

    def log(self) -> str:
        """The end of its log."""
        file = self.directory / "maillog"
        return file.read_text(errors="replace")[-4000:] if file.exists() else ""

    def start(self) -> None:
        """Write the configuration, start, and wait for its greeting. RuntimeError, TimeoutError."""
        etc, queue, data = (self.directory / name for name in ("etc", "queue", "data"))
        for folder in (etc, queue, data):
            folder.mkdir(parents=True, exist_ok=True)
        os.chown(data, pwd.getpwnam("postfix").pw_uid, -1)
        settings = SETTINGS | {
            "queue_directory": str(queue),
            "data_directory": str(data),
            "daemon_directory": self._postconf("-dh", "daemon_directory"),
            "shlib_directory": self._postconf("-dh", "shlib_directory"),
        }
        if self.sink is not None:
            settings |= {
                "relayhost": f"[127.0.0.1]:{self.sink}",
                "smtp_connection_cache_destinations": f"[127.0.0.1]:{self.sink}",
                "smtp_dns_support_level": "disabled",
            }
        if self.logging:
            settings |= {
                "maillog_file": str(self.directory / "maillog"),
                "maillog_file_prefixes": str(self.directory),
            }
        if self.tls is not None:
            settings |= {"smtpd_tls_security_level": "may", "smtpd_tls_chain_files": str(self.tls.both)}
        settings |= self.settings
        (etc / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        (etc / "master.cf").write_text(MASTER.format(port=f"127.0.0.1:{self.port}"))
        self._postfix("start")
        wait_for("Postfix's greeting", lambda: greets(self.port), 20)
        self.pid = int((queue / "pid" / "master.pid").read_text())

    def stop(self) -> None:
        """End it and wait until it is gone."""
        if self.pid:
            self._postfix("stop")
            pid, self.pid = self.pid, 0
            wait_for("Postfix's end", lambda: not Path(f"/proc/{pid}").exists(), 20)

    def cpu(self) -> float:
        """CPU seconds of all its processes so far."""
        return cpu_seconds(self.pid)

    def memory(self) -> int:
        """Octets of all its processes."""
        return memory(self.pid)
