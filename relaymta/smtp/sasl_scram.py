"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, the server's side.

RFC 5802 §3, §5, §6 (channel binding) and §7, RFC 7677, RFC 5929 and RFC 9266 (the bindings). The messages are
smtp.scram's, the arithmetic and whether a proof is right the directory's.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from relaymta.directory.credentials import ScramKeys, ScramProof
from relaymta.directory.scramkeys import server_signature
from relaymta.smtp import scram
from relaymta.smtp.sasl import Challenge, KeysWanted, Mechanism, Shown, Step, denied, malformed, prepared, text

NONCE_MAX = 512  # characters of the client's part; ours
Binding = Callable[[str], bytes | None]  # the data of a kind of channel binding, None where there is none


class Scram(Mechanism):
    """Without channel binding. `nonce` makes our part; `plus` says whether -PLUS was offered too."""

    name = "SCRAM-SHA-256"

    def __init__(self, nonce: Callable[[], str], *, plus: bool) -> None:
        self._make_nonce = nonce
        self._plus = plus
        self._name = self._first = self._nonce = self._server_first = ""
        self._bound = b""  # what "c=" must hold
        self._keys: ScramKeys | None = None
        self._auth_message = b""

    def respond(self, response: bytes) -> Step:
        """The client's first message, then its last."""
        message = text(response)
        return self._take_first(message) if self._keys is None else self._take_last(message)

    def take_keys(self, keys: ScramKeys) -> Step:
        """Answer with salt and iterations."""
        self._keys = keys
        self._nonce += self._make_nonce()
        self._server_first = f"r={self._nonce},s={scram.encode(keys.salt)},i={keys.iterations}"
        return Challenge(self._server_first.encode())

    def accept(self) -> Challenge:
        """Show that we know the password too (RFC 5802 §3, ServerSignature)."""
        assert self._keys is not None
        signature = server_signature(self._keys.server_key, self._auth_message)
        return Challenge(f"v={scram.encode(signature)}".encode())

    def _take_first(self, message: str) -> Step:
        flag, comma, rest = message.partition(",")
        authzid, other, bare = rest.partition(",")
        if not comma or not other or (authzid and not authzid.startswith("a=")):
            raise malformed()
        data = self._binding(flag)
        try:
            wanted = scram.name_of(authzid[2:]) if authzid else ""
            name, nonce = scram.attributes(bare, "nr")
            name = scram.name_of(name)
        except ValueError:
            raise malformed() from None
        if not scram.NONCE.fullmatch(nonce) or len(nonce) > NONCE_MAX:
            raise malformed()
        self._name = prepared(name)
        if wanted and prepared(wanted) != self._name:
            raise denied()
        self._bound = f"{flag},{authzid},".encode() + data  # RFC 5802 §7, cbind-input
        self._first, self._nonce = bare, nonce
        return KeysWanted(self._name)

    def _binding(self, flag: str) -> bytes:
        """The channel's data that the client must have seen too. RFC 5802 §6."""
        if flag == "y" and self._plus:  # the client believes that we cannot: somebody has cut our offer
            raise denied()
        if flag not in ("n", "y"):
            raise malformed()
        return b""

    def _take_last(self, message: str) -> Step:
        assert self._keys is not None
        without, _, proof = message.rpartition(",p=")
        try:
            bound, nonce = scram.attributes(without, "cr")
            shown = scram.decode(proof)
            channel = scram.decode(bound)
        except ValueError:
            raise malformed() from None
        same = hmac.compare_digest(channel, self._bound) and hmac.compare_digest(nonce.encode(), self._nonce.encode())
        if not same:  # RFC 5802 §5.1: "c" and "r" are to be compared
            raise denied()
        self._auth_message = f"{self._first},{self._server_first},{without}".encode()
        return Shown(self._name, ScramProof(self._name, self._auth_message, shown, self._keys))


class ScramPlus(Scram):
    """Bound to the TLS channel: who sits between two of them is found out. `binding` gives a channel's data."""

    name = "SCRAM-SHA-256-PLUS"

    def __init__(self, nonce: Callable[[], str], binding: Binding) -> None:
        super().__init__(nonce, plus=True)
        self._data = binding

    def _binding(self, flag: str) -> bytes:
        if not flag.startswith("p="):  # RFC 5802 §6: with -PLUS the client must bind
            raise malformed()
        data = self._data(flag[2:])
        if data is None:
            raise denied()
        return data
