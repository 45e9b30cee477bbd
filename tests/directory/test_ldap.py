"""Accounts in a real OpenLDAP: bind, search and bind, STARTTLS, ldaps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.cred.error import UnauthorizedLogin

from relaymta.config import Duration
from relaymta.directory.account import Account
from relaymta.directory.credentials import DirectoryUnavailableError
from relaymta.directory.machine import doubts
from relaymta.directory.settings import LdapSettings, UserSettings
from tests.directory.rig import AccountsCase, entry, write
from tests.directory.servers import SLAPD_MISSING, Ldap, slapd

PEOPLE = "ou=people,dc=example,dc=org"
LDIF = f"""\
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: {PEOPLE}
objectClass: organizationalUnit
ou: people

dn: uid=ann,{PEOPLE}
objectClass: inetOrgPerson
uid: ann
cn: Ann
sn: A
mail: ann@example.org
mail: example.org
mail: *
userPassword: pencil IX

dn: uid=a\\,b\\+c*(x),{PEOPLE}
objectClass: inetOrgPerson
uid: a,b+c*(x)
cn: B
sn: B
userPassword: crayon

dn: uid=twin,{PEOPLE}
objectClass: inetOrgPerson
uid: twin
cn: T
sn: T
userPassword: one

dn: cn=Other,{PEOPLE}
objectClass: inetOrgPerson
uid: twin
cn: Other
sn: T
userPassword: two

"""

pytestmark = pytest.mark.skipif(bool(SLAPD_MISSING), reason=SLAPD_MISSING or "it is there")


@pytest.fixture(scope="module")
def server() -> Iterator[Ldap]:
    """One server for the file."""
    pytest.importorskip("ldap3")
    with slapd(LDIF, root_password="s3cret") as running:
        yield running


class TestLdap(AccountsCase):
    """Right is the password with which the server lets the entry bind."""

    @pytest.fixture(autouse=True)
    def _given(self, server: Ldap) -> None:
        self.server = server

    def setUp(self) -> None:
        """A folder, and settings that bind at once."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "secret").write_text("s3cret\n")
        (self.folder / "secret").chmod(0o600)
        self.bound = LdapSettings(
            url=f"ldap://localhost:{self.server.port}",
            ca_file=self.server.files.ca,
            user_dn=f"uid={{name}},{PEOPLE}",
        )
        self.found = LdapSettings(
            url=f"ldaps://127.0.0.1:{self.server.tls_port}",
            ca_file=self.server.files.ca,
            base="dc=example,dc=org",
            filter="(&(objectClass=inetOrgPerson)(uid={name}))",
            bind_dn="cn=admin,dc=example,dc=org",
            password_file=str(self.folder / "secret"),
        )

    def directory(self, settings: LdapSettings, **more: Any) -> Any:
        """Accounts in this server, and in what more there is."""
        return self.make(UserSettings(ldap=settings, **more), self.folder)

    async def test_a_password_is_right_where_the_server_says_so(self) -> None:
        """By the DN at once over STARTTLS, and by a search over TLS; the password in any spelling of RFC 4013."""
        for settings in (self.bound, self.found, evolve(self.bound, starttls=False)):
            accounts = self.directory(settings)
            self.assertEqual(accounts.mechanisms, {"PLAIN", "LOGIN"})
            self.assertEqual(await self.password(accounts, "Ann", "pencil \u2168"), Account("ann"))
            for name, password in (("ann", "pencil"), ("nobody", "pencil IX")):
                await self.assertFailure(self.password(accounts, name, password), UnauthorizedLogin)

    async def test_a_bind_that_would_be_anonymous_is_not_tried(self) -> None:
        """RFC 4513 §5.1.2: an empty password binds everybody, and one that is prepared away is empty."""
        for settings in (self.bound, self.found):
            accounts = self.directory(settings)
            for password in ("", "\u00ad", "\u200b\u2060"):
                await self.assertFailure(self.password(accounts, "ann", password), UnauthorizedLogin)

    async def test_a_name_is_neither_a_dn_nor_a_filter(self) -> None:
        """What means something in either is escaped (RFC 4514 §2.4, RFC 4515 §3)."""
        for settings in (self.bound, self.found):
            accounts = self.directory(settings)
            self.assertEqual((await self.password(accounts, "a,b+c*(x)", "crayon")).name, "a,b+c*(x)")
            for name in ("*", "an*", "ann)(uid=*", "ann,ou=people", "ann\\2a", "x)(|(uid=ann)", "ann+cn=ann"):
                await self.assertFailure(self.password(accounts, name, "pencil IX"), UnauthorizedLogin)

    async def test_what_an_account_may_send_as_is_in_its_entry(self) -> None:
        """Addresses alone count there: who may write into an entry must not give away a domain, or everything."""
        settings = evolve(self.found, senders_attribute="mail", relay=False)
        accounts = self.directory(settings)
        self.assertEqual(
            await self.password(accounts, "ann", "pencil IX"), Account("ann", ("ann@example.org",), False)
        )
        named = self.directory(evolve(self.bound, senders_attribute="mail"))
        self.assertEqual((await self.password(named, "a,b+c*(x)", "crayon")).senders, (".invalid",))
        given = self.directory(evolve(self.bound, senders=("{name}@example.org", "{name}")))
        self.assertEqual((await self.password(given, "ann", "pencil IX")).senders, ("ann@example.org",))

    async def test_an_entry_has_one_name_whatever_it_was_found_by(self) -> None:
        """Who logs in by an alias, or as the server folds it, has no other quota and no other rights for it."""
        several = evolve(self.found, filter="(|(uid={name})(mail={name})(cn={name}))", senders=("{name}@x.example",))
        self.assertEqual((await self.password(self.directory(several), "ann@example.org", "pencil IX")).name,
                         "ann@example.org")  # fmt: skip
        self.assertEqual([key for key, _ in doubts(UserSettings(ldap=several))], ["users.ldap.filter"])
        for settings in (evolve(several, name_attribute="uid"), evolve(several, name_attribute="UID")):
            accounts = self.directory(settings)
            for name in ("ann", "ANN", "ann@example.org", "\uff41nn"):
                found = await self.password(accounts, name, "pencil IX")
                self.assertEqual(found, Account("ann", ("ann@x.example",)))
            self.assertEqual(list(doubts(UserSettings(ldap=settings))), [])
        without = self.directory(evolve(several, name_attribute="telephoneNumber"))
        error = await self.assertFailure(self.password(without, "ann", "pencil IX"), DirectoryUnavailableError)
        self.assertIn("no telephoneNumber that can be a name", str(error))
        mailed = self.directory(evolve(self.bound, name_attribute="mail", senders_attribute="mail"))
        self.assertEqual(await self.password(mailed, "ann", "pencil IX"), Account("*", ("ann@example.org",)))

    async def test_the_file_is_asked_before(self) -> None:
        """Who stands there is not looked for here, right or wrong; who does not is."""
        write(self.folder / "users", entry("ann", "crayon"), entry("bob", "x", disabled="yes"))
        accounts = self.directory(self.bound, file=str(self.folder / "users"))
        self.assertEqual(accounts.mechanisms, {"PLAIN", "LOGIN"})
        self.assertEqual((await self.password(accounts, "ann", "crayon")).name, "ann")
        await self.assertFailure(self.password(accounts, "ann", "pencil IX"), UnauthorizedLogin)
        self.assertEqual((await self.password(accounts, "a,b+c*(x)", "crayon")).name, "a,b+c*(x)")

    async def test_what_could_not_be_asked_is_no_answer(self) -> None:
        """A certificate of another authority or name, our own wrong secret, a base that is none, two entries."""
        (self.folder / "wrong").write_text("wr0ng\n")
        for settings, said in (
            (evolve(self.bound, ca_file=""), "certificate verify failed"),
            (evolve(self.found, ca_file=""), "certificate verify failed"),
            (evolve(self.bound, url=f"ldap://127.0.0.2:{self.server.port}"), "refused"),
            (evolve(self.found, password_file=str(self.folder / "wrong")), "invalidCredentials at bind as bind_dn"),
            (evolve(self.found, base="dc=nowhere"), "noSuchObject at search"),
            (evolve(self.found, filter="(uid={name}"), "filter"),
        ):
            accounts = self.directory(settings)
            error = await self.assertFailure(self.password(accounts, "ann", "pencil IX"), DirectoryUnavailableError)
            self.assertIn(said, str(error))
            self.assertNotIn("wr0ng", str(error))
        accounts = self.directory(self.found)
        error = await self.assertFailure(self.password(accounts, "twin", "one"), DirectoryUnavailableError)
        self.assertIn("more than one entry", str(error))

    async def test_a_name_that_the_certificate_does_not_have_is_not_the_server(self) -> None:
        """Whoever answers at another name must not be shown a password."""
        import socket

        real = socket.getaddrinfo

        def elsewhere(host: Any, *more: Any, **named: Any) -> Any:
            return real("127.0.0.1" if host == "other.example" else host, *more, **named)

        self.patch(socket, "getaddrinfo", elsewhere)
        for url in (f"ldap://other.example:{self.server.port}", f"ldaps://other.example:{self.server.tls_port}"):
            accounts = self.directory(evolve(self.bound, url=url))
            error = await self.assertFailure(self.password(accounts, "ann", "pencil IX"), DirectoryUnavailableError)
            self.assertIn("Hostname mismatch", str(error))

    async def test_a_server_that_says_nothing_is_given_up(self) -> None:
        """After its time."""
        import socket

        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            url = f"ldap://127.0.0.1:{silent.getsockname()[1]}"
            accounts = self.directory(evolve(self.bound, url=url, timeout=Duration(0.3)))
            await self.assertFailure(self.password(accounts, "ann", "pencil IX"), DirectoryUnavailableError)
