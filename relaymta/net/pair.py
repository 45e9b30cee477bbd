"""A certificate with its key, read from files: whom it names, until when, and whether the two belong together.

RFC 5280 §4.2.1.6 (subjectAltName), RFC 6125 §6.4 (what a name in a certificate covers). Which pair a client is shown
is left to net.keyring, the handshake to net.servertls.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from relaymta.config.privileges import to_let_in

FILE_MAX = 1 << 20  # octets of a PEM file; ours: a chain has a few thousand, a bundle of authorities some 200,000
_KEY = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL)
_KINDS = {
    rsa.RSAPrivateKey: "RSA",
    ec.EllipticCurvePrivateKey: "ECDSA",
    ed25519.Ed25519PrivateKey: "Ed25519",
    ed448.Ed448PrivateKey: "Ed448",
    dsa.DSAPrivateKey: "DSA",
}


class CertificateError(OSError):
    """A certificate or key that cannot be used: `file`, and `reason` for the operator. `denied`: we may not read it."""

    def __init__(self, file: str, reason: str, *, denied: bool = False) -> None:
        super().__init__(errno.EINVAL, reason)
        self.file = file
        self.reason = reason
        self.denied = denied

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@frozen(slots=True, eq=False)
class Pair:
    """One certificate with the chain behind it, and its key. All names are lower case, "*." may stand before one.

    `file` is the certificate's; `kind` the key's ("RSA", "ECDSA", ...); `since` and `until` are POSIX time.
    """

    file: str
    chain: tuple[x509.Certificate, ...]
    key: Any
    kind: str
    names: tuple[str, ...]
    since: float
    until: float

    def load_into(self, context: SSL.Context) -> None:
        """Add it to the certificates of a context, with its own chain. Raises SSL.Error."""
        octets = b"".join(one.public_bytes(Encoding.PEM) for one in self.chain)
        with _as_file(octets) as path:  # the library knows no other way to give each certificate a chain of its own
            context.use_certificate_chain_file(path)
        context.use_privatekey(self.key)
        context.check_privatekey()

    def covers(self, name: str) -> bool:
        """Whether it names `name` (lower-case A-labels)."""
        return any(_covers(one, name) for one in self.names)


def read_pair(certificate: str, key: str, names: Iterable[str] = ()) -> Pair:
    """Read a pair from its files; `names` in place of those that stand in the certificate. Raises CertificateError.

    `key` may be "", or the same file.
    """
    chain = tuple(read_certificates(certificate))
    found = _read_key(key or certificate)
    if _public(found) != _public(chain[0]):
        later = any(_public(found) == _public(one) for one in chain[1:])
        hint = ": our own certificate must be the first in that file" if later else ""
        raise CertificateError(key or certificate, f"is not the key of {certificate}{hint}")
    leaf = chain[0]
    kind = next((word for cls, word in _KINDS.items() if isinstance(found, cls)), "")
    since, until = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    called = tuple(name.lower() for name in names) or tuple(dict.fromkeys(dns_names(leaf)))
    pair = Pair(certificate, chain, found, kind, called, since, until)
    try:
        pair.load_into(SSL.Context(SSL.TLS_SERVER_METHOD))
    except SSL.Error as error:  # such as a key that is too short for this library
        raise CertificateError(certificate, f"is refused by OpenSSL: {ssl_reason(error)}") from None
    return pair


def read_certificates(file: str) -> list[x509.Certificate]:
    """All certificates of a PEM file, at least one. Raises CertificateError."""
    octets = _read(file)
    try:
        return x509.load_pem_x509_certificates(octets)
    except ValueError:
        raise CertificateError(file, "holds no certificate in PEM") from None


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256, in lower-case hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def dns_names(certificate: x509.Certificate) -> list[str]:
    """The DNS names of its subjectAltName; its common name where it has none (RFC 6125 §6.4.4)."""
    found = alternatives(certificate)
    if found is not None:
        names = found.get_values_for_type(x509.DNSName)
        if names:
            return [name.lower() for name in names]
    return [name.lower() for name in common_names(certificate)]


def all_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """DNS names and mailboxes of its subjectAltName, as they stand there; its common name where there is none."""
    found = alternatives(certificate)
    if found is None:
        return tuple(common_names(certificate))
    names = (*found.get_values_for_type(x509.DNSName), *found.get_values_for_type(x509.RFC822Name))
    return tuple(dict.fromkeys(names)) or tuple(common_names(certificate))


def common_names(certificate: x509.Certificate) -> list[str]:
    """Its common name, in a list, or nothing."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [str(one.value) for one in found[-1:]]


def ssl_reason(error: BaseException) -> str:
    """What OpenSSL says, in words."""
    said = error.args[0] if error.args else ""
    if isinstance(said, list):
        return "; ".join(str(one[-1]) for one in said) or "no reason given"
    return str(said) or "no reason given"


def _covers(pattern: str, name: str) -> bool:
    """RFC 6125 §6.4.3: a "*" is the whole of the left-most label, and stands for one label."""
    if not pattern.startswith("*."):
        return pattern == name
    label, _, parent = name.partition(".")
    return bool(label) and parent == pattern[2:]


def alternatives(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    """Its subjectAltName; None without one that can be read."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *_UNREADABLE):  # an extension that cannot be read names nobody
        return None


_UNREADABLE = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


def _read(file: str) -> bytes:
    try:
        with open(file, "rb") as stream:
            octets = stream.read(FILE_MAX + 1)
    except PermissionError:
        raise denied(file, _ourselves()) from None
    except OSError as error:
        raise CertificateError(file, f"cannot be read: {error.strerror}") from None
    if len(octets) > FILE_MAX:
        raise CertificateError(file, "is too large for a PEM file")
    return octets


def denied(file: str, user: str) -> CertificateError:
    """What is said of a file that the daemon's user may not read."""
    return CertificateError(
        file,
        f"cannot be read by the user {user}, who the daemon is: give it to a group of that user and make it"
        f" readable ({to_let_in(user, file)}), and let the user into the directories above it",
        denied=True,
    )


def _ourselves() -> str:
    """The name of who we are, or the number where it has none (in a container)."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _read_key(file: str) -> Any:
    found = _KEY.search(_read(file))
    if found is None:
        raise CertificateError(file, "holds no private key in PEM")
    try:
        return load_pem_private_key(found[0], None)
    except TypeError:
        raise CertificateError(file, "is encrypted; a key without a pass phrase is wanted") from None
    except Exception:  # noqa: BLE001 - whatever the library says of it: it must not be shown, and it is no key
        raise CertificateError(file, "holds a private key that cannot be read") from None


def _public(side: Any) -> bytes:
    """The public key of a certificate or of a private key."""
    octets: bytes = side.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return octets


@contextmanager
def _as_file(octets: bytes) -> Iterator[str]:
    """A file in memory, for a library that takes nothing but files."""
    descriptor = os.memfd_create("chain.pem")
    try:
        os.write(descriptor, octets)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
