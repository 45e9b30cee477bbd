"""The server's side of SASL: a machine for each mechanism, responses in, challenges and credentials out.

RFC 4422 (SASL, and EXTERNAL in appendix A), RFC 4616 (PLAIN), draft-murchison-sasl-login (LOGIN). SCRAM is in
smtp.sasl_scram, tokens are in smtp.sasl_oauth. A machine decides nothing: it says which credentials the client has
shown. Base64, cancelling and the reply codes are left to smtp.authing, checking to the directory.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import field, frozen
from twisted.cred.credentials import ICredentials, UsernamePassword

from relaymta.directory.credentials import Certificate, ScramKeys
from relaymta.directory.saslprep import prepare
from relaymta.smtp import answers
from relaymta.smtp.grammar import RefusalError

NAME_MAX = 255  # characters of an account's name; ours: RFC 4616 §2 bears as many octets


@frozen(slots=True)
class Challenge:
    """Octets for the client, not yet in base64."""

    octets: bytes = field(repr=False)


@frozen(slots=True)
class KeysWanted:
    """To go on, the keys of the account of that name are needed."""

    name: str


@frozen(slots=True)
class Shown:
    """What the client has shown to prove that it is `name`; "" where it has not said who it is."""

    name: str
    credentials: ICredentials = field(repr=False)


Step = Challenge | KeysWanted | Shown


class Mechanism:
    """One exchange. Each method raises RefusalError for what the mechanism does not allow; no secret is in it."""

    name: ClassVar[str] = ""

    def start(self, initial: bytes | None) -> Step:
        """AUTH was said, with an initial response or None."""
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, response: bytes) -> Step:
        """The client's answer to the last challenge."""
        raise NotImplementedError

    def take_keys(self, keys: ScramKeys) -> Step:
        """The answer to KeysWanted."""
        raise NotImplementedError

    def accept(self) -> Challenge | None:
        """What was shown is right; what the client must hear before the 235, which it answers with nothing."""
        return None

    def refuse(self) -> Challenge | None:
        """What was shown is wrong; what the client must hear before the 535, whatever it answers."""
        return None


class Plain(Mechanism):
    """RFC 4616: who to act as, who, password."""

    name = "PLAIN"

    def respond(self, response: bytes) -> Step:
        """The one message."""
        parts = response.split(b"\0")  # RFC 4616 §2: [authzid] NUL authcid NUL passwd
        if len(parts) != 3:
            raise malformed()
        authzid, name, password = (text(part) for part in parts)
        return password_of(name, password, authzid)


class Login(Mechanism):
    """draft-murchison-sasl-login-00, and clients that send the name at once."""

    name = "LOGIN"

    def __init__(self) -> None:
        self._name: str | None = None

    def start(self, initial: bytes | None) -> Step:
        """Ask for the name, unless it came."""
        return Challenge(b"Username:") if not initial else self.respond(initial)

    def respond(self, response: bytes) -> Step:
        """The name, then the password."""
        if self._name is None:
            self._name = text(response)
            return Challenge(b"Password:")
        return password_of(self._name, text(response))


class External(Mechanism):
    """RFC 4422 appendix A: the client certificate, and perhaps who to act as."""

    name = "EXTERNAL"

    def __init__(self, names: tuple[str, ...], fingerprint: str) -> None:
        self._names = names
        self._fingerprint = fingerprint

    def respond(self, response: bytes) -> Step:
        """The one message: "" leaves it to the certificate."""
        name = text(response)
        if name:
            name = prepared(name)
        return Shown(name, Certificate(name, self._names, self._fingerprint))


def password_of(name: str, password: str, authzid: str = "") -> Shown:
    """A name and a password as credentials: the password as it was sent, since others may have to compare it."""
    name = prepared(name)
    if not password or "\0" in password:  # RFC 4616 §2
        raise denied()
    if authzid and prepared(authzid) != name:  # nobody acts as somebody else here
        raise denied()
    return Shown(name, UsernamePassword(name.encode(), password.encode()))


def prepared(name: str) -> str:
    """A name by SASLprep; what cannot be prepared can be nobody's."""
    if len(name) > NAME_MAX:  # before it costs anything: one of 12,000 octets took a tenth of a second
        raise denied()
    try:
        name = prepare(name)
    except ValueError:
        raise denied() from None
    if not 0 < len(name) <= NAME_MAX:
        raise denied()
    return name


def text(octets: bytes) -> str:
    """UTF-8, which all mechanisms speak."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise malformed() from None


def malformed() -> RefusalError:
    """Not a message of this mechanism."""
    return RefusalError(answers.AUTH_MALFORMED)


def denied() -> RefusalError:
    """Well formed, and nobody's credentials without asking."""
    return RefusalError(answers.AUTH_FAILED)
