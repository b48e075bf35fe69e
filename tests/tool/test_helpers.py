"""The compiled helpers: the same bytes wherever they are made, and programs of the kind that is wanted.

They are made by the toolchain that the built image is locked to, also those that the image does not have.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection

from recipes.formats.elf import walk
from recipes.formats.tree import FileTree
from recipes.schema import load_project
from recipes.sources import debs, lock, toolchain
from recipes.steps import helpers
from recipes.steps.develop import TESTED_IMAGE
from recipes.steps.packages import package_files, resolved_lock
from tests.support import ROOT

pytestmark = pytest.mark.tool

FILES = {path.name: path.read_bytes() for path in sorted(helpers.HELPERS.iterdir())}
LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = "usr/lib64/ld-linux-x86-64.so.2"


def whole_programs() -> list[str]:
    """The C files that are no part of another."""
    names = [name.removesuffix(".c") for name in FILES if name.endswith(".c")]
    parts = {source for name in names for source in toolchain.read_helper(name, FILES).sources[1:]}
    return [name for name in names if f"{name}.c" not in parts]


HELPERS = whole_programs()
EACH = pytest.mark.parametrize("name", HELPERS)
LIBRARY_FILES = {"ssl": "libssl.so.3", "crypto": "libcrypto.so.3"}


@dataclass(frozen=True)
class Compiled:
    """Helpers, the packages that made them, and those written out so that a helper can be run."""

    programs: dict[str, bytes]
    packages: FileTree
    folder: Path

    def run(self, name: str, *arguments: str, table: bytes) -> subprocess.CompletedProcess[bytes]:
        """Runs a helper with the C library that it is made for, which need not be this machine's."""
        program = self.folder / "programs" / name
        tree = self.folder / "toolchain"
        argv = [str(tree / LOADER), "--library-path", str(tree / LIBRARIES), str(program), *arguments]
        return subprocess.run(argv, input=table, capture_output=True, timeout=60)


def built(path: Path) -> Path:
    """A product of the built image; without it the tests are skipped at home and fail in CI."""
    if not path.is_file():
        what = f"{path.relative_to(ROOT)} is not there; build it with `python3 dodo.py`"
        if os.environ.get("CI"):
            pytest.fail(what)
        pytest.skip(what)
    return path


def image_lock() -> Path:
    return built(resolved_lock(next(item for item in load_project(ROOT).images if item.name == TESTED_IMAGE)))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    files = package_files(lock.load(image_lock()), "toolchain")
    missing = [path for path in files if not path.is_file()] if files else [Path("group toolchain")]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"{missing[0].name} is not there; build the image with `python3 dodo.py`")
    folder = tmp_path_factory.mktemp("helpers")
    packages, _ = debs.unpack(files, folder / "spool", workers=2, exclude=toolchain.EXCLUDE)
    (folder / "work").mkdir()
    programs = toolchain.compile_helpers(packages, FILES, HELPERS, folder / "work", workers=2)
    return Compiled(programs, packages, folder / "work")


# The step, and nothing that this process knows.
AGAIN = """
import os, sys
from pathlib import Path
from recipes.steps import helpers
os.umask(0o027)
target, lock, folder = sys.argv[1:4]
helpers.build(Path(target), lock=Path(lock), folder=Path(folder))
"""


def test_the_same_bytes_in_another_folder_and_environment(compiled: Compiled, tmp_path: Path) -> None:
    folder = tmp_path / "a longer name with spaces" / "ümlaut"
    folder.mkdir(parents=True)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "7",
        "LC_ALL": "tr_TR.UTF-8",
        "TZ": "Pacific/Kiritimati",
        "SOURCE_DATE_EPOCH": "1234567890",
        "CPATH": str(folder),
        "GCC_COLORS": "error=01;31",
        "HOME": str(folder),
        "TMPDIR": str(folder),
    }
    target = folder / "helpers.tar"
    arguments = [str(target), str(image_lock()), str(helpers.HELPERS)]
    argv = [sys.executable, "-c", AGAIN, *arguments]
    result = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    again = helpers.read_helpers(target)
    assert sorted(again) == HELPERS
    assert {name: again[name] == data for name, data in compiled.programs.items()} == dict.fromkeys(
        HELPERS, True
    )


def test_the_image_has_these_programs(compiled: Compiled) -> None:
    image = next(item for item in load_project(ROOT).images if item.name == TESTED_IMAGE)
    found = helpers.read_helpers(built(helpers.helpers_path(image)))
    assert "dmtable" in found
    assert found == {name: compiled.programs[name] for name in found}


def elf_of(data: bytes) -> Any:
    return ELFFile(io.BytesIO(data))


def dynamic(elf: Any) -> list[Any]:
    (table,) = (section for section in elf.iter_sections() if isinstance(section, DynamicSection))
    return list(table.iter_tags())


@EACH
def test_position_independent_bound_early_and_stripped(compiled: Compiled, name: str) -> None:
    elf = elf_of(compiled.programs[name])
    assert (elf["e_type"], elf["e_machine"]) == ("ET_DYN", "EM_X86_64")
    segments = {segment["p_type"]: segment for segment in elf.iter_segments()}
    assert segments["PT_INTERP"].get_interp_name() == "/lib64/ld-linux-x86-64.so.2"
    # System V ABI, p_flags: 1 is executable, 2 is writable.
    assert segments["PT_GNU_STACK"]["p_flags"] & 1 == 0
    assert segments["PT_GNU_RELRO"]["p_memsz"] > 0
    assert not [
        item for item in elf.iter_segments() if item["p_type"] == "PT_LOAD" and item["p_flags"] & 3 == 3
    ]
    tags = {tag.entry.d_tag: tag.entry.d_val for tag in dynamic(elf)}
    assert tags["DT_FLAGS"] & 8  # DF_BIND_NOW
    assert tags["DT_FLAGS_1"] & 0x08000001 == 0x08000001  # DF_1_PIE, DF_1_NOW
    assert not {"DT_RPATH", "DT_RUNPATH", "DT_TEXTREL"} & set(tags)
    names = {section.name for section in elf.iter_sections()}
    assert not {".symtab", ".note.gnu.build-id"} & names
    assert not [section for section in names if section.startswith(".debug")]


@EACH
def test_hardened(compiled: Compiled, name: str) -> None:
    symbols = {
        symbol.name
        for symbol in elf_of(compiled.programs[name]).get_section_by_name(".dynsym").iter_symbols()
    }
    assert "__stack_chk_fail" in symbols
    assert [symbol for symbol in symbols if symbol.endswith("_chk")]  # _FORTIFY_SOURCE


@EACH
def test_needs_the_libraries_of_the_suite_and_no_more(compiled: Compiled, name: str) -> None:
    elf = elf_of(compiled.programs[name])
    declared = toolchain.read_helper(name, FILES).libraries
    allowed = {"libc.so.6", *(LIBRARY_FILES[library] for library in declared)}
    found = {tag.needed for tag in dynamic(elf) if tag.entry.d_tag == "DT_NEEDED"}
    assert "libc.so.6" in found
    assert found <= allowed
    (wanted,) = (section for section in elf.iter_sections() if isinstance(section, GNUVerNeedSection))
    for library, versions in wanted.iter_versions():
        data = compiled.packages[walk(compiled.packages, f"{LIBRARIES}/{library.name}")[-1]].read()
        (offered,) = (item for item in elf_of(data).iter_sections() if isinstance(item, GNUVerDefSection))
        known = {next(names).name for _, names in offered.iter_versions()}
        assert {version.name for version in versions} <= known


@EACH
def test_says_nothing_about_where_it_was_made(compiled: Compiled, name: str) -> None:
    data = compiled.programs[name]
    for place in (ROOT, compiled.folder, tempfile.gettempdir(), "toolchain"):
        assert f"{place}/".encode() not in data


@pytest.mark.parametrize(
    ("arguments", "table", "message"),
    [
        ((), b"", "usage: dmtable create NAME [ro] | remove NAME"),
        (("create", "a", "rw"), b"", "usage: dmtable create NAME [ro] | remove NAME"),
        (("remove", "a", "ro"), b"", "usage: dmtable create NAME [ro] | remove NAME"),
        (("create", "../a"), b"", "the name is no device's: 1 to 127 letters, digits, _ and -"),
        (("remove", ""), b"", "the name is no device's: 1 to 127 letters, digits, _ and -"),
        (("remove", "control"), b"", "the name is no device's: 1 to 127 letters, digits, _ and -"),
        (("create", "a" * 128), b"", "the name is no device's: 1 to 127 letters, digits, _ and -"),
        (("create", "a"), b"\n\n", "there is no table on standard input"),
        (("create", "a"), b"0 8 zero\0\n", "the table holds a NUL"),
        (("create", "a"), b"0 8 zero\n" + b"#" * 16384, "the table has more than 16384 bytes"),
        (("create", "a"), b"0 8", "a line of the table does not begin with START LENGTH TARGET"),
        (("create", "a"), b" 0 8 zero", "a line of the table does not begin with START LENGTH TARGET"),
        (("create", "a"), b"0 -8 zero", "a line of the table does not begin with START LENGTH TARGET"),
        (("create", "a"), b"0 0 zero", "a line of the table does not begin with START LENGTH TARGET"),
        (
            ("create", "a"),
            b"0 18446744073709551616 zero",
            "a line of the table does not begin with START LENGTH TARGET",
        ),
        (("create", "a"), b"0 8 ", "a line of the table names no target"),
        (("create", "a"), b"0 8 a-target-of-sixt", "a line of the table names no target"),
        (("create", "a"), b"0 8 crypt @KEY@\n", "descriptor 3: Bad file descriptor"),
        (("create", "a"), b"0 8 crypt " + b"@KEY@" * 3000, "descriptor 3: Bad file descriptor"),
    ],
)
def test_dmtable_refuses(compiled: Compiled, arguments: tuple[str, ...], table: bytes, message: str) -> None:
    """What it does with a table that it accepts is for boots to show: every verified root is one."""
    result = compiled.run("dmtable", *arguments, table=table)
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.decode() == f"dmtable: {message}\n"


@pytest.mark.parametrize(
    ("size", "table", "message"),
    [
        (0, b"@KEY@", "descriptor 3 has nothing, and the table wants a key of 1 to 512 bytes"),
        (513, b"@KEY@", "descriptor 3 has more, and the table wants a key of 1 to 512 bytes"),
        (512, b"@KEY@" * 65, "the table is too long"),
    ],
)
def test_dmtable_refuses_a_key(
    compiled: Compiled, tmp_path: Path, size: int, table: bytes, message: str
) -> None:
    (tmp_path / "key").write_bytes(b"k" * size)
    loader = compiled.folder / "toolchain" / LOADER
    libraries = compiled.folder / "toolchain" / LIBRARIES
    program = compiled.folder / "programs" / "dmtable"
    script = 'exec "$1" --library-path "$2" "$3" create a 3<"$4"'
    argv = ["sh", "-c", script, "sh", str(loader), str(libraries), str(program), str(tmp_path / "key")]
    result = subprocess.run(argv, input=b"0 8 crypt " + table, capture_output=True, timeout=60)
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.decode() == f"dmtable: {message}\n"
