"""A certificate and its key, read from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from relaymta.net.pair import CertificateError, all_names, read_pair
from tests.net.certificates import key_of, make, naming


def encrypted_key() -> bytes:
    """A key behind a pass phrase."""
    octets: bytes = key_of("ec").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    return octets


def test_a_pair_says_whom_it_names_and_until_when(tmp_path: Path) -> None:
    """Names are those of the subjectAltName, in lower case, and not the subject's (RFC 6125 §6.4.4)."""
    made = make("Relay.Example.org", "*.mx.example.org", common_name="other.example")
    pair = read_pair(*made.write(tmp_path, "a"))
    assert pair.names == ("relay.example.org", "*.mx.example.org") and pair.kind == "ECDSA"
    assert pair.until == made.certificate.not_valid_after_utc.timestamp()


def test_names_may_be_given_in_place_of_its_own(tmp_path: Path) -> None:
    """What the configuration says goes before what stands in the certificate."""
    assert read_pair(*make("a.example").write(tmp_path, "a"), ["B.example"]).names == ("b.example",)


def test_without_alternatives_the_common_name_counts(tmp_path: Path) -> None:
    """As a last resort (RFC 6125 §6.4.4)."""
    assert read_pair(*make(common_name="Old.example").write(tmp_path, "a")).names == ("old.example",)


def test_certificate_and_key_may_share_a_file(tmp_path: Path) -> None:
    """In any order, with parameters and comments between them."""
    made = make("a.example", kind="rsa")
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    for octets in (made.pem + made.key_pem, b"# key\n" + parameters + made.key_pem + made.pem):
        (tmp_path / "both.pem").write_bytes(octets)
        assert read_pair(str(tmp_path / "both.pem"), "").kind == "RSA"


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (None, lambda: make().key_pem, "a.pem: cannot be read: No such file or directory"),
        (lambda: make().pem, None, "a.key: cannot be read: No such file or directory"),
        (lambda: b"nonsense", lambda: make().key_pem, "a.pem: holds no certificate in PEM"),
        (lambda: make().key_pem, lambda: make().key_pem, "a.pem: holds no certificate in PEM"),
        (lambda: make().pem[:200], lambda: make().key_pem, "a.pem: holds no certificate in PEM"),
        (lambda: make().pem, lambda: make().pem, "a.key: holds no private key in PEM"),
        (lambda: make().pem, lambda: b"", "a.key: holds no private key in PEM"),
        (lambda: make().pem, encrypted_key, "a.key: is encrypted; a key without a pass phrase is wanted"),
        (
            lambda: make().pem,
            lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "a.key: holds a private key that cannot be read",
        ),
        (lambda: make().pem, lambda: make(kind="ec-other").key_pem, "a.key: is not the key of"),
        (lambda: b"x" * 2_000_000, lambda: make().key_pem, "a.pem: is too large for a PEM file"),
        (
            lambda: make(kind="rsa-1024").pem,
            lambda: make(kind="rsa-1024").key_pem,
            "a.pem: is refused by OpenSSL: ee key too small",
        ),
        (
            lambda: make(kind="rsa", ca=True).pem + make().pem,
            lambda: make().key_pem,
            ": our own certificate must be the first in that file",
        ),
    ],
)
def test_what_cannot_be_used_is_told_with_its_file(
    tmp_path: Path, certificate: Callable[[], bytes] | None, key: Callable[[], bytes] | None, said: str
) -> None:
    """One sentence that says which file and what is wrong, and never what is in a key."""
    for name, content in (("a.pem", certificate), ("a.key", key)):
        if content is not None:
            (tmp_path / name).write_bytes(content())
    with pytest.raises(CertificateError) as caught:
        read_pair(str(tmp_path / "a.pem"), str(tmp_path / "a.key"))
    assert said in str(caught.value) and "AAAA" not in str(caught.value)
    assert caught.value.file in (str(tmp_path / "a.pem"), str(tmp_path / "a.key"))


def test_a_wildcard_stands_for_one_label() -> None:
    """RFC 6125 §6.4.3: not for none, not for two, and only as a whole left-most label."""
    from relaymta.net.pair import _covers

    assert _covers("*.example.org", "a.example.org")
    for name in ("example.org", "a.b.example.org", "a.example.org.evil", ".example.org"):
        assert not _covers("*.example.org", name)
    assert not _covers("m*.example.org", "mx.example.org")


def test_names_that_cannot_be_read_are_no_bug() -> None:
    """Those of kinds that no library takes, and octets that are none: the common name is left."""
    for octets in (b"\x30\x02\xa5\x00", b"\x30\x03\x82\x01\xff", b"junk"):
        assert all_names(naming(octets).certificate) == ("test",)


def test_a_client_certificate_has_names_and_mailboxes() -> None:
    """DNS names and mailboxes of the subjectAltName, else the common name."""
    assert all_names(make("App.example.org", "ops@example.org", common_name="x").certificate) == (
        "App.example.org",
        "ops@example.org",
    )
    assert all_names(make(common_name="app").certificate) == ("app",)
