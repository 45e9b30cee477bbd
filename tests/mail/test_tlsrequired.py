"""The TLS-Required field is obeyed where it is clear, and ignored where it is not."""

from __future__ import annotations

import pytest

from relaymta.mail.tlsrequired import tls_optional


@pytest.mark.parametrize("field", [b"TLS-Required: No", b"tls-required:no", b"TLS-REQUIRED :\r\n NO "])
def test_no_means_no(field: bytes) -> None:
    """RFC 8689 §3: the one value there is, in whatever case."""
    assert tls_optional(b"From: a@x.example\r\n" + field + b"\r\nTo: b@y.example\r\n\r\n")


@pytest.mark.parametrize(
    "header",
    [
        b"From: a@x.example\r\n\r\n",
        b"TLS-Required: Yes\r\n\r\n",
        b"TLS-Required:\r\n\r\n",
        b"TLS-Required: No, really\r\n\r\n",
        b"TLS-Required: No\r\nTLS-Required: No\r\n\r\n",
        b"TLS-Required: No\r\nTLS-Required : Yes\r\n\r\n",
        b"X-TLS-Required: No\r\n\r\n",
        b"Subject: x\r\n TLS-Required: No\r\n\r\n",
        b"Subject: x\r\n\r\nTLS-Required: No\r\n",
        b"\r\nTLS-Required: No\r\n",
        b"",
    ],
)
def test_anything_else_asks_for_nothing(header: bytes) -> None:
    """Another value, a field twice, in a body or in a folded line lowers no protection."""
    assert not tls_optional(header)
