"""What a message must say before it leaves for the world, and what it must not: for mail of our own people.

RFC 6409 §8.2 (Date), §8.3 (Message-ID), RFC 5322 §3.6 (how often a field may stand), §3.6.3 (Bcc). Pure: the answer
is a list of edits, so that no octet changes that none of them names. Addresses without a domain are not completed, for
nobody but the sender knows which one is meant; who may send as whom is left to policy.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

from relaymta.mail.address import Address, AddressError, parse_mailbox
from relaymta.mail.addresslist import AddressListError, asides, has_route, mailboxes
from relaymta.mail.message import Edit, Prepend, Remove, count, fields, find

_HIDDEN = (b"bcc", b"resent-bcc")
_AUTHORS = frozenset((b"from", b"sender"))
_CONTROL = re.compile(r"[\0-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")  # RFC 5322 §4.1: obsolete at the best
_ANGLES = re.compile(r"<([^<>@]*@[^<>]*)>")
_ENCODED = re.compile(r"=\?[^?\s]*\?([bq])\?([^?\s]*)\?=", re.IGNORECASE)  # RFC 2047 §2


class AuthorError(ValueError):
    """A header section that does not say clearly whose message it is; the text is one short sentence."""


def completions(header: bytes, *, date: str, message_id: str) -> list[Edit]:
    """What is to be changed in a submitted message's header section; nothing where nothing is wrong.

    `date` (RFC 5322 §3.3) and `message_id` (without angle brackets) are for a message that has none, or an empty one.
    """
    edits: list[Edit] = []
    for name in _HIDDEN:
        if count(header, name):  # RFC 5322 §3.6.3: the recipients must not learn of each other
            edits.append(Remove(name))
    for name, field in (
        (b"message-id", f"Message-ID: <{message_id}>"),  # RFC 6409 §8.3
        (b"date", f"Date: {date}"),  # RFC 6409 §8.2
    ):
        found = find(header, name)
        if found is None or not (found.value or any(one.value for one in fields(header) if one.name == name)):
            if found is not None:
                edits.append(Remove(name))
            edits.append(Prepend(field.encode("ascii") + b"\r\n"))
    return edits


def authors(header: bytes) -> tuple[Address, ...]:
    """Whom the message says that it is from: the mailboxes of From and, where it stands, of Sender. Raises AuthorError.

    As strict as it can be: what two readers could read in two ways is refused, since one of them would be deceived.
    "<user@example.org>" in a name or a comment counts as one of the mailboxes, for there are readers that take it.
    """
    found: dict[bytes, str] = {}
    for field in fields(header):
        if not field.name:  # some take it for the end of the section, and others do not
            raise AuthorError("a line of the header section is no field")
        if field.name not in _AUTHORS:
            continue
        name = field.name.decode().capitalize()
        if field.name in found:  # RFC 5322 §3.6: at most one
            raise AuthorError(f"there is more than one {name} field")
        try:
            found[field.name] = field.value.decode()  # RFC 6532 §3.2
        except UnicodeDecodeError:
            raise AuthorError(f"the {name} field is not UTF-8") from None
    if b"from" not in found:
        raise AuthorError("there is no From field")
    listed = {name: _addresses(name.decode().capitalize(), text) for name, text in found.items()}
    if len(listed.get(b"sender", ())) > 1:  # RFC 5322 §3.6.2
        raise AuthorError("the Sender field names more than one")
    return tuple(dict.fromkeys(address for addresses in listed.values() for address in addresses))


def _addresses(name: str, text: str) -> tuple[Address, ...]:
    if _CONTROL.search(text):  # some end the field there, or leave the octet out
        raise AuthorError(f"the {name} field has a control character")
    try:
        addresses = tuple(parse_mailbox(one) for one in mailboxes(text))
        if has_route(text):  # some take the route's host for the sender's
            raise AuthorError(f"the {name} field has an address with a route")
        seeming = tuple(parse_mailbox(one) for aside in asides(text) for one in _ANGLES.findall(_decoded(aside)))
    except (AddressListError, AddressError):
        raise AuthorError(f"the {name} field is not a list of addresses") from None
    if not addresses:
        raise AuthorError(f"the {name} field names nobody")
    if any("=?" in one.local for one in addresses):  # RFC 2047 §5: some decode it there, and see another address
        raise AuthorError(f"the {name} field has an encoded word in an address")
    return addresses + seeming


def _decoded(text: str) -> str:
    """A name as it is shown, as far as ASCII goes."""
    return "".join(_pieces(text))


def _pieces(text: str) -> Iterator[str]:
    at = 0
    for word in _ENCODED.finditer(text):
        yield text[at : word.start()]
        at, octets = word.end(), word[2].encode()
        try:
            octets = binascii.a2b_base64(octets) if word[1] in "Bb" else binascii.a2b_qp(octets, header=True)
        except ValueError:
            pass  # as it stands
        yield octets.replace(b"\0", b"").decode("latin-1")  # UTF-16 has NULs around ASCII
    yield text[at:]
