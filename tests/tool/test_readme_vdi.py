"""The example of README.md, tried as a new developer would: one file, one row, and a package of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support import ROOT, require_tool

pytestmark = pytest.mark.tool

HERE = Path(__file__).parent
# What the suite and the formats need of the project.
NEEDED = ("recipes", "tests", "pyproject.toml")
PLUGGED = """
import sys
from recipes.disks.format import lookup
from recipes.disks.source import RawDisk
with open(sys.argv[1], "rb") as file, open(sys.argv[2], "wb") as out:
    lookup("vdi").write(RawDisk.of("raw", file), out, seed=b"seed")
"""


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, wherever the example is told."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(HERE.glob("*.md")))]
    pattern = re.compile(rf"^( *)```{language}\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(match[2]) for text in texts for match in pattern.finditer(text)]


def the_block(language: str, first: str) -> str:
    """The only block that begins like this; a second copy would soon be another one."""
    (found,) = [block for block in blocks(language) if block.startswith(first)]
    return found


@pytest.fixture(scope="module")
def module() -> str:
    return the_block("python", "# vdi.py")


def run(argv: list[str], folder: Path, *path: Path) -> str:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_short_and_clean(tmp_path: Path, module: str) -> None:
    assert len(module.splitlines()) <= 90
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    path = tmp_path / "recipes" / "disks" / "vdi.py"
    path.parent.mkdir(parents=True)
    path.write_text(module)
    for command in (["check"], ["format", "--check"]):
        run([sys.executable, "-m", "ruff", *command, "--no-cache", str(path)], tmp_path)


def test_as_one_file_and_one_row_it_passes_the_suite(tmp_path: Path, module: str) -> None:
    require_tool("qemu-img")
    for name in NEEDED:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__", "vectors", "boot", "house")
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(source, tmp_path / name)
    inside = re.sub(r"^from recipes\.disks\.", "from .", module, flags=re.MULTILINE)
    inside = re.sub(r"^from recipes\.", "from ..", inside, flags=re.MULTILINE)
    (tmp_path / "recipes" / "disks" / "vdi.py").write_text(inside)
    suite = tmp_path / "tests" / "tool" / "disk_conformance.py"
    row = the_block("python", "# one row for vdi").splitlines()[1]
    text, last = suite.read_text(), '        Row("ova"'
    assert text.count(last) == 1
    suite.write_text(text.replace(last, f"        {row},\n{last}"))
    argv = [sys.executable, "-m", "pytest", "-q", "tests/tool/test_disks.py", "-k", "vdi or every_format"]
    said = run(argv, tmp_path)
    assert re.search(r"\b1[0-9] passed, [0-9]+ deselected", said), said


def test_as_a_package_of_its_own_it_is_plugged_in(tmp_path: Path, module: str) -> None:
    qemu_img = require_tool("qemu-img")
    entry = the_block("toml", '[project.entry-points."goldsmith.disks"]').splitlines()[1]
    assert entry == 'vdi = "your_package.vdi:VDI"'
    package, info = tmp_path / "your_package", tmp_path / "your_package-1.dist-info"
    for folder in (package, info):
        folder.mkdir()
    (package / "__init__.py").touch()
    (package / "vdi.py").write_text(module)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: your-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[goldsmith.disks]\n{entry.replace(chr(34), '')}\n")
    raw, made, again = (tmp_path / name for name in ("raw", "made.vdi", "again.vdi"))
    with raw.open("wb") as file:
        for place in (0, 3 << 20, (5 << 20) + 77, (40 << 20) - 512):
            file.seek(place)
            file.write(b"content of a block".ljust(512, b"."))
    for target in (made, again):
        run([sys.executable, "-c", PLUGGED, str(raw), str(target)], tmp_path, tmp_path, ROOT)
    assert made.read_bytes() == again.read_bytes()
    assert "Images are identical." in run(
        [qemu_img, "compare", "-f", "raw", "-F", "vdi", str(raw), str(made)], tmp_path
    )
    assert "No errors were found" in run([qemu_img, "check", "-f", "vdi", str(made)], tmp_path)
