"""What `check` says of certificates, before the daemon needs them."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relaymta.net.certificates import CertificateSettings, TlsSettings, doubts, refusals
from tests.net.certificates import make

NOW = time.time()


def said(tls: TlsSettings, *more: CertificateSettings, authorities: tuple[tuple[str, str], ...] = ()) -> list[str]:
    """All refusals."""
    return [f"{key}: {text}" for key, text in refusals(tls, more, authorities, "")]


def test_what_is_right_is_not_spoken_of(tmp_path: Path) -> None:
    """A month left, a key of one's own: no refusal, no doubt; and nothing where nothing is configured."""
    tls = TlsSettings(*make("a.example").write(tmp_path, "a"))
    assert said(tls) == [] and list(doubts(tls, (), NOW)) == []
    assert said(TlsSettings()) == [] and list(doubts(TlsSettings(), (), NOW)) == []


def test_a_refusal_has_the_key_of_the_file_that_is_wrong(tmp_path: Path) -> None:
    """Of several pairs each is looked at, and so is the file of client authorities."""
    good = make("a.example").write(tmp_path, "a")
    other = make("b.example", kind="ec-other").write(tmp_path, "b")
    found = said(
        TlsSettings(good[0], other[1]),
        CertificateSettings(*other),
        CertificateSettings(str(tmp_path / "none"), other[1]),
        authorities=(("listener[0].tls_client_ca", other[1]),),
    )
    assert found == [
        f"tls.key: {other[1]}: is not the key of {good[0]}",
        f"certificate[1].certificate: {tmp_path}/none: cannot be read: No such file or directory",
        f"listener[0].tls_client_ca: {other[1]}: holds no certificate in PEM",
    ]


@pytest.mark.parametrize(
    ("days", "since", "text"),
    [
        (-2, -9, "expired on "),
        (13.5, -1, ", in 13 days"),
        (1.5, -1, ", in 1 day"),
        (30, 2, "is not valid before "),
    ],
)
def test_an_end_that_is_near_is_a_doubt(tmp_path: Path, days: float, since: float, text: str) -> None:
    """Within fourteen days and behind it, `check` warns; so it does of one that has not begun."""
    [(key, doubt)] = doubts(TlsSettings(*make("a.example", days=days, since=since).write(tmp_path, "a")), (), NOW)
    assert key == "tls.certificate" and text in doubt


def test_a_key_that_everybody_may_read_is_a_doubt(tmp_path: Path) -> None:
    """Also where it is in the certificate's file."""
    made = make("a.example")
    certificate, key = made.write(tmp_path, "a", mode=0o644)
    both = tmp_path / "both.pem"
    both.write_bytes(made.pem + made.key_pem)
    both.chmod(0o604)
    found = list(doubts(TlsSettings(certificate, key), (CertificateSettings(str(both)),), NOW))
    assert [one for one, _ in found] == ["tls.key", "certificate[0].certificate"]
    assert all("everybody may read it" in text for _, text in found)


def test_a_certificate_for_nobody_is_a_doubt(tmp_path: Path) -> None:
    """A second one that names nobody would never be shown."""
    first, second = make("a.example").write(tmp_path, "a"), make(common_name="").write(tmp_path, "b")
    [(key, text)] = doubts(TlsSettings(*first), (CertificateSettings(*second),), NOW)
    assert key == "certificate[0].certificate" and "names nobody" in text


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes somebody else")
def test_what_the_daemons_user_may_not_read_is_told_while_we_are_root(tmp_path: Path) -> None:
    """A daemon that reads a key as root could not read its successor: refused at once, with what to do."""
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        pytest.skip("there is no user nobody")
    certificate, key = make("a.example").write(tmp_path, "a")
    for folder in [tmp_path, *tmp_path.parents][:-2]:
        folder.chmod(0o755)
    [(where, text)] = refusals(TlsSettings(certificate, key), (), (), "nobody")
    assert where == "tls.key"
    assert "cannot be read by the user nobody, who the daemon is: give it to a group of that user" in text
    assert f"(chgrp {grp.getgrgid(nobody.pw_gid).gr_name} {key}; chmod 640 {key})" in text
    os.chown(key, -1, nobody.pw_gid)
    os.chmod(key, 0o640)
    assert list(refusals(TlsSettings(certificate, key), (), (), "nobody")) == []
    tmp_path.chmod(0o700)
    assert [where for where, _ in refusals(TlsSettings(certificate, key), (), (), "nobody")] == ["tls.certificate"]


def test_an_operator_who_may_not_read_the_key_is_told_so(tmp_path: Path) -> None:
    """`check` by somebody else than root or the daemon's user cannot say that it is wrong: a doubt."""
    program = """
import os, sys
from relaymta.net.certificates import TlsSettings, doubts, refusals
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
tls = TlsSettings(*sys.argv[1:])
for user in ("bin", "nobody", ""):
    print([key for key, _ in refusals(tls, (), (), user)], [key for key, _ in doubts(tls, (), 0.0, user)])
"""
    if os.getuid() != 0:
        pytest.skip("only root becomes somebody else")
    if pwd.getpwnam("nobody").pw_uid != 65534:
        pytest.skip("nobody is somebody here")
    certificate, key = make("a.example").write(tmp_path, "a")
    for folder in [tmp_path, *tmp_path.parents][:-2]:
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", program, certificate, key], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines() == ["[] ['tls.key']", "['tls.key'] []", "['tls.key'] []"]
