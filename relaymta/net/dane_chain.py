"""Certificates under DANE: the key and the names of one, and a chain that must lead to a given trust anchor.

RFC 5280 (certificates, §6 paths), RFC 7671 §5.2 (DANE-TA), RFC 7672 §3.2 (names), RFC 6125 §6.4 (how they are
compared). No list of public authorities is ever asked here: the anchor is the one that DNS names. Certificates are
octets (DER) at every edge. Which anchors there are is left to net.dane.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import crypto

CHAIN_MAX: Final = 20  # ours: certificates of a presented chain that are looked at
EXPIRED: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_SEQUENCE, _VERSION = 0x30, 0xA0


class CertificateError(ValueError):
    """Octets that are no certificate, or not one that can be read; the text is a sentence."""


class Result(Enum):
    """RFC 8460 §4.3: what the matter was, in the words of its reports."""

    STARTTLS = "starttls-not-supported"
    HOST_MISMATCH = "certificate-host-mismatch"
    EXPIRED = "certificate-expired"
    NOT_TRUSTED = "certificate-not-trusted"
    VALIDATION = "validation-failure"
    TLSA_INVALID = "tlsa-invalid"
    DNSSEC_INVALID = "dnssec-invalid"
    DANE_REQUIRED = "dane-required"


@frozen(slots=True)
class Failure:
    """Why a chain does not hold."""

    result: Result
    text: str


# One certificate


def public_key(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo as it stands in the certificate (RFC 5280 §4.1): selector SPKI(1) means these octets.

    Read by hand, since a library gives keys back as it would write them, and not those of a kind it does not know.
    """
    try:
        inside = _content(certificate, 0, _SEQUENCE)
        end = len(certificate)
        if inside[1] != end:
            raise CertificateError("a certificate with octets behind it")
        start, _ = _content(certificate, inside[0], _SEQUENCE)  # TBSCertificate
        if certificate[start] == _VERSION:
            start = _content(certificate, start, _VERSION)[1]
        for _ in range(5):  # serial number, signature, issuer, validity, subject
            start = _content(certificate, start, certificate[start])[1]
        stop = _content(certificate, start, _SEQUENCE)[1]
    except IndexError:
        raise CertificateError("not a certificate: it ends too early") from None
    return certificate[start:stop]


def _content(octets: bytes, start: int, tag: int) -> tuple[int, int]:
    """Where the content of the value at `start` begins and ends (X.690 §8.1.3)."""
    if octets[start] != tag:
        raise CertificateError("not a certificate")
    length, begin = octets[start + 1], start + 2
    if length & 0x80:
        count = length & 0x7F
        if not 0 < count <= 4:
            raise CertificateError("not a certificate")
        begin += count
        length = int.from_bytes(octets[start + 2 : begin], "big")
    if begin + length > len(octets):
        raise CertificateError("not a certificate: it ends too early")
    return begin, begin + length


def names_of(certificate: bytes) -> tuple[str, ...]:
    """The host names it is for: those of subjectAltName, else its common name (RFC 7672 §3.2.3). Lower case."""
    read = _read(certificate)
    names: list[str] = []
    try:
        names = _extensions(read).get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.DNSName
        )
    except x509.ExtensionNotFound:
        pass
    if not names:
        names = [str(one.value) for one in read.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return tuple(name.lower().rstrip(".") for name in names)


def covers(presented: Iterable[str], wanted: Iterable[str]) -> bool:
    """Whether one of the `presented` names is one of the `wanted` (A-labels, lower case)."""
    wanted = tuple(wanted)
    return any(_covers(pattern, name) for pattern in presented for name in wanted)


def _covers(pattern: str, name: str) -> bool:
    """RFC 6125 §6.4.3: "*" stands for the whole of the first label and for nothing else."""
    if pattern == name:
        return bool(name)
    if not pattern.startswith("*.") or pattern.count(".") < 2 or "*" in pattern[1:]:
        return False
    label, _, rest = name.partition(".")
    return bool(label) and rest == pattern[2:]


# A chain


@frozen(slots=True)
class Anchored:
    """A trust anchor: a certificate (DER), or a bare public key (DER)."""

    octets: bytes
    bare: bool

    @classmethod
    def certificate(cls, octets: bytes) -> Anchored:
        """A certificate is the anchor."""
        return cls(octets, False)

    @classmethod
    def key(cls, octets: bytes) -> Anchored:
        """A key is (RFC 7671 §5.2.2). Raises CertificateError where it cannot be used."""
        _load_key(octets)
        return cls(octets, True)


def verify_chain(chain: Sequence[bytes], anchor: Anchored) -> Failure | None:
    """Whether `chain` (the peer's own certificate first) leads to `anchor` and is in force now (RFC 5280 §6.1).

    Raises CertificateError.
    """
    chain = chain[:CHAIN_MAX]
    top = _signed_by(chain, anchor.octets) if anchor.bare else anchor.octets
    if top is None:
        return Failure(Result.NOT_TRUSTED, "no certificate is signed with the key of the TLSA record")
    try:
        loaded = [crypto.load_certificate(crypto.FILETYPE_ASN1, octets) for octets in chain]
        store = crypto.X509Store()
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # the anchor need not be self-signed (RFC 7671 §5.2)
        store.add_cert(crypto.load_certificate(crypto.FILETYPE_ASN1, top))
        crypto.X509StoreContext(store, loaded[0], loaded[1:]).verify_certificate()
    except crypto.X509StoreContextError as error:
        code, _, text = error.errors
        return Failure(Result.EXPIRED if code in EXPIRED else Result.NOT_TRUSTED, str(text))
    except crypto.Error:
        return Failure(Result.NOT_TRUSTED, "a certificate cannot be read")
    if not _is_for_servers(chain[0]):
        return Failure(Result.NOT_TRUSTED, "the certificate is not for servers")
    return None


def _is_for_servers(certificate: bytes) -> bool:
    """RFC 5280 §4.2.1.12: where the extended key usage is said, it must allow this one."""
    try:
        found = _extensions(_read(certificate)).get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return bool({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(found))


def _signed_by(chain: Sequence[bytes], octets: bytes) -> bytes | None:
    """The certificate that is signed with this key, the nearest to the peer's own; itself trusted by that."""
    key = _load_key(octets)
    for certificate in chain:
        read = _read(certificate)
        try:
            parameters, algorithm = read.signature_algorithm_parameters, read.signature_hash_algorithm
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(read.signature, read.tbs_certificate_bytes, parameters, algorithm)  # type: ignore[arg-type]
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(read.signature, read.tbs_certificate_bytes, parameters)  # type: ignore[arg-type]
            else:
                key.verify(read.signature, read.tbs_certificate_bytes)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
            continue
        return read.public_bytes(Encoding.DER)
    return None


_Key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey


def _load_key(octets: bytes) -> _Key:
    try:
        key = load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError("not a public key that can be used") from None
    if not isinstance(key, _Key):
        raise CertificateError("a key of this kind signs no certificate")
    return key


def _read(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(certificate)
    except ValueError as error:
        raise CertificateError(f"the certificate cannot be read: {error}") from None


def _extensions(certificate: x509.Certificate) -> x509.Extensions:
    try:
        return certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateError(f"the certificate's extensions cannot be read: {error}") from None
