"""What no file of the project may contain, and how large its parts may be."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

MAX_MODULE = 400
MAX_FUNCTION = 60
# Larger, with the reason.
LARGE_MODULES = {
    "recipes/formats/gpt.py": "one format, read and written",
}
LARGE_FUNCTIONS: dict[str, str] = {}

# Written so that this file does not contain what it looks for.
HOSTS = (
    r"(deb|security|snapshot|ftp|archive)\.(debian|ubuntu)\.(org|com)",
    r"pypi\.(org|python\.org)",
    r"files\.pythonhosted\.org",
    r"(registry\.npmjs|index\.crates|proxy\.golang)\.\w+",
)
FORBIDDEN = {
    "the name of a package registry": "|".join(HOSTS),
    "a note to finish something": r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b",
    "a private key": r"-----BEGIN (\w+ )*PRIVATE " + r"KEY-----\s*[A-Za-z0-9+/]{32}",
}
# Folders that only some machines have; where this checkout stands is one of them.
PLACES = (
    *(r"/Us" + r"ers/\w+", r"/wo" + r"rk/\w+", r"/root/[\w.]+", r"/tmp/\w+", r"/opt/wh" + r"eels"),
    re.escape(str(ROOT)),
)
# Text of others, kept as it came: what they wrote in it is theirs.
VECTORS = "tests/vectors/"


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no git checkout")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def findings(pattern: str, paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            text = path.read_bytes().decode("latin-1")
        found += [
            f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}"
            for match in re.finditer(pattern, text)
        ]
    return found


@pytest.mark.parametrize("what", sorted(FORBIDDEN))
def test_no_file_contains(what: str) -> None:
    found = findings(FORBIDDEN[what], tracked())
    assert not found, f"{what}:\n" + "\n".join(found)


def test_no_file_names_a_place_of_some_machine() -> None:
    paths = [path for path in tracked() if not path.relative_to(ROOT).as_posix().startswith(VECTORS)]
    found = findings(r"(?<![\w.$}*])(" + "|".join(PLACES) + r")\b", paths)
    assert not found, "\n".join(found)


def test_no_key_and_no_product_is_tracked() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in tracked()]
    wrong = [name for name in names if name.startswith(("out/", ".venv/")) or name.endswith((".key", ".pyc"))]
    wrong += [name for name in names if name.startswith("keys/") and name != "keys/README.md"]
    assert not wrong, wrong


def test_modules_have_one_idea() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): _lines(path) for path in (ROOT / "recipes").rglob("*.py")}
    wrong = [f"{name}: {size} lines" for name, size in sizes.items() if size > MAX_MODULE]
    assert sorted(name.split(":")[0] for name in wrong) == sorted(LARGE_MODULES), wrong


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_functions_are_short() -> None:
    wrong = {}
    for path in sorted((ROOT / "recipes").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                size = node.end_lineno - node.lineno + 1
                if size > MAX_FUNCTION:
                    wrong[f"{path.relative_to(ROOT).as_posix()}:{node.name}"] = size
    assert set(wrong) == set(LARGE_FUNCTIONS), wrong
