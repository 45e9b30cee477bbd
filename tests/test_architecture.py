"""The house keeps its plan: floors, doors, sizes, docstrings, and the table of standards."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "relaymta"
STANDARDS = ROOT / "man" / "relaymta-standards.7"

# Doors that show the words of more than one module behind them; imports and __all__, nothing else.
SHOW_WINDOWS = {"relaymta/config/__init__.py", "relaymta/events/__init__.py"}

LONGEST_MODULE = 600  # lines; ours: at 400 ask why, at 600 split

# Where a library's door into the house is; nobody else opens it.
DOORS = {
    "twisted.internet.reactor": r"relaymta/(service|worker)\.py",  # the two programs
    "twisted.mail.smtp": r"relaymta/smtp/(server|listener|client)\.py",
    "twisted.names": r"relaymta/net/dns\w*\.py",
}


def sources() -> list[Path]:
    """Every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def examined() -> list[Path]:
    """Every test file."""
    return sorted((ROOT / "tests").rglob("test_*.py"))


def short(path: Path) -> str:
    """A path as people write it."""
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Every dotted name that a module imports, at whatever depth it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("door", DOORS)
def test_each_library_has_one_door(door: str) -> None:
    """The reactor is imported where a process begins, twisted.mail.smtp and twisted.names in their shells."""
    found = {
        short(path) for path in sources() for name in imported(path) if f"{name}.".startswith(f"{door}.")
    }
    assert [path for path in sorted(found) if not re.fullmatch(DOORS[door], path)] == []


def test_nobody_imports_the_plugin_and_the_plugin_imports_nothing_of_ours() -> None:
    """twistd loads the plugin for every --help, so it names relaymta.service as a string."""
    plugin = ROOT / "twisted" / "plugins" / "relaymta_plugin.py"
    assert [name for name in imported(plugin) if name.startswith("relaymta")] == []
    assert '"relaymta.service"' in plugin.read_text()
    assert not list((ROOT / "twisted").rglob("__init__.py"))


@pytest.mark.parametrize("path", [path for path in sources() if path.name == "__init__.py"], ids=short)
def test_an_init_is_a_door_plate(path: Path) -> None:
    """A package's __init__ is one docstring that says what the room is, and no code."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    if short(path) in SHOW_WINDOWS:
        kinds = {type(node) for node in tree.body[1:]}
        assert kinds <= {ast.ImportFrom, ast.Assign}
    else:
        assert len(tree.body) == 1


def test_every_room_has_a_door_plate() -> None:
    """A folder with modules is a package on purpose."""
    folders = {path.parent for path in sources()}
    assert [short(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_no_module_grows_without_bound() -> None:
    """At 600 lines a module is split: every well-known MTA let its session and its delivery loop grow."""
    sizes = {short(path): len(path.read_text().splitlines()) for path in sources()}
    assert {path: lines for path, lines in sizes.items() if lines > LONGEST_MODULE} == {}


def test_every_module_says_what_it_is() -> None:
    """Each module begins with a docstring."""
    assert [short(path) for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_every_test_is_a_sentence() -> None:
    """Each test function has a docstring that says which behaviour it holds."""
    mute = [
        f"{short(path)}:{node.lineno} {node.name}"
        for path in examined()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert mute == []


def test_imports_go_down_only() -> None:
    """The floors of the house hold: import-linter keeps every contract of pyproject.toml."""
    run = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def cited() -> dict[str, set[str]]:
    """RFC number to the modules whose comments or docstrings cite it."""
    numbers: dict[str, set[str]] = {}
    for path in sources():
        for number in re.findall(r"\bRFC[ \u00a0](\d{3,5})\b", path.read_text()):
            numbers.setdefault(number, set()).add(short(path))
    return numbers


def tabled() -> set[str]:
    """RFC numbers in the table of relaymta-standards(7): the first word of a row is the number."""
    row = re.compile(r"^(?:\.[A-Z]+ *)?\"?RFC(?:\\ | |\\~)(\d{3,5})\b", re.MULTILINE)
    return set(row.findall(STANDARDS.read_text()))


def test_every_standard_that_is_cited_stands_in_the_table() -> None:
    """An RFC named beside a line of code is a row of relaymta-standards(7)."""
    table = tabled()
    assert {number: sorted(where) for number, where in cited().items() if number not in table} == {}


def test_every_standard_in_the_table_is_cited() -> None:
    """A row of relaymta-standards(7) is obeyed somewhere, and the comment there says so."""
    assert sorted(tabled() - set(cited())) == []
