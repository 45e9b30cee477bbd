"""What a user installs: wheel and checkout both tell twistd about relaymta, and the sdist is whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = ["setup.cfg", "pyproject.toml", "MANIFEST.in", "Makefile", "LICENSE"]
FILES += ["README.md", "HACKING.md", "CHANGELOG.md"]
FOLDERS = ["relaymta", "twisted", "etc", "man", "docs", "newsfragments", "tests", "bench", ".ci"]
COMMANDS = ["relaymta", "sendmail", "mailq", "newaliases"]
TWISTD_HELP = "import sys; sys.argv[1:] = ['--help']; from twisted.scripts.twistd import run; run()"


def run(*words: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command and return what it said; a failure shows all of it."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run(words, cwd=cwd, env=clean, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, since setuptools leaves its own files beside what it builds."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    ignored = shutil.ignore_patterns("__pycache__", "dropin.cache", "results", "*.egg-info")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without the network by the setuptools at hand."""
    shelf = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
        "--wheel-dir", shelf, checkout, cwd=checkout,
    )  # fmt: skip
    [path] = shelf.glob("relaymta-*.whl")
    return path


def test_the_wheel_holds_the_package_the_plugin_and_nothing_else(wheel: Path) -> None:
    """No tests, no benchmark, and no __init__.py that would hide Twisted's own plugins."""
    names = set(ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"relaymta", "twisted"}
    assert {name for name in names if name.startswith("twisted/")} == {"twisted/plugins/relaymta_plugin.py"}
    packed = {name for name in names if name.startswith("relaymta/") and name.endswith(".py")}
    assert packed == {path.relative_to(ROOT).as_posix() for path in (ROOT / "relaymta").rglob("*.py")}
    assert "relaymta/py.typed" in names


def test_twistd_lists_relaymta_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """A fresh environment that holds Twisted and our wheel shows `relaymta` under `twistd --help`."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "fresh", cwd=tmp_path)
    fresh = tmp_path / "fresh" / "bin" / "python"
    [shelf] = (tmp_path / "fresh" / "lib").glob("python*/site-packages")
    # A folder named in a .pth file has its own .pth files ignored: Twisted is seen, an editable relaymta not.
    (shelf / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(
        sys.executable, "-m", "pip", "--python", fresh, "install", "--quiet", "--no-index", "--no-deps",
        "--ignore-installed", wheel, cwd=tmp_path,
    )  # fmt: skip
    assert str(shelf) in run(fresh, "-c", "import relaymta; print(relaymta.__file__)", cwd=tmp_path)
    assert "relaymta " in run(fresh, "-c", TWISTD_HELP, cwd=tmp_path)
    assert [name for name in COMMANDS if not (fresh.parent / name).exists()] == []


def test_twistd_lists_relaymta_from_a_checkout(tmp_path: Path) -> None:
    """The plugin is found where the checkout is on Python's path, as an editable install puts it."""
    assert "relaymta " in run(sys.executable, "-c", TWISTD_HELP, cwd=tmp_path, PYTHONPATH=str(ROOT))


def test_the_plugin_loads_none_of_the_daemon(tmp_path: Path) -> None:
    """`twistd --help` for some other server must not pay for our imports."""
    source = "import sys, twisted.plugins.relaymta_plugin; print(*sys.modules)"
    loaded = run(sys.executable, "-c", source, cwd=tmp_path, PYTHONPATH=str(ROOT)).split()
    assert [name for name in loaded if name.startswith("relaymta")] == []


def test_the_source_distribution_is_whole(checkout: Path, tmp_path: Path) -> None:
    """From the sdist one can build, test, read the manual and run the quick start."""
    source = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", source, tmp_path, cwd=checkout)
    [archive] = tmp_path.glob("relaymta-*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    files = {path for name in FOLDERS for path in (checkout / name).rglob("*") if path.is_file()}
    wanted = {path.relative_to(checkout).as_posix() for path in files} | set(FILES)
    assert wanted - names == set()
