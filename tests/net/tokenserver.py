"""An authorization server for tests: real HTTP on loopback, over TLS where a test wants it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class TokenServer(Resource):
    """Gives a token for each request, or whatever `answer` says: a status, a body, or None for silence."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[dict[str, str]] = []
        self.authorizations: list[bytes] = []
        self.answer: Callable[[int], tuple[int, Any] | None] = lambda number: (
            200,
            {"access_token": f"tok-{number}", "token_type": "Bearer", "expires_in": 3600},
        )

    def render_POST(self, request: Any) -> Any:
        """One request."""
        form = parse_qs(request.content.read().decode(), keep_blank_values=True)
        self.forms.append({key: values[0] for key, values in form.items()})
        self.authorizations.append(request.getHeader(b"authorization") or b"")
        answer = self.answer(len(self.forms))
        if answer is None:
            return NOT_DONE_YET
        request.setResponseCode(answer[0])
        return answer[1] if isinstance(answer[1], bytes) else json.dumps(answer[1]).encode()
