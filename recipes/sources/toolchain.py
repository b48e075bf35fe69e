"""Programs of the initramfs that are C: compiled by a compiler that comes out of locked packages.

The compiler, the assembler and the linker are run straight from their unpacked packages, through the loader
and with the libraries of those packages. So no compiler of this machine is used and its C library does not
matter. Every path in a command is relative to the folder in which it runs, and the environment is always the
same, so the same packages and sources give the same bytes everywhere.

A helper ``NAME`` is ``NAME.c``. Directly below its first line it may say what else it is made of::

    /*: sources sha256.c base64.c */
    /*: libraries ssl crypto */

Spec: GCC 14 manual, "Invoking GCC"; GNU binutils 2.44, as and ld; ld.so(8).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import SpecError
from ..formats.elf import needed, walk
from ..formats.tree import FileTree, Node, NodeType
from .locked_program import LOADER, check_host, run_by_loader

# What helpers need nothing of: most of what the packages hold, and each file takes its time to be written.
EXCLUDE = (
    *("usr/share/*", "*/gconv/*", "*/ldscripts/*", "*.a", "!*/libc_nonshared.a", "!*/libgcc.a"),
    *("usr/include/*-linux-gnu*/*", "!usr/include/x86_64-linux-gnu/*"),
    *("usr/lib/linux/uapi/*", "!usr/lib/linux/uapi/x86/*"),
)

_TRIPLET = "x86_64-linux-gnu"
_LIBRARIES = f"usr/lib/{_TRIPLET}"
_ASSEMBLER, _LINKER = f"usr/bin/{_TRIPLET}-as", f"usr/bin/{_TRIPLET}-ld"
_COMPILER = re.compile(rf"usr/lib(?:exec)?/gcc/{_TRIPLET}/([0-9]+)/cc1")
# Names in the folder where the programs run; sources have the name that people know them by.
_TREE, _SOURCES, _OBJECTS, _PROGRAMS = "toolchain", "initrd/helpers", "objects", "programs"

# GCC manual, "Option Summary". The language is C11 with the C library's own functions. A warning is an error,
# and a date in a source is one: what is compiled is the same at every time.
_COMPILE = (
    *("-quiet", "-std=gnu11", "-O2", "-m64", "-march=x86-64", "-mtune=generic", "-fPIE"),
    *("-Wall", "-Wextra", "-Wdate-time", "-Werror", "-fdiagnostics-color=never", "-fmax-errors=3"),
    *("-D_FORTIFY_SOURCE=3", "-fstack-protector-strong", "-fstack-clash-protection"),
    *("-ftrivial-auto-var-init=zero", "-fno-asynchronous-unwind-tables"),
    *("-ffunction-sections", "-fdata-sections", "-frandom-seed=goldsmith"),
    "-nostdinc",
)
# ld manual, "Command-line Options": position independent, bound as a whole and read-only before it begins.
_LINK = (
    *("-m", "elf_x86_64", f"--sysroot={_TREE}", "-pie", "-z", "relro", "-z", "now", "-z", "noexecstack"),
    *("-z", "text", "-z", "defs", "--eh-frame-hdr", "--hash-style=gnu", "--build-id=none", "--strip-all"),
    *(
        "--gc-sections",
        "--as-needed",
        "--fatal-warnings",
        "-dynamic-linker",
        f"/{LOADER.removeprefix('usr/')}",
    ),
)
_ENVIRONMENT = {"SOURCE_DATE_EPOCH": "0"}
# Seconds; a program of ours takes one.
_TIMEOUT = 120.0

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_HEADER = re.compile(r"/\*: (sources|libraries)((?: [a-z0-9_.-]+)+) \*/")
_WORDS = {"sources": re.compile(r"[a-z][a-z0-9_-]*\.c"), "libraries": re.compile(r"[a-z][a-z0-9]*")}


@dataclass(frozen=True, kw_only=True)
class Helper:
    """A helper, by what it says about itself.

    Attributes:
        sources: names of the C files it is made of, its own first.
        libraries: what it links besides the C library: ``crypto`` for ``-lcrypto``.
    """

    name: str
    sources: tuple[str, ...]
    libraries: tuple[str, ...] = ()


def read_helper(name: str, files: Mapping[str, bytes]) -> Helper:
    """The helper ``name``.

    Args:
        files: ``initrd/helpers``, by name.

    Raises:
        SpecError: there is no such helper, or its header has an unknown, doubled or malformed line, or names
            a source that is not there.
    """
    if not _NAME.fullmatch(name) or f"{name}.c" not in files:
        known = ", ".join(sorted(key.removesuffix(".c") for key in files if key.endswith(".c"))) or "none"
        raise SpecError(f"helper {name!r}: there is no {_SOURCES}/{name}.c; C files there: {known}")
    own = f"{name}.c"
    values = _header(files[own], f"{_SOURCES}/{own}")
    sources = (own, *values.get("sources", ()))
    for source in sources[1:]:
        if source not in files or source == own:
            fault = "is this file itself" if source == own else "is not there"
            raise SpecError(f"{_SOURCES}/{own}: source {source} {fault}; name other files of {_SOURCES}")
    return Helper(name=name, sources=sources, libraries=values.get("libraries", ()))


def program_names(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """The helpers in a folder, sorted: every C file that is no part of another.

    Raises:
        SpecError: a header is wrong.
    """
    names = [name.removesuffix(".c") for name in sorted(files) if name.endswith(".c")]
    parts = {source for name in names for source in _header(files[f"{name}.c"], name).get("sources", ())}
    return tuple(name for name in names if f"{name}.c" not in parts)


def _header(text: bytes, where: str) -> dict[str, tuple[str, ...]]:
    """The header lines by their key; they stand together, below the first line."""
    values: dict[str, tuple[str, ...]] = {}
    lines = text.decode("utf-8", "replace").split("\n")
    for index, line in enumerate(lines):
        if not line.startswith("/*:"):
            continue
        place = f"{where}:{index + 1}"
        match = _HEADER.fullmatch(line)
        if match is None:
            raise SpecError(f"{place}: {line[:60]!r} is no header line; write '/*: sources a.c b.c */'")
        key, words = match[1], tuple(match[2].split())
        if index != 1 + len(values):
            raise SpecError(
                f"{place}: {key} is out of place; header lines stand directly below the first line"
            )
        if key in values or len(set(words)) < len(words):
            raise SpecError(f"{place}: {key} says something twice; name each thing once")
        odd = [word for word in words if not _WORDS[key].fullmatch(word)]
        if odd:
            raise SpecError(
                f"{place}: {odd[0]!r} cannot be one of {key}; write 'a.c', or 'crypto' for -lcrypto"
            )
        values[key] = words
    return values


def compile_helpers(
    packages: FileTree, files: Mapping[str, bytes], wanted: Iterable[str], work: Path, *, workers: int
) -> dict[str, bytes]:
    """Each of the ``wanted`` helpers as an executable, by name and in the order of names.

    Args:
        packages: the unpacked toolchain; ``EXCLUDE`` says what of it is not needed.
        files: ``initrd/helpers``, by name.
        work: an empty folder, in a file system from which programs may be run.
        workers: how many programs may run at once; what they make does not depend on it.

    Raises:
        SpecError: a helper is not there or malformed, or the packages are not a whole toolchain.
        ToolError: this machine is no x86-64 Linux, or a source does not compile; has what the compiler said.
    """
    helpers = [read_helper(name, files) for name in sorted(set(wanted))]
    if not helpers:
        return {}
    toolchain = Toolchain(packages, work)
    for name, data in sorted(files.items()):
        _write(work / _SOURCES / name, data)
    for folder in (_OBJECTS, _PROGRAMS):
        (work / folder).mkdir()
    sources = sorted({source for helper in helpers for source in helper.sources})
    with ThreadPoolExecutor(workers) as pool:
        # Taken in order, so that of several errors it is always the same that is shown.
        for _ in pool.map(toolchain.compile, sources):
            pass
    for helper in helpers:
        toolchain.link(helper)
    return {helper.name: (work / _PROGRAMS / helper.name).read_bytes() for helper in helpers}


class Toolchain:
    """The programs of the packages, written out so that they can be run.

    Args:
        packages: the unpacked packages.
        work: the folder in which they run, and below which they are written.

    Raises:
        SpecError: a program, a library or a file that every helper is linked with is missing.
        ToolError: this machine is no x86-64 Linux.
    """

    def __init__(self, packages: FileTree, work: Path) -> None:
        check_host("cc1")
        found = [match for path in sorted(packages.nodes) if (match := _COMPILER.fullmatch(path))]
        if len(found) != 1:
            names = ", ".join(match[0] for match in found) or "none"
            what = f"found {names} and wants one C compiler"
            raise SpecError(f"initramfs.toolchain: {what}; name one package such as cpp-14-x86-64-linux-gnu")
        self._compiler, version = found[0][0], found[0][1]
        self._work = work
        gcc = f"usr/lib/gcc/{_TRIPLET}/{version}"
        self._include = [
            f"{_TREE}/{path}" for path in (f"{gcc}/include", f"usr/include/{_TRIPLET}", "usr/include")
        ]
        self._search = [f"{_TREE}/{path}" for path in (gcc, _LIBRARIES)]
        # System V ABI, "Initialization and Termination Functions": these go around what is linked.
        self._before = [f"{_LIBRARIES}/Scrt1.o", f"{_LIBRARIES}/crti.o", f"{gcc}/crtbeginS.o"]
        self._after = [f"{gcc}/crtendS.o", f"{_LIBRARIES}/crtn.o"]
        for path in (LOADER, _ASSEMBLER, _LINKER, *self._before, *self._after):
            if not walk(packages, path):
                raise SpecError(f"initramfs.toolchain: no package has {path}; name the package that has it")
        _check_libraries(packages, (self._compiler, _ASSEMBLER, _LINKER))
        write_tree(packages, work / _TREE)

    def compile(self, source: str) -> None:
        """Makes the object of one source.

        Raises:
            ToolError: it does not compile.
        """
        stem = f"{_OBJECTS}/{source.removesuffix('.c')}"
        include = [word for path in self._include for word in ("-isystem", path)]
        path = f"{_SOURCES}/{source}"
        self._run(self._compiler, *_COMPILE, *include, "-o", f"{stem}.s", path, advice=f"correct {path}")
        self._run(_ASSEMBLER, "--64", "-o", f"{stem}.o", f"{stem}.s", advice="this is a bug; report it")

    def link(self, helper: Helper) -> None:
        """Makes the program of a helper whose sources are compiled.

        Raises:
            ToolError: it does not link.
        """
        objects = [f"{_OBJECTS}/{source.removesuffix('.c')}.o" for source in helper.sources]
        search = [f"-L{path}" for path in self._search]
        before, after = ([f"{_TREE}/{path}" for path in paths] for paths in (self._before, self._after))
        libraries = [f"-l{name}" for name in (*helper.libraries, "gcc", "c")]
        # Libraries of libraries: the linker looks whether they have what those need.
        also = ["-rpath-link", f"{_TREE}/{_LIBRARIES}"]
        output = ["-o", f"{_PROGRAMS}/{helper.name}"]
        words = [*_LINK, *output, *search, *also, *before, *objects, *libraries, *after]
        self._run(
            _LINKER, *words, advice=f"correct the header lines or the code of {_SOURCES}/{helper.name}.c"
        )

    def _run(self, program: str, *arguments: str, advice: str) -> None:
        """Runs a program of the packages in the folder of the work."""
        run_by_loader(
            _TREE,
            program,
            arguments,
            libraries=[_LIBRARIES],
            environment=_ENVIRONMENT,
            cwd=self._work,
            timeout=_TIMEOUT,
            advice=advice,
        )


def _check_libraries(tree: FileTree, programs: Sequence[str]) -> None:
    """Checks that the packages have every library of their programs; the loader would take this machine's."""
    waiting, seen = list(programs), set(programs)
    while waiting:
        real = walk(tree, waiting.pop())[-1]
        for library in needed(tree[real].read(), real).libraries:
            path = f"{_LIBRARIES}/{library}"
            if not walk(tree, path):
                what = f"{real} needs {library}, which no package has"
                raise SpecError(f"initramfs.toolchain: {what}; name the package of {library}")
            if path not in seen:
                seen.add(path)
                waiting.append(path)


def write_tree(tree: FileTree, folder: Path) -> None:
    """Writes the directories, files and links of a tree, owned by who runs this; devices have no use here.

    Links that begin at the root lead to the same place in ``folder``.
    """
    for path, node in tree.sorted():
        place = folder / path
        if node.type is NodeType.DIRECTORY:
            place.mkdir(parents=True, exist_ok=True)
        elif node.type is NodeType.FILE:
            _write_file(place, node)
        elif node.type is NodeType.HARDLINK:
            _write_file(place, tree[node.target])
        elif node.type is NodeType.SYMLINK:
            above = posixpath.dirname(path)
            target = posixpath.normpath(posixpath.join("/", above, node.target)).lstrip("/")
            place.symlink_to(posixpath.relpath(target, above))


def _write_file(place: Path, node: Node) -> None:
    with place.open("xb") as out:
        for chunk in node.payload.chunks() if node.payload else ():
            out.write(chunk)
    if node.mode & 0o100:
        place.chmod(0o700)


def _write(place: Path, data: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
