"""OAuth 2.0 access tokens, introspected: their issuer is asked what each is worth.

RFC 7662; our own secret by RFC 6749 §2.3.1, over HTTPS whose certificate and name are verified, or over plain HTTP to
this host alone. A yes is remembered for a minute, and never longer than its token lives.
"""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import Any
from urllib.parse import quote_plus, urlencode

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, FileBodyProducer, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from relaymta.directory.authorities import authorities
from relaymta.directory.credentials import DirectoryUnavailableError
from relaymta.directory.names import account_name
from relaymta.directory.patience import within
from relaymta.directory.remembered import Remembered
from relaymta.directory.settings import OAuthSettings
from relaymta.trust import VerifyingPolicy, believing

REMEMBER = 60.0  # seconds that a yes is remembered; ours
ANSWER_MAX = 65_536  # octets of an answer; ours
TOKEN_MAX = 16_384  # characters of a token; ours, above what any issuer makes
QUESTIONS = 20  # under way at the same time, of each process; ours
WAITING = 200


class Introspection:
    """Asks the endpoint of `settings`; `secret` is our own there, "" for none. Raises OSError, ValueError.

    `seconds` of the reactor is POSIX time, as every reactor's but a test's is.
    """

    def __init__(self, settings: OAuthSettings, secret: str, reactor: Any) -> None:
        self._settings = settings
        self.rights = settings.rights
        self._reactor = reactor
        self._options = believing(authorities(settings.ca_file))
        self._places = DeferredSemaphore(QUESTIONS)
        self._known: Remembered[str] = Remembered(reactor.seconds)
        headers = {"Accept": ["application/json"], "Content-Type": ["application/x-www-form-urlencoded"]}
        if settings.client_id:  # RFC 6749 §2.3.1: both are form-encoded first
            pair = f"{quote_plus(settings.client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = [f"Basic {base64.b64encode(pair.encode()).decode()}"]
        self._headers = Headers(headers)

    def claimed(self, token: str) -> Deferred[str | None]:
        """The prepared name that a token is for; None when it is nobody's, or not any more."""
        return within(self._settings.timeout, Deferred.fromCoroutine(self._claimed(token)), self._reactor, "oauth")

    def close(self) -> None:
        """Connections end with their question."""
        self._known.clear()

    async def _claimed(self, token: str) -> str | None:
        if not token or len(token) > TOKEN_MAX:
            return None
        known = self._known.get(token.encode())
        if known is not None:
            return known
        if len(self._places.waiting) >= WAITING:
            raise DirectoryUnavailableError("oauth: too many at once")
        said = await self._places.run(lambda: Deferred.fromCoroutine(self._ask(token)))
        now = self._reactor.seconds()
        name, until = self._judged(said, now)
        if name is not None:
            self._known.put(name, min(REMEMBER, until - now), token.encode())
        return name

    def _judged(self, said: dict[str, Any], now: float) -> tuple[str | None, float]:
        """Whose token this is, and until when (RFC 7662 §2.2). Raises DirectoryUnavailableError."""
        settings = self._settings
        if said.get("active") is not True:
            return None, now
        until, since = (said.get(key, default) for key, default in (("exp", now + REMEMBER), ("nbf", now)))
        if not isinstance(until, (int, float)) or not isinstance(since, (int, float)):
            raise DirectoryUnavailableError("oauth: the answer has a time that is none")
        if until <= now or since > now:
            return None, now
        if settings.scope and settings.scope not in str(said.get("scope", "")).split():
            return None, now
        audience = said.get("aud", [])
        if settings.audience and settings.audience not in (audience if isinstance(audience, list) else [audience]):
            return None, now
        claim = said.get(settings.claim)
        if not isinstance(claim, str) or not claim:
            raise DirectoryUnavailableError(f'oauth: the answer has no "{settings.claim}"')
        try:
            return account_name(claim), until
        except ValueError:
            return None, now

    async def _ask(self, token: str) -> dict[str, Any]:
        form = urlencode({"token": token, "token_type_hint": "access_token"}).encode()  # RFC 7662 §2.1
        policy = VerifyingPolicy(self._options)
        agent = Agent(self._reactor, contextFactory=policy, connectTimeout=self._settings.timeout)
        try:
            response: IResponse = await agent.request(
                b"POST",
                self._settings.introspection_url.encode(),
                self._headers,
                FileBodyProducer(BytesIO(form)),
            )
            if response.code != 200:  # RFC 7662 §2.3: 401 is about us, and an unknown token is a 200
                response.deliverBody(_Body())  # lets the connection end
                raise DirectoryUnavailableError(f"oauth: the answer was {response.code}")
            body = _Body()
            response.deliverBody(body)
            answer = json.loads(await body.whole, parse_constant=_no_number)  # a token until NaN would never end
        except (DirectoryUnavailableError, CancelledError):
            raise
        except (ValueError, RecursionError):
            raise DirectoryUnavailableError("oauth: the answer is not JSON") from None
        except Exception as error:  # noqa: BLE001 whatever connections and TLS can come to: we could not ask
            said = "the certificate is not for this host" if policy.stranger else _reason(error)
            raise DirectoryUnavailableError(f"oauth: {said}") from None
        if not isinstance(answer, dict):
            raise DirectoryUnavailableError("oauth: the answer is not a JSON object")
        return answer


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


class _Body(Protocol):
    """Gathers the body of an answer, up to a size; `whole` fires with it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.whole: Deferred[bytes] = Deferred(lambda _: self._abort())

    def dataReceived(self, data: bytes) -> None:
        """A piece."""
        self._size += len(data)
        if self._size > ANSWER_MAX:
            self._abort()
        else:
            self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end of it."""
        if self.whole.called:
            return
        if self._size > ANSWER_MAX:
            self.whole.errback(DirectoryUnavailableError("oauth: the answer is too large"))
        elif reason.check(ResponseDone, PotentialDataLoss, ConnectionDone) is not None:
            self.whole.callback(b"".join(self._parts))
        else:
            self.whole.errback(reason)

    def _abort(self) -> None:
        abort = getattr(self.transport, "abortConnection", None)
        if abort is not None:
            abort()


def _reason(error: Exception) -> str:
    """What a failure of the connection says; a TLS failure hides in `reasons`."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        error = reasons[0].value
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
