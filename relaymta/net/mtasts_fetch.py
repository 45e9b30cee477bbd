"""Fetching one MTA-STS policy from the domain's own web server.

RFC 8461 §3.3 (verified HTTPS, status 200, no redirects, the media type, limits), RFC 8460 §4.3.2.2 (what a failure is
called in reports). When to fetch, and what a failure changes, is left to mtasts.
"""

from __future__ import annotations

from typing import Final

from relaymta.net.https import Https, HttpsError, Trouble
from relaymta.net.mtasts_policy import PolicyError, StsPolicy, parse_policy

PORT: Final = 443
SIZE_MAX: Final = 64 * 1024  # RFC 8461 §3.3, octets
SECONDS: Final = 60.0  # RFC 8461 §3.3

# RFC 8460 §4.3.2.2
FETCH_ERROR: Final = "sts-policy-fetch-error"
INVALID: Final = "sts-policy-invalid"
WEBPKI_INVALID: Final = "sts-webpki-invalid"


class FetchError(Exception):
    """No policy came. `result` is a result type of RFC 8460; the text is a short sentence."""

    def __init__(self, result: str, text: str) -> None:
        super().__init__(text)
        self.result = result


class Fetcher:
    """Fetches policies over `https`; `port` differs in tests alone."""

    def __init__(self, https: Https, *, port: int = PORT, seconds: float = SECONDS) -> None:
        self._https = https
        self._port = port
        self._seconds = seconds

    async def fetch(self, domain: str, ident: str) -> StsPolicy:
        """The policy of `domain` (A-labels), whose record has the id `ident`. Raises FetchError."""
        place = f"mta-sts.{domain}" if self._port == PORT else f"mta-sts.{domain}:{self._port}"
        url = f"https://{place}/.well-known/mta-sts.txt"  # RFC 8461 §3.3
        try:
            page = await self._https.get(url, limit=SIZE_MAX, timeout=self._seconds)
        except HttpsError as error:
            result = WEBPKI_INVALID if error.trouble is Trouble.CERTIFICATE else FETCH_ERROR
            raise FetchError(result, f"{url}: {error}") from None
        if page.status != 200:  # RFC 8461 §3.3: and redirects MUST NOT be followed
            raise FetchError(FETCH_ERROR, f"{url}: status {page.status}")
        if page.media != "text/plain":  # RFC 8461 §3.2: a host for users' files might hold one that is no policy
            raise FetchError(FETCH_ERROR, f"{url}: it is {page.media[:80] or 'of no media type'}, not text/plain")
        try:
            return parse_policy(page.octets, ident)
        except PolicyError as error:
            raise FetchError(INVALID, f"{url}: {error}") from None
