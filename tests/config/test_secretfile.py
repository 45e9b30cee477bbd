"""Secrets in files of their own: read again when they change, and never part of an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relaymta.config.privileges import is_public
from relaymta.config.secretfile import SIZE_MAX, SecretError, SecretFile


def test_a_secret_is_the_one_line_of_its_file(tmp_path: Path) -> None:
    """The line end is no part of it; blanks are."""
    for text, secret in (("s e cret \n", "s e cret "), ("x", "x"), ("x\r\n", "x"), ("pässword\n\n", "pässword")):
        path = tmp_path / f"{len(text)}-{secret.strip()}"
        path.write_text(text, newline="")
        assert SecretFile(str(path)).read() == secret


def test_a_changed_secret_is_read_again(tmp_path: Path) -> None:
    """No reload is needed; an unchanged file is looked at and not opened."""
    path = tmp_path / "secret"
    path.write_text("one\n")
    secret = SecretFile(str(path))
    assert secret.read() == "one"
    os.utime(path, ns=(1, 1))
    path.write_text("three\n")
    assert secret.read() == "three"
    path.unlink()
    with pytest.raises(SecretError, match="No such file"):
        secret.read()


@pytest.mark.parametrize(
    ("octets", "matter"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"a\nb\n", "more than one line"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a\0b", "NUL"),
        (b"x" * (SIZE_MAX + 1), "longer than"),
    ],
)
def test_what_is_no_secret_is_told_without_it(tmp_path: Path, octets: bytes, matter: str) -> None:
    """The error names the file and the matter."""
    path = tmp_path / "secret"
    path.write_bytes(octets)
    with pytest.raises(SecretError, match=matter) as caught:
        SecretFile(str(path)).read()
    assert str(path) in str(caught.value) and "a\nb" not in str(caught.value)


def test_a_secret_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """A reader sees the old one or the new one, and nobody else may read it."""
    path = tmp_path / "secret"
    path.write_text("old\n")
    path.chmod(0o644)
    assert is_public(str(path))
    secret = SecretFile(str(path))
    secret.write("new")
    assert secret.read() == "new" and path.stat().st_mode & 0o777 == 0o600 and not is_public(str(path))
    assert [one.name for one in tmp_path.iterdir()] == ["secret"]
    with pytest.raises(SecretError, match="cannot be written"):
        SecretFile("/nowhere/secret").write("x")
    assert not is_public("/nowhere/secret") and "new" not in repr(secret)
