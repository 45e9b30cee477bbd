"""The TLS-Required field: a sender's word that getting through matters more than TLS.

RFC 8689 §3 (the field), §4.1 (what it tells the server that takes the message). What follows is left to delivery.
"""

from __future__ import annotations

from relaymta.mail.message import count, find

_NAME = b"tls-required"


def tls_optional(header: bytes) -> bool:
    """Whether "TLS-Required: No" stands in the header section, once; whatever else stands there asks for nothing."""
    if _NAME not in header.lower():  # nearly always, and the cheapest way to know
        return False
    found = find(header, _NAME)
    return found is not None and count(header, _NAME) == 1 and found.value.lower() == b"no"
