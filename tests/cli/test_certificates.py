"""relaymta check, and the certificates that a configuration names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relaymta.cli.main import main
from tests.net.certificates import make


def configuration(folder: Path, certificate: str, key: str) -> str:
    """A file with a listener that speaks TLS; [tls] is its line 8."""
    path = folder / "relaymta.toml"
    path.write_text(
        f'hostname = "relay.example.org"\nuser = ""\nspool = "{folder}/spool"\nephemeral_spool = true\n'
        '[[listener]]\naddress = "127.0.0.1:2525"\ntls = "starttls"\n'
        f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n[queue]\nmin_free = "1B"\n'
    )
    return str(path)


def test_check_warns_before_a_certificate_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning with file and line, and still exit 0; as JSON too."""
    certificate, key = make("relay.example.org", days=5.5).write(tmp_path, "a")
    file = configuration(tmp_path, certificate, key)
    assert main(["-c", file, "check"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"warning: {file}:9: tls.certificate: {certificate} expires on ")
    assert said.err.endswith(", in 5 days\n") and said.out == f"{file} is right\n"
    assert main(["-c", file, "check", "--json"]) == 0
    [row] = map(json.loads, capsys.readouterr().out.splitlines())
    assert (row["severity"], row["key"], row["line"]) == ("warning", "tls.certificate", 9)


def test_check_refuses_a_key_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, at the line of the key."""
    certificate, _ = make("relay.example.org").write(tmp_path, "a")
    _, key = make("relay.example.org", kind="ec-other").write(tmp_path, "b")
    file = configuration(tmp_path, certificate, key)
    assert main(["-c", file, "check"]) == 1
    assert f"{file}:10: tls.key: {key}: is not the key of {certificate}" in capsys.readouterr().err
