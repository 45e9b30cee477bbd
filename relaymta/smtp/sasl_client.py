"""Logging in as a client: which mechanism is taken, and what is said in it; without socket and clock.

RFC 4954 (AUTH), RFC 4422 (SASL), RFC 4616 (PLAIN), RFC 5802 and RFC 7677 (SCRAM-SHA-256), RFC 7628 (OAUTHBEARER);
LOGIN and XOAUTH2 as the servers of this world have them. When it is said, and over which channel, is left to
smtp.dialogue.
"""

from __future__ import annotations

import binascii
import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from enum import Enum

from attrs import field, frozen

from relaymta.directory.saslprep import prepare
from relaymta.directory.scramkeys import ITERATIONS_LEAST, client_proof, derive, salted_password, server_signature
from relaymta.smtp.scram import saslname

COMMAND_MAX = 512  # octets of a command line, RFC 5321 §4.5.3.1.4
CHALLENGES_MAX = 8  # ours: no mechanism here has more than three
ITERATIONS_MAX = 250_000  # ours: a tenth of a second, once for each salt; a peer must not stop the mail for longer
HIDDEN = "***"


class Mechanism(Enum):
    """How we can log in, the strongest first."""

    SCRAM_SHA_256 = "SCRAM-SHA-256"
    OAUTHBEARER = "OAUTHBEARER"
    XOAUTH2 = "XOAUTH2"
    PLAIN = "PLAIN"
    LOGIN = "LOGIN"


BY_PASSWORD = (Mechanism.SCRAM_SHA_256, Mechanism.PLAIN, Mechanism.LOGIN)
BY_TOKEN = (Mechanism.OAUTHBEARER, Mechanism.XOAUTH2)


class LoginError(Exception):
    """The log-in cannot go on; one short sentence, without secrets."""


def new_nonce() -> str:
    """RFC 5802 §5.1: printable, without a comma, never the same twice."""
    return secrets.token_urlsafe(24)


@frozen(slots=True)
class Login:
    """Who we are at a next hop.

    `account` is the name of it here; `secret` a password, or a token for the mechanisms that take one; `mechanisms`
    those that may be used; `insecure`: over a channel on which nobody proved to be the server, too. `salted` keeps
    what SCRAM derived from the password, which is costly (RFC 5802 §5.1).
    """

    account: str
    username: str
    secret: str = field(repr=False)
    mechanisms: tuple[Mechanism, ...] = BY_PASSWORD
    insecure: bool = False
    nonce: Callable[[], str] = field(default=new_nonce, repr=False, eq=False)
    salted: dict[tuple[bytes, int], bytes] = field(factory=dict, repr=False, eq=False)

    def choose(self, offered: str) -> Mechanism:
        """The strongest mechanism that is offered (the parameters of AUTH in EHLO) and allowed. Raises LoginError."""
        words = offered.upper().split()
        if not words:
            raise LoginError("the peer offers no AUTH")
        for mechanism in Mechanism:
            if mechanism in self.mechanisms and mechanism.value in words:
                return mechanism
        allowed = " ".join(one.value for one in self.mechanisms)
        shown = " ".join(words[:10])
        raise LoginError(f"no mechanism in common: the peer offers {shown}, account {self.account} allows {allowed}")

    def conceal(self, text: str) -> str:
        """`text` of a peer without our secret, in case that it says back what it was told."""
        for said in (self.secret, *map(_text64, _forms(self.username, self.secret))):
            text = text.replace(said, HIDDEN)
        return text


def _text64(octets: bytes) -> str:
    return b64encode(octets).decode()


def _forms(username: str, secret: str) -> Iterable[bytes]:
    yield secret.encode()
    for make in (plain_message, xoauth2_message, oauthbearer_message):
        yield make(username, secret)


def plain_message(username: str, password: str) -> bytes:
    """RFC 4616 §2: no authorization identity, that is the one logged in."""
    return b"\0" + username.encode() + b"\0" + password.encode()


def xoauth2_message(username: str, token: str) -> bytes:
    """As Google and Microsoft define it."""
    return f"user={username}\x01auth=Bearer {token}\x01\x01".encode()


def oauthbearer_message(username: str, token: str) -> bytes:
    """RFC 7628 §3.1."""
    return f"n,a={saslname(username)},\x01auth=Bearer {token}\x01\x01".encode()


class Exchange:
    """One log-in under way. Lines go in and out without their CRLF, challenges and responses in base64."""

    __slots__ = ("_count", "_held", "_steps", "mechanism")

    def __init__(self, login: Login, mechanism: Mechanism) -> None:
        self.mechanism = mechanism
        self._steps: _Steps = _STEPS[mechanism](login)
        self._held: bytes | None = None
        self._count = 0

    def begin(self) -> bytes:
        """The AUTH command."""
        line = b"AUTH " + self.mechanism.value.encode()
        first = self._steps.first()
        if first is None:
            return line
        # RFC 4954 §4: "=" is an empty response; one that would make the line too long waits for the first challenge
        whole = line + b" " + (b64encode(first) or b"=")
        if len(whole) + 2 <= COMMAND_MAX:
            return whole
        self._held = first
        return line

    def respond(self, challenge: bytes) -> bytes:
        """What is said to a challenge, the text behind 334. Raises LoginError."""
        self._count += 1
        if self._count > CHALLENGES_MAX:
            raise LoginError("the peer goes on asking")
        if self._held is not None:
            held, self._held = self._held, None
            return b64encode(held)
        try:
            octets = b64decode(challenge.strip(), validate=True)
        except (binascii.Error, ValueError):
            octets = None
        if octets is None and self.mechanism is not Mechanism.LOGIN:  # of which the prompts mean nothing
            raise LoginError("the peer's challenge is not base64")
        return b64encode(self._steps.answer(octets or b""))

    def succeed(self) -> None:
        """The peer says that we are logged in. Raises LoginError where it has not proven what it had to."""
        self._steps.end()


class _Steps:
    """One mechanism: the initial response (None: there is none), an answer to each challenge, and the end."""

    def __init__(self, login: Login) -> None:
        self.login = login

    def first(self) -> bytes | None:
        return None

    def answer(self, challenge: bytes) -> bytes:
        raise LoginError("the peer asks for more than the mechanism has")

    def end(self) -> None:
        """Nothing is to be proven by the server, beyond its certificate."""


class _Plain(_Steps):
    def first(self) -> bytes:
        return plain_message(self.login.username, self.login.secret)


class _LoginSteps(_Steps):
    """Two prompts, whatever they say."""

    def __init__(self, login: Login) -> None:
        super().__init__(login)
        self._left = [login.username.encode(), login.secret.encode()]

    def answer(self, challenge: bytes) -> bytes:
        if not self._left:
            return super().answer(challenge)
        return self._left.pop(0)


class _Bearer(_Steps):
    def answer(self, challenge: bytes) -> bytes:
        # The challenge is an error in JSON, and the refusal comes after our answer to it: RFC 7628 §3.2.3
        return self.goodbye

    goodbye = b"\x01"


class _OauthBearer(_Bearer):
    def first(self) -> bytes:
        return oauthbearer_message(self.login.username, self.login.secret)


class _Xoauth2(_Bearer):
    goodbye = b""

    def first(self) -> bytes:
        return xoauth2_message(self.login.username, self.login.secret)


class _Scram(_Steps):
    """RFC 5802 §5, with SHA-256 (RFC 7677) and without channel binding."""

    def __init__(self, login: Login) -> None:
        super().__init__(login)
        self._nonce = login.nonce()
        self._bare = f"n={saslname(prepared(login.username))},r={self._nonce}"
        self._expected: bytes | None = None  # the server's signature
        self._proven = False

    def first(self) -> bytes:
        return b"n,," + self._bare.encode()  # RFC 5802 §6: "n", we cannot bind channels

    def answer(self, challenge: bytes) -> bytes:
        text = _utf8(challenge)
        if self._expected is None:
            return self._prove(text)
        if self._proven:
            return super().answer(challenge)
        found = _attributes(text)
        if "e" in found:
            raise LoginError(f"the peer refuses the proof: {found['e'][:40]!r}")
        if not hmac.compare_digest(_decoded(found.get("v", "")), self._expected):
            raise LoginError("the peer does not know the password that it asks for")  # RFC 5802 §5: v
        self._proven = True
        return b""

    def end(self) -> None:
        if not self._proven:
            raise LoginError("the peer did not prove that it knows the password")

    def _prove(self, first: str) -> bytes:
        found = _attributes(first)
        nonce, salt, count = found.get("r", ""), _decoded(found.get("s", "")), found.get("i", "")
        if "m" in found:
            raise LoginError("the peer wants an extension of SCRAM that does not exist yet")  # RFC 5802 §5.1
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise LoginError("the peer's nonce does not continue ours")  # RFC 5802 §5.1
        if not salt or not (count.isascii() and count.isdigit() and len(count) < 10):
            raise LoginError("the peer's challenge is not one of SCRAM")
        iterations = int(count)
        if not ITERATIONS_LEAST <= iterations <= ITERATIONS_MAX:
            raise LoginError(f"the peer wants {iterations} iterations; {ITERATIONS_LEAST} to {ITERATIONS_MAX} are done")
        salted = self._salt(salt, iterations)
        final = f"c=biws,r={nonce}"  # "n,," in base64
        message = f"{self._bare},{first},{final}".encode()
        proof = client_proof(salted, message)
        _, server_key = derive(salted)
        self._expected = server_signature(server_key, message)
        return f"{final},p={_text64(proof)}".encode()

    def _salt(self, salt: bytes, iterations: int) -> bytes:
        kept = self.login.salted
        salted = kept.get((salt, iterations))
        if salted is None:
            salted = salted_password(prepared(self.login.secret).encode(), salt, iterations)
            kept.clear()  # one server, one salt
            kept[salt, iterations] = salted
        return salted


_STEPS: dict[Mechanism, Callable[[Login], _Steps]] = {
    Mechanism.SCRAM_SHA_256: _Scram,
    Mechanism.OAUTHBEARER: _OauthBearer,
    Mechanism.XOAUTH2: _Xoauth2,
    Mechanism.PLAIN: _Plain,
    Mechanism.LOGIN: _LoginSteps,
}


def _utf8(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise LoginError("the peer's challenge is not UTF-8") from None


def _attributes(text: str) -> dict[str, str]:
    """RFC 5802 §5.1: "a=value,b=value"; the first of a name counts."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or len(name) != 1:
            raise LoginError("the peer's challenge is not one of SCRAM")
        found.setdefault(name, value)
    return found


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text.encode(), validate=True)
    except (binascii.Error, ValueError):
        raise LoginError("the peer's challenge is not one of SCRAM") from None


def prepared(text: str) -> str:
    """A name or password by SASLprep (RFC 4013). Raises LoginError, without it, where it holds what may not be."""
    try:
        return prepare(text)
    except ValueError:  # which names the letter, and that may be one of a password
        said = "the name or password has a character that SASLprep forbids, or mixes directions of writing"
        raise LoginError(said) from None
