"""Tokens to log in with, from an authorization server, kept until shortly before they end.

RFC 6749 (OAuth 2.0): §4.4 (client credentials), §6 (refresh tokens), §2.3.1 (the client's own password), §5 (answers);
RFC 6750 (bearer tokens). Asked over HTTPS whose certificate is verified; over HTTP on this very machine alone. What a
token is shown to is left to delivery.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final, TypeGuard, cast
from urllib.parse import quote_plus, urlencode

from attrs import field, frozen
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import Agent, FileBodyProducer, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from relaymta.config.secretfile import SecretError, SecretFile
from relaymta.net.https import HEAD_MAX, Metering
from relaymta.trust import VerifyingPolicy, believing

TIMEOUT = 30.0  # seconds for one request in all; ours
CONNECT_TIMEOUT = 10.0
ANSWER_MAX = 64 * 1024  # octets of an answer; ours, tokens have a few thousand
EARLY = 60.0  # seconds before its end from which a token is not used any more; ours, as clocks differ
LIFETIME = 300.0  # seconds for which a token without expires_in is kept; ours, RFC 6749 §5.1 leaves it open
TROUBLE = 60.0  # seconds for which a refusal is remembered, so that a queue does not storm the server; ours
_TOO_LONG: Final = "its answer is too long"


class TokenError(Exception):
    """No token; the text says why in a short sentence, without secrets."""


@frozen(slots=True)
class Grant:
    """What entitles us to tokens. With `refresh` it is the refresh token, else the client's own credentials."""

    token_url: str
    client_id: str
    scope: str = ""
    secret: SecretFile | None = None
    refresh: SecretFile | None = None


@frozen(slots=True)
class Token:
    """One access token. `until`: when it is not used any more, by the clock of who got it."""

    value: str = field(repr=False)
    until: float


class Tokens:
    """The tokens of one grant. `seconds` is a monotonic clock; `trust_root`: as trust.believing has it."""

    def __init__(
        self, reactor: Any, grant: Grant, seconds: Callable[[], float], trust_root: Any = None
    ) -> None:
        self._reactor = reactor
        self._grant = grant
        self._seconds = seconds
        self._policy = VerifyingPolicy(believing(trust_root))  # one request at a time
        self._kept: Token | None = None
        self._trouble = ("", 0.0)
        self._refresh = ""  # the refresh token in force, where the server gave a new one that could not be written
        self._replaced = ""  # what the file said when it did
        self._waiting: list[Deferred[Token]] = []

    def get(self) -> Deferred[Token]:
        """A token that is good now. Fails with TokenError."""
        now = self._seconds()
        if self._kept is not None and now < self._kept.until:
            return succeed(self._kept)
        text, until = self._trouble
        waiter: Deferred[Token] = Deferred()
        if now < until:
            waiter.errback(TokenError(text))
            return waiter
        self._waiting.append(waiter)
        if len(self._waiting) == 1:
            Deferred.fromCoroutine(self._fetch()).addBoth(self._settle)
        return waiter

    def discard(self, token: Token) -> None:
        """It was refused: do not use it again."""
        if self._kept == token:
            self._kept = None

    def _settle(self, result: Token | Failure) -> None:
        waiting, self._waiting = self._waiting, []
        if isinstance(result, Token):
            self._kept = result
        elif result.check(TokenError):
            self._trouble = (result.getErrorMessage(), self._seconds() + TROUBLE)
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(result)

    async def _fetch(self) -> Token:
        try:
            fields, headers = self._request()
        except SecretError as error:
            raise TokenError(str(error)) from None
        # RFC 6749 §4.4.2, §6: a form in the body
        body = FileBodyProducer(BytesIO(urlencode(fields).encode()))
        metering = Metering(self._endpoint, ANSWER_MAX + HEAD_MAX)
        # interface and implementation agree; mypy-zope cannot see it
        agent = Agent.usingEndpointFactory(self._reactor, cast(Any, metering))
        asked: Deferred[Any] = agent.request(b"POST", self._grant.token_url.encode(), headers, body)
        asked.addCallback(_read).addTimeout(TIMEOUT, self._reactor)
        try:
            code, octets = await asked
        except Exception as error:  # noqa: BLE001 - whatever the network, TLS or HTTP had: no token
            matter = _TOO_LONG if metering.over else _describe(error, self._policy.stranger)
            raise TokenError(f"{self._grant.token_url}: {matter}") from None
        finally:
            metering.abort()  # a server that goes on is not listened to
        return self._take(code, octets)

    def _endpoint(self, uri: Any) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii")
        plain = HostnameEndpoint(self._reactor, host, uri.port, timeout=CONNECT_TIMEOUT)
        if uri.scheme != b"https":
            return cast(IStreamClientEndpoint, plain)
        return wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), cast(IStreamClientEndpoint, plain))

    def _request(self) -> tuple[dict[str, str], Headers]:
        grant = self._grant
        headers = Headers({b"Content-Type": [b"application/x-www-form-urlencoded"], b"Accept": [b"application/json"]})
        fields = {"grant_type": "client_credentials" if grant.refresh is None else "refresh_token"}
        if grant.refresh is not None:
            said = grant.refresh.read()
            if said != self._replaced:
                self._refresh = self._replaced = ""  # the operator put another one there
            fields["refresh_token"] = self._refresh or said
        if grant.scope:
            fields["scope"] = grant.scope
        if grant.secret is None:
            fields["client_id"] = grant.client_id  # RFC 6749 §3.2.1: a public client
        else:
            # RFC 6749 §2.3.1: what every server that gives passwords to clients must take
            pair = f"{quote_plus(grant.client_id)}:{quote_plus(grant.secret.read())}"
            headers.addRawHeader(b"Authorization", b"Basic " + b64encode(pair.encode()))
        return fields, headers

    def _take(self, code: int, octets: bytes) -> Token:
        url = self._grant.token_url
        try:
            answer = json.loads(octets)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise TokenError(f"{url} answered {code}, and not with JSON")
        if code != 200:
            # RFC 6749 §5.2: `error` is one of a few words; the description may say more than a log should hold
            raise TokenError(f"{url} answered {code} {_word(answer.get('error'))}".rstrip())
        value, kind = answer.get("access_token"), answer.get("token_type")
        if not _is_token(value):
            raise TokenError(f"{url} answered without a token")
        if not isinstance(kind, str) or kind.lower() != "bearer":  # RFC 6749 §7.1: others are not to be used
            raise TokenError(f"{url} gave a token that is not a bearer token")
        self._renew(answer.get("refresh_token"))
        lifetime = answer.get("expires_in")
        if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or not 0 < lifetime < 10**9:
            lifetime = LIFETIME
        return Token(value, self._seconds() + max(lifetime - EARLY, lifetime / 2))

    def _renew(self, refresh: object) -> None:
        """RFC 6749 §6: a new refresh token takes the place of the old one, on disk too where we may write there."""
        file = self._grant.refresh
        if file is None or not _is_token(refresh) or refresh == self._refresh:
            return
        try:
            before = file.read()
            if refresh == before:
                return
            self._refresh, self._replaced = refresh, before
            file.write(refresh)
        except SecretError:
            return  # kept in memory for as long as we run


def _is_token(value: object) -> TypeGuard[str]:
    """RFC 6749 §A.12, §A.17: printable ASCII."""
    return isinstance(value, str) and bool(value) and value.isascii() and value.isprintable()


class _Body(Protocol):
    """Gathers an answer, and hangs up where it is too long."""

    transport: Any

    def __init__(self, done: Deferred[bytes]) -> None:
        self._done = done
        self._octets = bytearray()

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        if len(self._octets) > ANSWER_MAX and not self._done.called:
            self._done.errback(TokenError(_TOO_LONG))
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008 - as in Twisted
        if not self._done.called:
            if reason.check(ResponseDone):
                self._done.callback(bytes(self._octets))
            else:
                self._done.errback(TokenError("its answer broke off"))


def _read(response: IResponse) -> Deferred[tuple[int, bytes]]:
    done: Deferred[bytes] = Deferred()
    response.deliverBody(_Body(done))
    return done.addCallback(lambda octets: (response.code, octets))


def _word(text: object) -> str:
    return text[:60] if isinstance(text, str) and text.isascii() and text.isprintable() else ""


def _describe(error: BaseException, stranger: bool) -> str:
    """A short sentence: what the network or the TLS library says, also where twisted.web has wrapped it."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        error = reasons[0].value
    if isinstance(error, (TimeoutError, CancelledError)):
        return "no answer in time"
    if isinstance(error, SSL.Error) and stranger:
        return "the certificate is not for this host"
    text = str(error)
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        text = "; ".join(str(part[-1]) for part in error.args[0] if part)  # [(library, function, reason), ...]
    return " ".join(text.split()).rstrip(".") or type(error).__name__
