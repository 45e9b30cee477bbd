"""The one configuration file: safe by default, and every contradiction told."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from attrs import field, fields, frozen, has, resolve_types

from relaymta.config import ConfigError, SocketAddress
from relaymta.config.loader import loads
from relaymta.policy.relaying import Relaying
from relaymta.policy.settings import LOOPBACK
from relaymta.settings import (
    Settings,
    default_hostname,
    doubts,
    load_settings,
    refusals,
)
from relaymta.smtp.settings import AuthMode, ListenerSettings, Profile, TlsMode

ROOT = Path(__file__).resolve().parent.parent
HOST = 'hostname = "relay.example.org"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a configuration is written."""
    return tmp_path / "relaymta.toml"


def settings(file: Path, text: str) -> Settings:
    """The settings of a text."""
    file.write_text(HOST + text)
    return load_settings(str(file)).settings


def said(file: Path, text: str) -> list[str]:
    """What is wrong with a text, without the file's name; lines count from behind the hostname."""
    file.write_text(HOST + text)
    with pytest.raises(ConfigError) as caught:
        load_settings(str(file))
    return [f"{problem.line - 1}: {problem.key}: {problem.text}" for problem in caught.value.problems]


def test_by_default_nobody_relays_but_loopback(file: Path) -> None:
    """No RFC 1918 network is trusted unless it is named, and no domain is ours."""
    made = settings(file, "")
    assert made.relay.networks == LOOPBACK and made.relay.domains == ()
    relaying = Relaying(made.relay)
    for private in ("10.0.0.1", "172.17.0.1", "192.168.1.1", "fd00::1", "169.254.1.1"):
        assert not relaying.trusts(private)
    assert relaying.trusts("127.0.0.1") and relaying.trusts("::1")


def test_by_default_there_is_one_listener_on_port_25(file: Path) -> None:
    """A file that says nothing is a mail exchanger on port 25."""
    [listener] = settings(file, "").listeners
    assert (listener.name, listener.address) == ("mx", SocketAddress("0.0.0.0", 25))


def test_the_documented_names_are_valid(file: Path) -> None:
    """Every name of the documents that this version can do is taken as written."""
    made = settings(
        file,
        """
spool = "/var/spool/relaymta"
workers = "auto"
user = "relaymta"
postmaster = "hostmaster@example.org"
[[listener]]
name = "mx"
address = "0.0.0.0:25"
profile = "mx"
tls = "none"
auth = "none"
max_message_size = "25MB"
max_recipients = 1000
[relay]
networks = ["127.0.0.0/8", "::1/128"]
domains = ["example.org", ".example.net"]
[dns]
servers = ["127.0.0.1:53"]
trust_ad = false
[[route]]
recipient = ["example.org"]
to = ["[10.0.0.5]:25", "backup.example.org:587"]
tls = "opportunistic"
source = "pool-a"
[[source]]
name = "pool-a"
addresses = ["192.0.2.1"]
[queue]
retry = ["5m", "15m", "30m", "1h", "2h", "4h"]
expire = "5d"
warn_after = "4h"
min_free = "100MB"
[delivery]
concurrency = 20
max_per_connection = 100
connect_timeout = "30s"
[log]
file = "-"
format = "json"
[admin]
socket = "/run/relaymta/control.sock"
""",
    )
    assert made.routes[0].source == "pool-a" and made.delivery.concurrency == 20


ACCOUNT_TABLE = '[[account]]\nname = "a"\nusername = "u"\npassword_file = "/x"\n'
ACCOUNT = '[[route]]\nrecipient = "*"\nto = "[relay.test]:587"\naccount = "a"\ntls = "verify"\n' + ACCOUNT_TABLE
OAUTH = '[[account]]\nname = "a"\nusername = "u"\n[account.oauth]\ntoken_url = "https://login.test/token"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("workers = -1", "1: workers: is at most 128, and 0 for all in one process"),
        ("workers = 129", "1: workers: is at most 128, and 0 for all in one process"),
        ('workers = "many"', '1: workers: "auto" or a whole number is wanted, not "many"'),
        ("workers = true", '1: workers: "auto" or a whole number is wanted'),
        ('postmaster = "nobody"', '1: postmaster: "nobody" is not an address: malformed address'),
        ('spool = ""', "1: spool: must not be empty"),
        (f'spool = "/{"x" * 120}"', f"1: spool: /{'x' * 120}/drop/.poke is longer than the 107 octets that the path "
         "of a UNIX socket may have"),
        (f'[admin]\nsocket = "/{"x" * 107}"', f"2: admin.socket: /{'x' * 107} is longer than the 107 octets that the "
         "path of a UNIX socket may have"),
        ("listener = []", "1: listener: without a listener no mail can come in"),
        ('[[listener]]\nname = "a"\naddress = "0.0.0.0:25"\n[[listener]]\nname = "a"\naddress = "0.0.0.0:26"',
         '5: listener[2].name: listener[1] is called "a" too'),
        ('[[listener]]\nname = "a"\naddress = "0.0.0.0:25"\n[[listener]]\nname = "b"\naddress = "0.0.0.0:25"',
         "6: listener[2].address: listener[1] is at 0.0.0.0:25 already"),
        ('[[listener]]\nname = "a"\naddress = "0.0.0.0:25"\n[[listener]]\nname = "b"\naddress = "127.0.0.1:25"',
         "6: listener[2].address: listener[1] is at 0.0.0.0:25 already"),
        ('[[listener]]\naddress = "mail.example.org:25"',
         '2: listener[1].address: "mail.example.org:25" names a host; an IP address of this machine is wanted'),
        ('[[listener]]\naddress = "0.0.0.0:25"\nprofile = "submission"\ntls = "starttls"\nauth = "optional"',
         '4: listener[1].tls: "starttls" needs a certificate; write [tls] with certificate = "/etc/relaymta/tls.pem" '
         'and key = "/etc/relaymta/tls.key"|'
         '5: listener[1].auth: "optional" needs accounts, and [users] names none; '
         'write [users] with file = "/etc/relaymta/users", and `relaymta user add`'),
        ('[[listener]]\naddress = "0.0.0.0:25"\nauth = "optional"',
         '3: listener[1].auth: without TLS nobody can log in; set tls, or write auth_in_clear = true'),
        ('[auth]\ndelay = "20s"', "1: auth.delay_max: is less than delay"),
        ('[[listener]]\naddress = "127.0.0.1:25"\ngroup = "mail"',
         "3: listener[1].group: only a UNIX socket has a group"),
        ('[[listener]]\naddress = "127.0.0.1:25"\nprofile = "lmtp"',
         "3: listener[1].profile: LMTP is never spoken on port 25 (RFC 2033 §5)"),
        ('[[listener]]\naddress = "[::]:25"\nproxy = ["0.0.0.0/0"]\nxclient = ["::/0"]\n'
         'xforward = ["10.0.0.0/8", "::/0"]',
         "3: listener[1].proxy[1]: 0.0.0.0/0 is everybody: anyone could say to be anyone|"
         "4: listener[1].xclient[1]: ::/0 is everybody: anyone could say to be anyone|"
         "5: listener[1].xforward[2]: ::/0 is everybody: anyone could say to be anyone"),
        ('[[route]]\nrecipient = "*"\nto = "mx"\ntls = "dane"',
         '4: route[1].tls: "dane" needs DNSSEC, and no answer counts as validated without dns.trust_ad = true; '
         'set it where the resolvers and the path to them are trusted'),
        ('[[tls_exception]]\ntls = "encrypt"\nreason = "x"\nuntil = 2027-01-31',
         "1: tls_exception[1]: wants one of domain (the recipient's, or a next hop) and host (one of its MX)"),
        ('[[tls_exception]]\ndomain = "a.test"\ntls = "encrypt"',
         '1: tls_exception[1].reason: is missing; write reason = "..."|'
         "1: tls_exception[1].until: is missing; write until = 2027-01-31"),
        ('[[tls_exception]]\nhost = "a.test"\ntls = "encrypt"\nreason = " "\nuntil = "soon"',
         '4: tls_exception[1].reason: says nothing; why is TLS another one here?|'
         '5: tls_exception[1].until: a date is wanted, like 2027-01-31, not "soon"'),
        ('[[tls_exception]]\nhost = "A.test"\ntls = "none"\nreason = "x"\nuntil = 2027-01-31T10:00:00Z',
         '2: tls_exception[1].host: "A.test" is written "a.test" in mail|'
         '5: tls_exception[1].until: a date is wanted, like 2027-01-31'),
        ('[relay]\nnetworks = ["0.0.0.0/0"]',
         "2: relay.networks[1]: 0.0.0.0/0 is everybody: that would be an open relay"),
        ('[relay]\nnetworks = ["::/0"]', "2: relay.networks[1]: ::/0 is everybody: that would be an open relay"),
        ('[relay]\nnetworks = ["0.0.0.0/1", "128.0.0.0/1"]',
         "2: relay.networks: together these are everybody: that would be an open relay"),
        ('[[listener]]\nname = "x"\naddress = "[::1]:25"\nxclient = ["0.0.0.0/1", "128.0.0.0/1"]',
         "4: listener[1].xclient: together these are everybody: anyone could say to be anyone"),
        ('[relay]\ndomains = ["a b"]',
         '2: relay.domains[1]: "a b": malformed domain; write "example.org", or ".example.org" for its subdomains'),
        ('[relay]\ndomains = [".bücher.example"]',
         '2: relay.domains[1]: ".bücher.example" is written ".xn--bcher-kva.example" in mail'),
        ('[[route]]\nrecipient = "*"\nto = "mx"\nsource = "pool"',
         '4: route[1].source: there is no [[source]] called "pool"'),
        ('[[source]]\nname = "a"\naddresses = ["::1"]\n[[source]]\nname = "a"\naddresses = ["::1"]',
         '5: source[2].name: there is another [[source]] called "a"'),
        (ACCOUNT.replace('account = "a"', 'account = "b"'), '4: route[1].account: there is no [[account]] called "b"'),
        (ACCOUNT + ACCOUNT_TABLE, '11: account[2].name: there is another [[account]] called "a"'),
        (ACCOUNT.replace('tls = "verify"', 'tls = "encrypt"'),
         '5: route[1].tls: "encrypt" would show account "a" to whoever is in between; write tls = "verify", or '
         "insecure = true in its [[account]]"),
        (ACCOUNT.replace('tls = "verify"\n', ""),
         '1: route[1].tls: "opportunistic" would show account "a" to whoever is in between; write tls = "verify", or '
         "insecure = true in its [[account]]"),
        (ACCOUNT.replace("[relay.test]:587", "mx"),
         '4: route[1].account: to = "mx" would show it to whatever server a recipient\'s domain names; name the next '
         "hop"),
        ('[[account]]\nname = "a"\nusername = "u"',
         "1: account[1].password_file: is missing: a file with the password; or write [account.oauth]"),
        ('[[account]]\nname = "a"\nusername = ""\npassword_file = "/x"', "3: account[1].username: must not be empty"),
        ('[[account]]\nname = "a"\nusername = "u"\npassword_file = "/x"\nmechanisms = ["PLAIN", "XOAUTH2"]',
         "5: account[1].mechanisms[2]: XOAUTH2 wants a token, from [account.oauth]"),
        ('[[account]]\nname = "a"\nusername = "u"\npassword_file = "/x"\nmechanisms = ["CRAM-MD5"]',
         '5: account[1].mechanisms[1]: "CRAM-MD5" is not one of "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "PLAIN", '
         '"LOGIN"'),
        (OAUTH + 'grant = "client_credentials"\nclient_id = "x"',
         "4: account[1].oauth.client_secret_file: is missing: the client has nothing else to show"),
        (OAUTH, "4: account[1].oauth.client_id: is missing: who we are to the authorization server|"
         '4: account[1].oauth.refresh_token_file: is missing; or write grant = "client_credentials"'),
        (OAUTH.replace("https:", "http:"),
         '5: account[1].oauth.token_url: "http://login.test/token" must begin with https://; http:// is for this very '
         "machine"),
        (OAUTH.replace("https://login.test", "login"),
         '5: account[1].oauth.token_url: "login/token" is not a URL; write "https://login.example.org/token"'),
        ('[queue]\nretry = []', "2: queue.retry: at least one delay is needed"),
        ('[queue]\nexpire = "1m"\nwarn_after = "0s"',
         "1: queue.retry[1]: is not before expire: no message would ever be tried again"),
        ('[queue]\nexpire = "2h"', '1: queue.warn_after: is not before expire: no sender would ever be warned; '
         'write "0s" for never'),
        ('[queue]\nmin_free = "lots"', '2: queue.min_free: "lots" is not a size; write it as "25MB" or "128KiB"'),
        ('[dns]\nservers = ["here"]', '2: dns.servers: name server "here": expected an IP address and a port, '
         'like "127.0.0.1:53"'),
        ('[log]\nformat = "xml"', '2: log.format: "xml" is not one of "text", "json"'),
        ('[[listener]]\naddress = "0.0.0.0:25"\ntls_client_ca = "ca.pem"',
         '3: listener[1].tls_client_ca: without TLS no client shows a certificate; write tls = "starttls" or another'),
        ('[tls]\nkey = "x"', "2: tls.key: is a key without a certificate; write certificate too"),
        ('[tls]\nminimum = "1.1"', '2: tls.minimum: "1.1" is not one of "1.2", "1.3"; did you mean "1.3"?'),
        ('[[certificate]]\ncertificate = "x"\nnames = ["a b", "*.bücher.example"]',
         '3: certificate[1].names[1]: "a b": malformed domain; write "mail.example.org" or "*.example.org"|'
         '3: certificate[1].names[2]: "*.bücher.example" is written in A-labels ("xn--...") here'),
        ('[relay]\ncertificates = ["AB:CD"]',
         '2: relay.certificates[1]: "AB:CD" is not a SHA-256 fingerprint: 64 digits of hex, as `openssl x509 -noout '
         '-fingerprint -sha256 -in FILE` shows them'),
        ('[[lane]]\nmatch = ""', "2: lane[1].match: must not be empty"),
    ],
)  # fmt: skip
def test_each_contradiction_is_told_at_its_line(file: Path, text: str, problem: str) -> None:
    """What cannot be right together is an error with its line, before the daemon starts."""
    assert said(file, text) == problem.split("|")


def test_an_account_may_be_shown_without_proof_where_its_table_says_so(file: Path) -> None:
    """`insecure` is for a server in the same rack; the documented form needs no flag."""
    assert settings(file, ACCOUNT).routes[0].account == "a"
    clear = ACCOUNT.replace('tls = "verify"\n', "") + "insecure = true\n"
    assert settings(file, clear).accounts[0].insecure
    full = OAUTH + 'client_id = "x"\nrefresh_token_file = "/etc/relaymta/token"\nscope = "smtp"\n'
    assert settings(file, full).accounts[0].by_token


def test_a_secret_that_cannot_be_read_is_refused_and_a_public_one_doubted(file: Path, tmp_path: Path) -> None:
    """`check` says it, with the key, before the daemon finds out at its first log-in."""
    secret = tmp_path / "secret"
    text = ACCOUNT.replace("/x", str(secret)) + f'\n[admin]\nsocket = "{tmp_path}/control"\n'
    made = settings(file, f'user = ""\nephemeral_spool = true\nspool = "{tmp_path}"\n' + text)
    said = f"{secret} cannot be read: No such file or directory"
    assert list(refusals(made)) == [("account[0].password_file", said)]
    secret.write_text("pencil\n")
    secret.chmod(0o644)
    assert list(refusals(made)) == []
    assert ("account[0].password_file", f"{secret} can be read by everybody on this machine; chmod o-rwx it") in list(
        doubts(made)
    )
    secret.chmod(0o600)
    assert "account[0].password_file" not in dict(doubts(made))


def test_wildcards_of_both_families_may_stand_beside_each_other(file: Path) -> None:
    """0.0.0.0 and [::] on one port are two places."""
    text = '[[listener]]\nname = "a"\naddress = "0.0.0.0:25"\n[[listener]]\nname = "b"\naddress = "[::]:25"\n'
    assert len(settings(file, text).listeners) == 2


def test_a_hostname_is_written_as_it_goes_over_the_wire(tmp_path: Path) -> None:
    """Upper case, UTF-8 and nonsense are told with the right form."""
    for text, hint in [
        ("Relay.Example.ORG", "relay.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("a b", "malformed"),
    ]:
        with pytest.raises(ConfigError) as caught:
            loads(f'hostname = "{text}"\n', "f", Settings)
        assert hint in str(caught.value)


def test_the_default_hostname_can_stand_in_ehlo() -> None:
    """Whatever this machine calls itself, the default is a domain."""
    assert default_hostname() == default_hostname().lower() and " " not in default_hostname()


def test_lanes_get_their_limits_from_delivery_unless_they_have_their_own(file: Path) -> None:
    """[[lane]] overrides concurrency and rate for the destinations that fit."""
    made = settings(
        file,
        '[delivery]\nconcurrency = 7\nattempts = 50\nrate = 10\n[[lane]]\nmatch = "smtp:*.slow.example"\nrate = 1\n'
        'rate_per = "1s"\n[[lane]]\nmatch = "smtp:one.example"\nconcurrency = 1\n',
    ).lane_settings()
    assert made.attempts == 50
    assert (made.limits.concurrency, made.limits.messages, made.limits.per) == (7, 10, 60.0)
    slow = made.of("smtp:a.slow.example")
    assert (slow.concurrency, slow.messages, slow.per) == (7, 1, 1.0)
    assert made.of("smtp:one.example").concurrency == 1


def test_workers_auto_is_one_a_core(file: Path) -> None:
    """ "auto" follows the processors this process may use; a number is that number."""
    assert settings(file, "").worker_count == min(len(os.sched_getaffinity(0)), 32)
    assert settings(file, "workers = 0").worker_count == 0


def test_the_largest_listener_says_what_sendmail_may_bring(file: Path) -> None:
    """A limit of 0 is none, also here."""
    one = '[[listener]]\nname = "a"\naddress = "127.0.0.1:25"\nmax_message_size = "1MB"\n'
    two = '[[listener]]\nname = "b"\naddress = "127.0.0.1:26"\nmax_message_size = "0B"\n'
    assert settings(file, one).message_max == 1_000_000
    assert settings(file, one + two).message_max > 10**12


def test_a_user_or_group_that_is_not_there_is_told(file: Path) -> None:
    """A daemon that cannot become its user says so in `check`, not at three in the morning."""
    made = settings(
        file, f'spool = "{ROOT}"\nephemeral_spool = true\nuser = "nobody-such"\n[admin]\ngroup = "no-such"\n'
    )
    keys = [key for key, _ in refusals(made)]
    assert "admin.group" in keys and ("user" in keys) is (os.getuid() == 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_python_that_the_user_may_not_run_is_told(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root's own under /root: the daemon started, and each of its workers said "Permission denied" alone."""
    made = settings(file, f'spool = "{ROOT}"\nephemeral_spool = true\nuser = "nobody"\nworkers = 2\n')
    monkeypatch.setattr("sys.executable", "/bin/sh")
    assert "user" not in [key for key, _ in refusals(made)]
    (tmp_path / "python").symlink_to("/bin/sh")
    tmp_path.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert ("user", f"nobody may not run {os.path.realpath('/bin/sh')}") in [
        (key, said.partition(",")[0]) for key, said in refusals(made)
    ]


def test_a_spool_that_a_restart_empties_is_refused_unless_asked_for(file: Path) -> None:
    """A container made anew lost the queue (eight projects): tmpfs and overlay are no place for mail."""
    if not os.path.ismount("/dev/shm"):
        pytest.skip("no tmpfs at /dev/shm")
    refused = settings(file, 'spool = "/dev/shm/relaymta-test"\nuser = ""\n')
    assert [key for key, _ in refusals(refused)] == ["spool"]
    allowed = settings(file, 'spool = "/dev/shm/relaymta-test"\nuser = ""\nephemeral_spool = true\n')
    assert list(refusals(allowed)) == []


def test_what_will_be_regretted_is_a_doubt(file: Path) -> None:
    """A host name without a dot and a disk smaller than min_free are warnings."""
    file.write_text('hostname = "box"\n[queue]\nmin_free = "900TB"\n')
    assert [key for key, _ in doubts(load_settings(str(file)).settings)] == ["hostname", "queue.min_free"]


IDLE = {
    "account[0].name": '[[account]]\nname = "a"\nusername = "u"\npassword_file = "/nowhere"\n',
    "listener[0].auth_in_clear": '[[listener]]\naddress = "127.0.0.1:25"\nauth_in_clear = true\n',
    "listener[0].proxy": '[[listener]]\naddress = "unix:/s"\nproxy = ["127.0.0.1/32"]\n',
    "listener[0].xclient": '[[listener]]\naddress = "unix:/s"\nxclient = ["127.0.0.1/32"]\n',
    "tls_report.from": '[tls_report]\norganization = "Us"\n',
    "users.dovecot.socket": '[users.dovecot]\nsocket = "/nowhere"\n',
}


@pytest.mark.parametrize("key", IDLE)
def test_what_is_written_and_does_nothing_is_a_doubt(file: Path, key: str) -> None:
    """Nothing is silently of no use: `check` says what is missing for it."""
    assert key in dict(doubts(settings(file, IDLE[key])))
    assert key not in dict(doubts(settings(file, "")))


def test_an_account_that_a_route_names_is_no_doubt(file: Path) -> None:
    """The warning ends when somebody logs in with it."""
    route = '[[route]]\nrecipient = "*"\nto = "[x.example]:587"\naccount = "a"\ntls = "verify"\n'
    text = IDLE["account[0].name"] + route
    assert "account[0].name" not in dict(doubts(settings(file, text)))


def test_an_endpoint_that_cannot_be_listened_on_is_told(file: Path) -> None:
    """By `check`, and not at the next start."""
    text = '[[listener]]\nendpoint = "ssl:465"\n'
    assert said(file, text)[0].startswith('2: listener[1].endpoint: "ssl:465" is not of a type that can be listened on')
    assert settings(file, text.replace("ssl", "tcp")).listeners[0].endpoint == "tcp:465"


def test_certificates_that_nobody_asks_for_are_a_doubt(file: Path) -> None:
    """Fingerprints without a listener that asks, names without an authority, and a public MX that demands TLS."""
    text = f"""
[[listener]]
address = "0.0.0.0:25"
tls = "required"
[tls]
certificate = "/nowhere"
[relay]
domains = ["example.org"]
certificates = ["{"ab" * 32}"]
certificate_names = ["app.example.org"]
"""
    keys = [key for key, _ in doubts(settings(file, text))]
    assert keys[-3:] == ["relay.certificates", "relay.certificate_names", "listener[0].tls"]
    assert "tls.certificate" in [key for key, _ in refusals(settings(file, text))]


SHIPPED = (ROOT / "etc" / "relaymta" / "relaymta.toml").read_text()


def test_the_shipped_file_names_every_table_once() -> None:
    """In the order of the settings, which is that of the mail's way; what it only names is in the manual."""
    shown = re.findall(r"^#? *\[+([a-z_.]+)\]+$", SHIPPED, re.MULTILINE)
    repeated = {"listener", "route"}  # one for each kind
    assert [name for name in shown if shown.count(name) > 1 and name not in repeated] == []
    known = fields(resolve_types(Settings))
    tables = [str(one.metadata.get("key", one.name)) for one in known if has(_member(one.type))]
    assert [name for name in tables if name not in shown] == []
    order = [shown.index(name) for name in tables]
    assert order == sorted(order)
    for nested in ("users.sql", "users.ldap", "users.dovecot", "users.checkpassword", "users.oauth", "account.oauth"):
        assert f"[{nested}]" in SHIPPED


def _member(kind: Any) -> Any:
    return get_args(kind)[0] if get_args(kind) else kind


@pytest.mark.parametrize("name", ["relaymta.toml", "quickstart.toml"])
def test_the_shipped_files_are_right(name: str) -> None:
    """What we hand out passes our own check."""
    loaded = load_settings(str(ROOT / "etc" / "relaymta" / name))
    assert loaded.settings.hostname
    if name == "quickstart.toml":
        assert [listener.address for listener in loaded.settings.listeners] == [SocketAddress("127.0.0.1", 2525)]
        assert [str(route.to) for route in loaded.settings.routes] == ["[127.0.0.1]:2526"]


def test_what_lets_in_more_than_was_meant_is_told(file: Path) -> None:
    """Networks as wide as half the world, a top level as a domain of ours, and folders that are everybody's."""
    shared = file.parent / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    made = settings(
        file,
        f'spool = "{shared}/spool"\n[[listener]]\nname = "x"\naddress = "[::1]:25"\nproxy = ["64.0.0.0/3"]\n'
        f'[relay]\nnetworks = ["10.0.0.0/8", "2000::/3"]\ndomains = ["lan", ".lan.example", ".com"]\n'
        f'[admin]\nsocket = "{shared}/control.sock"\n',
    )
    told = dict(doubts(made))
    wanted = {"spool", "admin.socket", "listener[0].proxy[0]", "relay.networks[1]", "relay.domains[2]"}
    assert wanted <= set(told) and not {"relay.networks[0]", "relay.domains[0]", "relay.domains[1]"} & set(told)


def test_a_rate_is_for_the_host(tmp_path: Path) -> None:
    """Of a rate each worker takes its part, so that all together keep it; concurrency is counted on the board."""
    file = tmp_path / "c.toml"
    file.write_text('hostname = "relay.example.org"\n[delivery]\nconcurrency = 7\nrate = 60\nrate_per = "1m"\n')
    limits = load_settings(str(file)).settings.lane_settings(4).limits
    assert (limits.concurrency, limits.interval) == (7, 4.0)


def exception(file: Path, days: int, form: str = "{}") -> Settings:
    """One exception from TLS policy, which ends in so many days."""
    until = form.format(datetime.now(UTC).date() + timedelta(days=days))
    return settings(file, f'[[tls_exception]]\ndomain = "a.test"\ntls = "encrypt"\nreason = "why"\nuntil = {until}')


def test_an_exception_that_ends_soon_or_has_ended_is_told(file: Path) -> None:
    """`relaymta check` warns from 14 days before the last day, and says when an exception is in force no more."""
    for days, told in ((15, ""), (14, "ends in 14 days (why)"), (1, "ends in 1 day"), (0, "ends today"), (-1, "ended")):
        made = exception(file, days)
        texts = [text for key, text in doubts(made) if key == "tls_exception[0].until"]
        assert len(texts) == (1 if told else 0) and all(told in text for text in texts)
        [ready] = [one.ready() for one in made.tls_exceptions]
        assert ready.covers("a.test", "mx.test", datetime.now(UTC).timestamp()) is (days >= 0)


def test_a_date_may_stand_in_quotes(file: Path) -> None:
    """TOML has dates, and not everybody knows."""
    assert exception(file, 20) == exception(file, 20, '"{}"')


def test_trust_in_a_resolver_beyond_this_machine_is_doubted(file: Path) -> None:
    """AD says who validated, and nothing of the path (RFC 7672 §2.1): loopback alone is beyond doubt."""
    for server, count in (("127.0.0.1:53", 0), ("[::1]:53", 0), ("192.0.2.1:53", 1)):
        made = settings(file, f'[dns]\ntrust_ad = true\nservers = ["{server}"]')
        assert [key for key, _ in doubts(made)].count("dns.trust_ad") == count


def test_a_file_of_authorities_that_cannot_be_read_is_refused(file: Path) -> None:
    """A mistake in delivery.tls_ca is told by `check`, and not by mail that waits."""
    for path in (file.parent / "missing.pem", file):
        made = settings(file, f'[delivery]\ntls_ca = "{path}"')
        assert "delivery.tls_ca" in [key for key, _ in refusals(made)]
    assert "delivery.tls_ca" not in [key for key, _ in refusals(settings(file, ""))]
# Submission


def test_a_submission_listener_is_safe_by_default(file: Path) -> None:
    """Who says only that it is for submission gets STARTTLS and a log-in; other listeners get neither."""
    listener = ListenerSettings(profile=Profile.SUBMISSION)
    assert (listener.tls, listener.auth) == (TlsMode.STARTTLS, AuthMode.REQUIRED)
    for profile in (Profile.MX, Profile.LMTP):
        listener = ListenerSettings(profile=profile)
        assert (listener.tls, listener.auth) == (TlsMode.NONE, AuthMode.NONE)


def test_what_depends_on_the_profile_is_shown(file: Path) -> None:
    """`relaymta config` tells what is in force, and that nobody wrote it."""
    text = '[[listener]]\naddress = "127.0.0.1:587"\nprofile = "submission"\n'
    loaded = loads(text, "file", Probe)
    shown = {row.key: (row.value, row.origin) for row in loaded.rows()}
    assert shown["listener[1].tls"] == ('"starttls"', "default")
    assert shown["listener[1].auth"] == ('"required"', "default")
    assert shown["listener[1].future_release"] == ('"7d"', "default")
    loaded = loads(text + 'tls = "implicit"\nauth = "optional"\n', "file", Probe)
    shown = {row.key: (row.value, row.origin) for row in loaded.rows()}
    assert shown["listener[1].tls"] == ('"implicit"', "file:4")
    assert shown["listener[1].auth"] == ('"optional"', "file:5")


@frozen
class Probe:
    """A configuration of listeners alone, whatever else is available."""

    listeners: tuple[ListenerSettings, ...] = field(default=(), metadata={"key": "listener"})


def test_the_shipped_examples_of_submission_are_right() -> None:
    """Both listeners of the comments in the shipped file are what RFC 6409 and RFC 8314 speak of."""
    shipped = (ROOT / "etc" / "relaymta" / "relaymta.toml").read_text()
    opened = "\n".join(re.findall(r"^#   (.*)$", shipped, re.MULTILINE))
    starttls, implicit = loads(opened, "file", Probe).settings.listeners
    assert (str(starttls.address), starttls.tls) == ("0.0.0.0:587", TlsMode.STARTTLS)
    assert (str(implicit.address), implicit.tls) == ("0.0.0.0:465", TlsMode.IMPLICIT)
    assert {one.auth for one in (starttls, implicit)} == {AuthMode.REQUIRED}


def test_port_465_without_tls_is_doubtful() -> None:
    """Its clients begin with TLS and would wait for ever (RFC 8314 §3.3)."""

    def doubted(**listener: object) -> list[str]:
        listeners = (ListenerSettings(profile=Profile.SUBMISSION, **listener),)  # type: ignore[arg-type]
        return [key for key, _ in doubts(Settings(hostname="a.example", listeners=listeners)) if "listener" in key]

    here = SocketAddress("0.0.0.0", 465)
    assert doubted(address=here) == ["listener[0].tls"]
    assert doubted(address=here, tls=TlsMode.IMPLICIT) == doubted(address=SocketAddress("0.0.0.0", 587)) == []
