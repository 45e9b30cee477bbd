"""Which certificate is shown to whom, and what happens when files change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from relaymta.net.keyring import LOOK_SECONDS, Keyring, Shelf, Sources
from relaymta.net.pair import CertificateError, Pair, read_pair
from relaymta.net.watched import Watched
from tests.net.certificates import Made, make


def pair(folder: Path, name: str, made: Made) -> Pair:
    """A pair that was written and read."""
    return read_pair(*made.write(folder, name))


# Choice


def test_a_client_gets_the_certificate_that_it_asks_for(tmp_path: Path) -> None:
    """By exact name, by wildcard for one label, and the first for everybody else (RFC 6066 §3)."""
    first = pair(tmp_path, "a", make("a.example"))
    second = pair(tmp_path, "b", make("b.example", "*.wild.example"))
    shelf = Shelf.of([first, second])
    assert shelf.default == (first,)
    for name in ("b.example", "B.Example", "b.example.", "x.wild.example"):
        assert shelf.find(name) == (second,)
    for name in ("a.example", "", "wild.example", "x.y.wild.example", "stranger.example", "\ufffd", "."):
        assert shelf.find(name) == (first,)


def test_an_exact_name_goes_before_a_wildcard(tmp_path: Path) -> None:
    """Of two pairs of one kind the one that names the client's wish is shown, whatever their order."""
    wild = pair(tmp_path, "wild", make("*.example.org"))
    exact = pair(tmp_path, "exact", make("mail.example.org"))
    assert Shelf.of([exact, wild]).find("mail.example.org") == (exact,)
    assert Shelf.of([wild, exact]).find("mail.example.org") == (exact,)


def test_kinds_of_key_stand_beside_each_other(tmp_path: Path) -> None:
    """RSA and ECDSA for one name are both put up, also for who names nobody; two of one kind are not."""
    ec = pair(tmp_path, "ec", make("a.example"))
    rsa = pair(tmp_path, "rsa", make("a.example", "c.example", kind="rsa"))
    other = pair(tmp_path, "other", make("b.example", kind="rsa"))
    again = pair(tmp_path, "again", make("a.example", kind="ec-other"))
    shelf = Shelf.of([ec, rsa, other, again])
    assert shelf.default == (ec, rsa) == shelf.find("a.example")
    assert shelf.find("b.example") == (other,) and shelf.find("c.example") == (rsa,)


# Change


class Desk:
    """A keyring on a Clock, with what it told."""

    def __init__(self, *files: tuple[str, str], authorities: tuple[str, ...] = ()) -> None:
        self.clock = Clock()
        self.loaded: list[str] = []
        self.refused: list[str] = []
        self.keyring = Keyring(
            [Sources(*one) for one in files],
            authorities,
            self.clock.callLater,
            on_loaded=lambda file, names, until: self.loaded.append(os.path.basename(file)),
            on_refused=lambda error: self.refused.append(os.path.basename(str(error))),
        )

    def wait(self, looks: int = 1) -> None:
        """Let it look so many times."""
        for _ in range(looks):
            self.clock.advance(LOOK_SECONDS)

    @property
    def numbers(self) -> list[int]:
        """The serial numbers of what is in force."""
        return [one.chain[0].serial_number for one in self.keyring.shelf.pairs]


def test_new_files_are_in_force_at_the_next_look(tmp_path: Path) -> None:
    """A renewal needs no restart and no command; files that stay are not read again."""
    old, new = make("a.example"), make("a.example")
    desk = Desk(old.write(tmp_path, "a"))
    desk.wait(3)
    assert desk.loaded == [] and desk.numbers == [old.certificate.serial_number]
    new.write(tmp_path, "a")
    desk.wait()
    assert desk.loaded == ["a.pem"] and desk.numbers == [new.certificate.serial_number]
    assert desk.refused == []


def test_a_link_that_moves_is_a_change(tmp_path: Path) -> None:
    """As certbot renews: the name stays, what it leads to is another file."""
    old, new = make("a.example"), make("a.example", kind="ec-other")
    for folder, made in (("1", old), ("2", new)):
        made.write(tmp_path / folder, "a")
    (tmp_path / "live").symlink_to(tmp_path / "1")
    desk = Desk((str(tmp_path / "live" / "a.pem"), str(tmp_path / "live" / "a.key")))
    (tmp_path / "next").symlink_to(tmp_path / "2")
    (tmp_path / "next").replace(tmp_path / "live")
    desk.wait()
    assert desk.numbers == [new.certificate.serial_number] and desk.loaded == ["a.pem"]


def test_a_pair_that_does_not_match_never_replaces_one_that_does(tmp_path: Path) -> None:
    """The old one stays, it is told once, and the right key mends it."""
    old, new = make("a.example"), make("a.example", kind="ec-other")
    certificate, key = old.write(tmp_path, "a")
    desk = Desk((certificate, key))
    Path(certificate).write_bytes(new.pem)
    desk.wait(5)
    assert desk.refused == [f"a.key: is not the key of {certificate}".rpartition("/")[2]]
    assert desk.numbers == [old.certificate.serial_number] and desk.loaded == []
    Path(key).write_bytes(new.key_pem)
    desk.wait()
    assert desk.numbers == [new.certificate.serial_number] and len(desk.refused) == 1


def test_files_that_are_replaced_one_after_the_other_are_no_fault(tmp_path: Path) -> None:
    """A look between the two writes says nothing: only what is bad at two looks is bad."""
    old, new = make("a.example"), make("a.example", kind="ec-other")
    certificate, key = old.write(tmp_path, "a")
    desk = Desk((certificate, key))
    Path(certificate).write_bytes(new.pem)
    desk.wait()
    Path(key).write_bytes(new.key_pem)
    desk.wait()
    assert desk.refused == [] and desk.numbers == [new.certificate.serial_number]


@pytest.mark.parametrize("fault", ["gone", "empty"])
def test_one_bad_pair_hurts_no_other(tmp_path: Path, fault: str) -> None:
    """A file that is gone or empty leaves its own pair as it was, and the others follow their files."""
    one, two, new = make("a.example"), make("b.example"), make("b.example")
    files = one.write(tmp_path, "a"), two.write(tmp_path, "b")
    desk = Desk(*files)
    Path(files[0][0]).unlink()
    if fault == "empty":
        Path(files[0][0]).touch()
    new.write(tmp_path, "b")
    desk.wait(3)
    assert len(desk.refused) == 1 and desk.refused[0].startswith("a.pem: ")
    assert desk.numbers == [one.certificate.serial_number, new.certificate.serial_number]


def test_what_comes_back_is_taken_again(tmp_path: Path) -> None:
    """A file that was bad and is again what it was is in force, and told."""
    made = make("a.example")
    certificate, key = made.write(tmp_path, "a")
    desk = Desk((certificate, key))
    Path(certificate).write_bytes(b"")
    desk.wait(2)
    Path(certificate).write_bytes(made.pem)
    desk.wait()
    assert desk.loaded == ["a.pem"] and len(desk.refused) == 1


def test_authorities_of_clients_are_watched_too(tmp_path: Path) -> None:
    """Another file of client CAs is read; a bad one is told and the old one stays."""
    server, old, new = make("a.example"), make(ca=True), make(ca=True)
    file = tmp_path / "ca.pem"
    file.write_bytes(old.pem)
    desk = Desk(server.write(tmp_path, "a"), authorities=(str(file),))
    file.write_bytes(old.pem + new.pem)
    desk.wait()
    assert len(desk.keyring.authorities[str(file)].value) == 2 and desk.loaded == ["ca.pem"]
    file.write_bytes(b"")
    desk.wait(2)
    assert len(desk.keyring.authorities[str(file)].value) == 2
    assert desk.refused == ["ca.pem: holds no certificate in PEM"]


def test_a_closed_keyring_looks_no_more(tmp_path: Path) -> None:
    """Nothing is left on the clock."""
    desk = Desk(make("a.example").write(tmp_path, "a"))
    desk.keyring.close()
    desk.keyring.close()
    assert desk.clock.getDelayedCalls() == []


def test_what_is_bad_at_first_is_an_error(tmp_path: Path) -> None:
    """There is no old one to keep."""
    certificate, key = make("a.example").write(tmp_path, "a")
    Path(key).unlink()
    with pytest.raises(CertificateError, match="No such file"):
        Desk((certificate, key))


def test_a_mended_mode_is_a_change(tmp_path: Path) -> None:
    """The time of a file's last change of status counts: chmod alone lets a look try again."""
    file = tmp_path / "x"
    file.write_bytes(b"1")
    watched = Watched((str(file),), lambda: file.stat().st_mode)
    assert not watched.look()
    os.chmod(file, 0o640)
    assert watched.look() and watched.value & 0o777 == 0o640
