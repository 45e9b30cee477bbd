"""The [users] table: what it refuses, and what this machine says of it."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from relaymta.config import ConfigError
from relaymta.config.loader import loads
from relaymta.directory import machine
from relaymta.directory.account import Account, Quota
from relaymta.directory.settings import QuotaSettings, SqlSettings, UserSettings
from relaymta.directory.sources import Rights

LDAP = 'url = "ldaps://ldap.example"\nuser_dn = "uid={name},dc=example"\n'
OAUTH = 'introspection_url = "https://login.example/introspect"\n'


def read(text: str) -> UserSettings:
    """The [users] table alone."""
    return loads(text, "f", UserSettings).settings


def said(text: str) -> str:
    """What is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        'file = "/etc/relaymta/users"\ncache = "0s"\n[quota]\nmessages_per_day = 5\nover = "refuse"',
        '[sql]\nurl = "sqlite:/var/lib/a.db"\nquery = "SELECT password FROM a WHERE name = :name"',
        '[sql]\nurl = "postgresql://u@h/db"\npassword_file = "/s"\nquery = "SELECT 1 WHERE x = :name::text"',
        "[ldap]\n" + LDAP,
        '[ldap]\nurl = "ldap://127.0.0.1:3890"\nstarttls = false\nbase = "dc=example"\n',
        '[ldap]\nurl = "ldap://ldap.example"\nbase = "dc=x"\nbind_dn = "cn=y"\npassword_file = "/s"\n',
        '[dovecot]\nsocket = "/run/dovecot/auth-client"\nsenders = ["{name}@example.org", "{name}"]\n',
        '[checkpassword]\nprogram = ["/usr/bin/checkpassword-pam", "-s", "smtp", "--", "/bin/true"]\n',
        "[oauth]\n" + OAUTH + 'client_id = "relay"\nclient_secret_file = "/s"\n',
        '[oauth]\nintrospection_url = "http://localhost:8080/i"\n',
    ],
)
def test_what_the_manual_shows_is_right(text: str) -> None:
    """Each source in the forms that it has."""
    assert read(text).configured is bool(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[sql]\nurl = "mysql://h/db"\nquery = ":name"', "sql.url: \"sqlite:/path\" or"),
        ('[sql]\nurl = "sqlite:"\nquery = ":name"', "sql.url: \"sqlite:/path\" or"),
        ('[sql]\nurl = "postgresql://u:secret@h/db"\nquery = ":name"', "sql.url: holds a password"),
        ('[sql]\nurl = "sqlite:/x"\nquery = "SELECT x::name"', "sql.query: does not say :name"),
        ('[sql]\nurl = "sqlite:/x"\nquery = ":name"\npassword_file = "/s"', "sql.password_file: SQLite has no"),
        ('[sql]\nquery = ":name"', "sql.query: without url this table is not used"),
        ('[sql]\nurl = "sqlite:/x"\nquery = ":name"\ntimeout = "0s"', "sql.timeout:"),
        ('[ldap]\nurl = "http://x"\nuser_dn = "{name}"', "ldap.url:"),
        ('[ldap]\nurl = "ldap://x/dc=y"\nuser_dn = "{name}"', "ldap.url:"),
        ('[ldap]\nurl = "ldap://x:99999"\nuser_dn = "{name}"', "ldap.url:"),
        ('[ldap]\nurl = "ldap://x"\nstarttls = false\nuser_dn = "{name}"', "ldap.starttls: passwords would cross"),
        ('[ldap]\nurl = "ldap://x"', "ldap.user_dn: either user_dn, or base and filter"),
        ('[ldap]\nurl = "ldap://x"\nuser_dn = "uid=name"', "ldap.user_dn: does not say {name}"),
        ('[ldap]\nurl = "ldap://x"\nbase = "dc=x"\nfilter = "(uid=*)"', "ldap.filter: does not say {name}"),
        ("[ldap]\n" + LDAP + 'bind_dn = "cn=x"', "ldap.bind_dn: bind_dn and password_file go together"),
        ("[ldap]\n" + LDAP + 'senders = ["ex ample"]', "ldap.senders:"),
        ('[ldap]\nrelay = false', "ldap.relay: without url this table is not used"),
        ('[dovecot]\nsocket = "auth-client"', "dovecot.socket: the path"),
        ('[dovecot]\nsocket = "/s"\nservice = "smtp\\tx"', "dovecot.service:"),
        ('[checkpassword]\nprogram = ["checkpassword"]', "checkpassword.program: begins with an absolute path"),
        ('[checkpassword]\nprogram = "/bin/true"', "checkpassword.program: a list is wanted"),
        ('[oauth]\nintrospection_url = "http://login.example/i"', "introspection_url: tokens would cross"),
        ('[oauth]\nintrospection_url = "https://me:pw@login.example/i"', "introspection_url: names no client"),
        ('[oauth]\nintrospection_url = "ftp://x"', "introspection_url: a URL such as"),
        ("[oauth]\n" + OAUTH + 'client_id = "x"', "oauth.client_id: client_id and client_secret_file go together"),
        ("[oauth]\n" + OAUTH + 'claim = ""', "oauth.claim:"),
        ("[quota]\nmessages_per_hour = -1", "quota.messages_per_hour:"),
        ('[quota]\nover = "bounce"', 'quota.over: "bounce" is not one of "hold", "refuse"'),
    ],
)
def test_what_cannot_be_meant_says_why(text: str, expected: str) -> None:
    """With its key; and no secret is told."""
    text_said = said(text)
    assert expected in text_said
    assert "secret@" not in text_said


def test_every_account_has_a_quota_by_default() -> None:
    """A compromised account sent hundreds of thousands (stalwart#966, mailcow#440): counted in recipients."""
    assert UserSettings().quota.quota == Quota(0, 0, 1000, 10_000)
    assert QuotaSettings(messages_per_hour=7).quota.messages_per_hour == 7


@pytest.mark.parametrize(
    ("senders", "name", "expected"),
    [
        ((), "ann", ()),
        (("{name}@example.org",), "ann", ("ann@example.org",)),
        (("{name}",), "ann@example.org", ("ann@example.org",)),
        (("{name}", "a.example"), "ann", ("a.example",)),
        (("{name}",), "example.org", (".invalid",)),
        (("{name}",), "*", (".invalid",)),
        (("{name}",), "@example.org", (".invalid",)),
        (("{name}",), ".example.org", (".invalid",)),
        (("{name}@example.org",), "a@b", (".invalid",)),
        (("{name}@example.org",), "a,b", (".invalid",)),
    ],
)
def test_a_name_gives_an_address_and_never_a_domain_or_everything(
    senders: tuple[str, ...], name: str, expected: tuple[str, ...]
) -> None:
    """Somebody may be called what is a pattern; where nothing is left, that is nobody and not anybody."""
    assert Rights(senders).account(name) == Account(name, expected)


def test_what_this_machine_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing or broken is a refusal; a file that everybody may read is a doubt."""
    file, secret = tmp_path / "users", tmp_path / "secret"
    file.write_text("ann\nann\n")
    file.chmod(0o644)
    text = f"""file = "{file}"
[sql]
url = "postgresql://u@h/db"
query = ":name"
password_file = "{secret}"
[ldap]
url = "ldaps://x"
user_dn = "uid={{name}}"
ca_file = "{tmp_path}/ca"
[checkpassword]
program = ["{tmp_path}/check"]
"""
    users = read(text)
    monkeypatch.setattr(machine, "find_spec", lambda name: None if name == "ldap3" else object())
    assert [key for key, _ in machine.refusals(users)] == [
        "users.file",
        "users.ldap.url",
        "users.sql.password_file",
        "users.ldap.ca_file",
        "users.checkpassword.program",
    ]
    assert "ann stands in line 1 too" in next(machine.refusals(users))[1]
    assert [key for key, _ in machine.doubts(users)] == ["users.file"]
    file.unlink()
    assert "`relaymta user add` makes it" in next(machine.doubts(users))[1]
    assert list(machine.refusals(UserSettings(file=str(file)))) == []
    assert SqlSettings().sqlite == ""


def test_what_libpq_does_not_know_is_a_refusal() -> None:
    """A parameter that is misspelt would else be told at the first log-in."""
    pytest.importorskip("psycopg")
    users = UserSettings(sql=SqlSettings(url="postgresql://u@h/db?sslmod=verify-full", query=":name"))
    [(key, text)] = machine.refusals(users)
    assert key == "users.sql.url" and "sslmod" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_file_that_the_daemon_may_not_read_is_a_doubt() -> None:
    """Root made it, and the daemon's user would have nobody to let in."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        file = Path(folder, "users")
        file.write_text("ann\n")
        file.chmod(0o600)
        users = UserSettings(file=str(file))
        assert [key for key, _ in machine.doubts(users, "nobody")] == ["users.file"]
        assert list(machine.doubts(users, "root")) == list(machine.doubts(users)) == []
        assert list(machine.doubts(users, "no such user")) == []
        os.chown(file, 0, pwd.getpwnam("nobody").pw_gid)
        file.chmod(0o640)
        assert list(machine.doubts(users, "nobody")) == []
        os.chmod(folder, 0o700)
        assert [key for key, _ in machine.doubts(users, "nobody")] == ["users.file"]
