"""The scripted server with AUTH: each mechanism from the server's side, written by its RFC and not by our client."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Generator

from attrs import define, field

from tests.smtp.scripted import Server

SALT = bytes(range(16))
OK = "235 2.7.0 welcome"
NO = "535 5.7.8 authentication credentials invalid"


def hmac256(key: bytes, text: str | bytes) -> bytes:
    """HMAC-SHA-256."""
    return hmac.new(key, text.encode() if isinstance(text, str) else text, hashlib.sha256).digest()


@define(eq=False)
class AuthServer(Server):
    """Knows one user by password and one token. `lies` breaks the protocol in a way that a test names.

    `logins` holds who logged in by what; `tries` every mechanism that was begun.
    """

    mechanisms: str = "SCRAM-SHA-256 PLAIN LOGIN"
    username: str = "relay"
    password: str = "pässword"
    token: str = "tok-1"
    lies: str = ""
    iterations: int = 4096
    logins: list[tuple[str, str]] = field(factory=list)
    tries: list[str] = field(factory=list)
    _exchange: Generator[str, str, str] | None = None

    def __attrs_post_init__(self) -> None:
        if self.mechanisms:
            self.offers = [*self.offers, f"AUTH {self.mechanisms}"]

    def _command(self, line: str) -> bytes:
        if self._exchange is not None:
            self.commands.append(line)
            return self._go_on(line)
        verb, _, argument = line.partition(" ")
        told = self.answers(verb, argument)
        if verb != "AUTH" or told is not None:
            if verb == "MAIL" and self.mechanisms and not self.logins:
                return b"530 5.7.0 authentication required\r\n"
            return super()._command(line)
        self.commands.append(line)
        name, _, initial = argument.partition(" ")
        self.tries.append(name)
        self._exchange = {
            "PLAIN": self._plain,
            "LOGIN": self._login,
            "SCRAM-SHA-256": self._scram,
            "XOAUTH2": self._xoauth2,
            "OAUTHBEARER": self._oauthbearer,
        }[name]()
        next(self._exchange)
        return self._go_on(initial) if initial or name == "LOGIN" else b"334 \r\n"

    def _go_on(self, line: str) -> bytes:
        assert self._exchange is not None
        if line == "*":
            self._exchange = None
            return b"501 5.7.0 cancelled\r\n"
        try:
            said = self._exchange.send("" if line == "=" else b64decode(line).decode())
        except StopIteration as end:
            self._exchange = None
            said = end.value
        return f"{said}\r\n".encode()

    def _ask(self, text: str | bytes) -> str:
        return "334 " + b64encode(text.encode() if isinstance(text, str) else text).decode()

    def _welcome(self, mechanism: str, name: str) -> str:
        self.logins.append((mechanism, name))
        return OK

    def _plain(self) -> Generator[str, str, str]:
        authzid, name, password = (yield "").split("\0")
        if (authzid, name, password) != ("", self.username, self.password):
            return f"535 5.7.8 not {password}" if self.lies == "tells" else NO
        return self._welcome("PLAIN", name)

    def _login(self) -> Generator[str, str, str]:
        yield ""
        name = yield self._ask("Username:")
        password = yield ("334 Password:" if self.lies == "base64" else self._ask("Password:"))
        return self._welcome("LOGIN", name) if (name, password) == (self.username, self.password) else NO

    def _xoauth2(self) -> Generator[str, str, str]:
        given = yield ""
        if given == f"user={self.username}\x01auth=Bearer {self.token}\x01\x01":
            return self._welcome("XOAUTH2", self.username)
        said = yield self._ask(json.dumps({"status": "400", "schemes": "bearer"}))
        assert said == ""
        return NO

    def _oauthbearer(self) -> Generator[str, str, str]:
        given = yield ""
        if given == f"n,a={self.username},\x01auth=Bearer {self.token}\x01\x01":
            return self._welcome("OAUTHBEARER", self.username)
        said = yield self._ask(json.dumps({"status": "invalid_token"}))
        assert said == "\x01"  # RFC 7628 §3.2.3
        return NO

    def _scram(self) -> Generator[str, str, str]:
        """RFC 5802 §5, the server's way: from StoredKey and ServerKey."""
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), SALT, self.iterations)
        stored = hashlib.sha256(hmac256(salted, "Client Key")).digest()
        server_key = hmac256(b"another" if self.lies == "signature" else salted, "Server Key")
        first = yield ""
        assert first.startswith("n,,")
        bare = first[3:]
        fields = dict(part.split("=", 1) for part in bare.split(","))
        nonce = ("stolen" if self.lies == "nonce" else fields["r"]) + "server"
        challenge = f"r={nonce},s={b64encode(SALT).decode()},i={self.iterations}"
        if self.lies == "early":
            return self._welcome("SCRAM-SHA-256", fields["n"])
        if self.lies == "base64":
            final = yield "334 !!!"
        final = yield self._ask(challenge)
        without, _, proof = final.rpartition(",p=")
        assert without == f"c={b64encode(b'n,,').decode()},r={nonce}"
        message = f"{bare},{challenge},{without}"
        key = bytes(a ^ b for a, b in zip(b64decode(proof), hmac256(stored, message), strict=True))
        if hashlib.sha256(key).digest() != stored or fields["n"] != self.username:
            if self.lies == "e":
                yield self._ask("e=invalid-proof")
            return NO
        if self.lies == "unsigned":
            return self._welcome("SCRAM-SHA-256", fields["n"])
        said = yield self._ask(f"v={b64encode(hmac256(server_key, message)).decode()}")
        assert said == ""
        return self._welcome("SCRAM-SHA-256", fields["n"])
