"""How the toolchain is run, with programs that are scripts; tests/tool/test_helpers.py runs the real ones."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from recipes.errors import SpecError, ToolError
from recipes.formats.tree import FileTree
from recipes.sources import toolchain
from recipes.sources.toolchain import Helper, compile_helpers, read_helper, write_tree
from tests.unit.test_formats_elf import elf

LIBRARIES = "usr/lib/x86_64-linux-gnu"
GCC = "usr/lib/gcc/x86_64-linux-gnu/14"
CC1 = "usr/libexec/gcc/x86_64-linux-gnu/14/cc1"
# Stands in for the loader, which gets the program as its fourth argument: each program says how it was called
# and what it found around it, and its output is what its inputs hold, with its own name before it.
LOADER = r"""#!/bin/sh
test "$1 $2 $3" = "--inhibit-cache --library-path toolchain/usr/lib/x86_64-linux-gnu" || exit 9
program=${4##*/}
shift 4
printf '%s\n' "$program $*" >>called
found=$PATH
PATH=/usr/bin:/bin
{ env | grep -v '^\(_\|PWD\|OLDPWD\|SHLVL\|PATH\)='; echo "PATH=$found"; } | sort >environment
inputs= output= again=
for word in "$@"; do
    case $again$word in
        -o*) again=; test "$word" = -o && again=-o || output=${word} ;;
        -*) ;;
        initrd/*.c | objects/*) inputs="$inputs $word" ;;
    esac
done
if grep -q BROKEN $inputs; then
    echo "$inputs: error: BROKEN" >&2
    exit 1
fi
if grep -q SLOW $inputs; then
    echo begun
    exec sleep 30
fi
{ printf '%s(' "$program"; cat $inputs; printf ')'; } >"$output"
"""
EMPTY = b"/* SPDX */\n"


def packages(*leave_out: str, loader: str = LOADER) -> FileTree:
    tree = FileTree()
    files = {
        "usr/lib64/ld-linux-x86-64.so.2": loader.encode(),
        CC1: elf("libmpc.so.3", "libc.so.6"),
        "usr/bin/x86_64-linux-gnu-as": elf("libc.so.6"),
        "usr/bin/x86_64-linux-gnu-ld.bfd": elf("libc.so.6"),
        f"{LIBRARIES}/libmpc.so.3.1": elf("libgmp.so.10"),
        f"{LIBRARIES}/libgmp.so.10": elf("libc.so.6"),
        f"{LIBRARIES}/libc.so.6": elf(),
    }
    files |= {f"{LIBRARIES}/{name}": b"start" for name in ("Scrt1.o", "crti.o", "crtn.o")}
    files |= {f"{GCC}/{name}": b"start" for name in ("crtbeginS.o", "crtendS.o")}
    for path, data in files.items():
        tree.add_file(path, data, 0o755)
    tree.add_symlink(f"{LIBRARIES}/libmpc.so.3", "libmpc.so.3.1")
    tree.add_symlink("usr/bin/x86_64-linux-gnu-ld", "/usr/bin/x86_64-linux-gnu-ld.bfd")
    for path in leave_out:
        del tree.nodes[path]
    return tree


def made(work: Path, files: dict[str, bytes], *wanted: str, tree: FileTree | None = None) -> dict[str, bytes]:
    return compile_helpers(tree or packages(), files, wanted, work, workers=2)


@pytest.fixture(autouse=True)
def on_x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def test_a_helper_says_what_it_is_made_of() -> None:
    files = {
        "a-b.c": b"/* SPDX */\n/*: libraries ssl crypto */\n/*: sources sha256.c x_y.c */\n#include <x.h>\n",
        "sha256.c": EMPTY,
        "x_y.c": EMPTY,
        "alone.c": b"/* SPDX */\n/* about it */\nint main(void) { return 0; } /*: no header */\n",
    }
    assert read_helper("a-b", files) == Helper(
        name="a-b", sources=("a-b.c", "sha256.c", "x_y.c"), libraries=("ssl", "crypto")
    )
    assert read_helper("alone", files) == Helper(name="alone", sources=("alone.c",), libraries=())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b"/* SPDX */\n/*: sources */\n",
            "2: '/*: sources */' is no header line; write '/*: sources a.c b.c */'",
        ),
        (
            b"/* SPDX */\n/*:sources b.c */\n",
            "2: '/*:sources b.c */' is no header line; write '/*: sources a.c b.c */'",
        ),
        (
            b"/* SPDX */\n/*: sources b.c */ int x;\n",
            "2: '/*: sources b.c */ int x;' is no header line; write '/*: sources a.c b.c */'",
        ),
        (
            b"/* SPDX */\r\n/*: sources b.c */\r\n",
            "2: '/*: sources b.c */\\r' is no header line; write '/*: sources a.c b.c */'",
        ),
        (
            b"/* SPDX */\n/*: flags -O3 */\n",
            "2: '/*: flags -O3 */' is no header line; write '/*: sources a.c b.c */'",
        ),
        (
            b"/* SPDX */\n\n/*: sources b.c */\n",
            "3: sources is out of place; header lines stand directly below the first line",
        ),
        (
            b"/*: sources b.c */\n",
            "1: sources is out of place; header lines stand directly below the first line",
        ),
        (
            b"/* SPDX */\n/*: sources b.c */\n/*: sources c.c */\n",
            "3: sources says something twice; name each thing once",
        ),
        (
            b"/* SPDX */\n/*: libraries ssl ssl */\n",
            "2: libraries says something twice; name each thing once",
        ),
        (
            b"/* SPDX */\n/*: sources ..c.c */\n",
            "2: '..c.c' cannot be one of sources; write 'a.c', or 'crypto' for -lcrypto",
        ),
        (
            b"/* SPDX */\n/*: libraries -lssl */\n",
            "2: '-lssl' cannot be one of libraries; write 'a.c', or 'crypto' for -lcrypto",
        ),
        (
            b"/* SPDX */\n/*: sources d.c */\n",
            "source d.c is not there; name other files of initrd/helpers",
        ),
        (
            b"/* SPDX */\n/*: sources a.c */\n",
            "source a.c is this file itself; name other files of initrd/helpers",
        ),
    ],
)
def test_a_header_that_is_wrong(text: bytes, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_helper("a", {"a.c": text, "b.c": EMPTY, "c.c": EMPTY})
    where = "initrd/helpers/a.c:"
    assert str(caught.value) == where + ("" if message[0].isdigit() else " ") + message


@pytest.mark.parametrize("name", ["b", "", "a.c", "../a", "A"])
def test_a_helper_that_is_not_there(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_helper(name, {"a.c": EMPTY, "a.h": b"", "../a.c": EMPTY, "A.c": EMPTY} if name != "b" else {})
    known = "none" if name == "b" else "../a, A, a"
    assert str(caught.value) == (
        f"helper {name!r}: there is no initrd/helpers/{name}.c; C files there: {known}"
    )


def test_what_is_wanted_is_compiled_and_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPATH", "/usr/include")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    files = {
        "two.c": b"/* SPDX */\n/*: sources both.c */\n/*: libraries ssl */\ntwo",
        "one.c": b"/* SPDX */\n/*: sources both.c */\none",
        "both.c": b"both",
        "both.h": b"",
        "other.c": b"BROKEN",
    }
    found = made(tmp_path, files, "two", "one", "two")
    compiled = {name: b"x86_64-linux-gnu-as(cc1(%s))" % data for name, data in files.items()}
    assert found == {
        "one": b"x86_64-linux-gnu-ld(%s%s)" % (compiled["one.c"], compiled["both.c"]),
        "two": b"x86_64-linux-gnu-ld(%s%s)" % (compiled["two.c"], compiled["both.c"]),
    }
    assert list(found) == ["one", "two"]
    assert (tmp_path / "environment").read_text() == "LC_ALL=C\nPATH=\nSOURCE_DATE_EPOCH=0\nTZ=UTC\n"
    called = (tmp_path / "called").read_text().splitlines()
    assert len(called) == 3 + 3 + 2
    assert not [line for line in called if str(tmp_path) in line]
    assert len([line for line in called if line.startswith("cc1 ") and line.endswith("both.c")]) == 1
    assert [" -lssl " in line for line in called if line.startswith("x86_64-linux-gnu-ld ")] == [False, True]


def test_nothing_wanted_needs_no_toolchain(tmp_path: Path) -> None:
    assert made(tmp_path, {}, tree=FileTree()) == {}
    assert list(tmp_path.iterdir()) == []


def test_what_the_compiler_says_is_shown(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as caught:
        made(tmp_path, {"a.c": b"/* SPDX */\n/*: sources z.c */\n", "z.c": b"BROKEN"}, "a")
    lines = str(caught.value).splitlines()
    assert lines[0] == "cc1: exit status 1; correct initrd/helpers/z.c"
    assert lines[1].startswith("    $ cc1 -quiet ")
    assert lines[2:] == ["    initrd/helpers/z.c: error: BROKEN"]


def test_a_compiler_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_TIMEOUT", 0.5)
    with pytest.raises(ToolError) as caught:
        made(tmp_path, {"a.c": b"SLOW"}, "a")
    lines = str(caught.value).splitlines()
    assert lines[0] == "cc1: still running after 0 s; correct initrd/helpers/a.c"
    assert lines[-1] == "    begun"


def test_a_folder_from_which_nothing_can_be_run(tmp_path: Path) -> None:
    """A mount with noexec refuses in the same way as the kernel does a file with no right to be run."""
    tree = packages()
    tree.add_file("usr/lib64/ld-linux-x86-64.so.2", LOADER.encode(), 0o644)
    with pytest.raises(ToolError) as caught:
        made(tmp_path, {"a.c": EMPTY}, "a", tree=tree)
    assert str(caught.value).splitlines()[0] == (
        "cc1: cannot be started: permission denied; build in a file system that is mounted without noexec"
    )


@pytest.mark.parametrize(
    ("system", "machine"), [("Linux", "aarch64"), ("Darwin", "x86_64"), ("Windows", "AMD64")]
)
def test_another_machine_is_said_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(ToolError) as caught:
        made(tmp_path, {"a.c": EMPTY}, "a")
    assert str(caught.value).splitlines()[0] == (
        f"cc1: does not run on {system} {machine}; "
        "the programs of locked packages are for x86-64 Linux; build there"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (CC1, "found none and wants one C compiler; name one package such as cpp-14-x86-64-linux-gnu"),
        (
            "usr/bin/x86_64-linux-gnu-ld.bfd",
            "no package has usr/bin/x86_64-linux-gnu-ld; name the package that has it",
        ),
        (
            "usr/lib64/ld-linux-x86-64.so.2",
            "no package has usr/lib64/ld-linux-x86-64.so.2; name the package that has it",
        ),
        (
            f"{LIBRARIES}/Scrt1.o",
            f"no package has {LIBRARIES}/Scrt1.o; name the package that has it",
        ),
        (
            f"{LIBRARIES}/libmpc.so.3.1",
            f"{CC1} needs libmpc.so.3, which no package has; name the package of libmpc.so.3",
        ),
        (
            f"{LIBRARIES}/libgmp.so.10",
            (
                f"{LIBRARIES}/libmpc.so.3.1 needs libgmp.so.10, which no package has; "
                "name the package of libgmp.so.10"
            ),
        ),
    ],
)
def test_packages_that_are_no_whole_toolchain(tmp_path: Path, missing: str, message: str) -> None:
    """The loader would look for a library that is missing among those of the machine that builds."""
    with pytest.raises(SpecError) as caught:
        made(tmp_path, {"a.c": EMPTY}, "a", tree=packages(missing))
    assert str(caught.value) == f"initramfs.toolchain: {message}"
    assert not (tmp_path / "called").exists()


def test_two_compilers_are_one_too_many(tmp_path: Path) -> None:
    tree = packages()
    tree.add_file("usr/lib/gcc/x86_64-linux-gnu/12/cc1", elf(), 0o755)
    with pytest.raises(SpecError) as caught:
        made(tmp_path, {"a.c": EMPTY}, "a", tree=tree)
    assert str(caught.value) == (
        f"initramfs.toolchain: found usr/lib/gcc/x86_64-linux-gnu/12/cc1, {CC1} and wants one C compiler; "
        "name one package such as cpp-14-x86-64-linux-gnu"
    )


def test_a_tree_on_disk_leads_nowhere_else(tmp_path: Path) -> None:
    tree = FileTree()
    tree.add_file("usr/lib/real", b"here", 0o4755)
    tree.add_file("usr/lib/plain", b"", 0o644)
    tree.add_directory("empty/below")
    for name, target in (
        ("lib", "usr/lib"),
        ("usr/absolute", "/usr/lib/real"),
        ("usr/lib/beside", "real"),
        ("usr/lib/up", "../../../../../../usr/lib/real"),
    ):
        tree.add_symlink(name, target)
    folder = tmp_path / "tree"
    write_tree(tree, folder)
    for name in ("lib/real", "usr/absolute", "usr/lib/beside", "usr/lib/up"):
        assert (folder / name).read_bytes() == b"here"
    for path in folder.rglob("*"):
        assert path.resolve().is_relative_to(folder.resolve())
    assert (folder / "usr/lib/real").stat().st_mode & 0o7777 == 0o700
    assert not (folder / "usr/lib/plain").stat().st_mode & 0o111
    assert (folder / "empty/below").is_dir()
