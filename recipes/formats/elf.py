"""What a program needs to start: its loader and its shared libraries, found in a file tree.

Only what the loader itself looks at is read: the ELF header, the program headers and the dynamic table.
Section headers are ignored, so a stripped or damaged section table changes nothing.

Spec: System V ABI, "Object Files" and "Dynamic Linking"; ld.so(8), the search order.
"""

from __future__ import annotations

import io
import posixpath
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import FormatError, SpecError
from .tree import FileTree, Node, NodeType

MACHINES = {"x86_64": 62, "aarch64": 183}  # System V ABI: EM_X86_64, EM_AARCH64
PROGRAM_LIMIT = 64 << 20  # several times the largest library of a distribution (libLLVM aside)
_HEADER_SIZE, _SEGMENT_SIZE, _TAG = 64, 56, struct.Struct("<QQ")  # ELF64: Elf64_Ehdr, Elf64_Phdr, Elf64_Dyn
_SECTION_FIELDS = ((40, 8), (58, 6))  # e_shoff; e_shentsize, e_shnum, e_shstrndx
_ET_EXEC, _ET_DYN = "ET_EXEC", "ET_DYN"
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 15, 29
_MAX_LINKS = 40  # path_resolution(7): the kernel follows at most 40 links
_SPEC = "System V ABI ELF64"


class Linkage(NamedTuple):
    """What one program or library asks the loader for.

    Attributes:
        interpreter: absolute path of the loader; empty for a library and for a static program.
        libraries: DT_NEEDED, in order.
        machine: e_machine as a number.
        runpath: directories of DT_RUNPATH, or of DT_RPATH where there is none, verbatim.
    """

    interpreter: str
    libraries: tuple[str, ...]
    machine: int
    runpath: tuple[str, ...]


@dataclass(frozen=True)
class _Segment:
    type: str
    offset: int
    address: int
    size: int


def needed(data: bytes, source: str) -> Linkage:
    """The loader, the libraries, the machine and the library directories that a program names.

    Raises:
        FormatError: no little-endian ELF64 program or library, or a table in it that leads outside the file.
    """
    machine, segments = _segments(data, source)
    interpreter, table = "", b""
    for segment in segments:
        if segment.type == "PT_INTERP":
            interpreter = _text(_content(data, segment, source), 0, source, segment.offset)
        elif segment.type == "PT_DYNAMIC":
            table = _content(data, segment, source)
    tags = list(_tags(table, source))
    if not tags:
        return Linkage(interpreter, (), machine, ())
    strings = _strings(data, tags, segments, source)
    names = {tag: [_text(strings, at, source, at) for kind, at in tags if kind == tag] for tag in _NAMING}
    runpath = names[_DT_RUNPATH] or names[_DT_RPATH]
    directories = tuple(part for path in runpath for part in path.split(":") if part)
    return Linkage(interpreter, tuple(names[_DT_NEEDED]), machine, directories)


_NAMING = (_DT_NEEDED, _DT_RPATH, _DT_RUNPATH)


def _segments(data: bytes, source: str) -> tuple[int, list[_Segment]]:
    """The machine and the program headers; pyelftools reads both out of a copy without section headers."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    size = len(data)
    if size < _HEADER_SIZE or data[:7] != b"\x7fELF\x02\x01\x01":
        what = f"begins with {data[:7].hex() or 'nothing'}, not with the ident of a little-endian ELF64 file"
        raise FormatError(source, what, offset=0, spec=_SPEC)
    if size > PROGRAM_LIMIT:
        raise FormatError(source, f"is {size} bytes, a program of this kind has at most {PROGRAM_LIMIT}")
    table_offset, entry_size, count = _program_table(data)
    if count and (entry_size != _SEGMENT_SIZE or table_offset + count * entry_size > size or count == 0xFFFF):
        what = (
            f"{count} program headers of {entry_size} bytes at {table_offset:#x} do not fit the {size} bytes"
        )
        raise FormatError(source, what, offset=32, spec=_SPEC)
    header = bytearray(data[:_HEADER_SIZE])
    for offset, length in _SECTION_FIELDS:
        header[offset : offset + length] = bytes(length)
    try:
        elf: Any = ELFFile(io.BytesIO(bytes(header) + data[_HEADER_SIZE:]))
        if elf["e_type"] not in (_ET_EXEC, _ET_DYN):
            raise FormatError(
                source, f"is of type {elf['e_type']}, not a program or a library", offset=16, spec=_SPEC
            )
        found = [elf.get_segment(index).header for index in range(count)]
    except ELFError as error:
        raise FormatError(source, f"is not a readable ELF file ({error})", spec=_SPEC) from None
    machine = struct.unpack_from("<H", data, 18)[0]
    fields = [(str(h["p_type"]), h["p_offset"], h["p_vaddr"], h["p_filesz"]) for h in found]
    return machine, [_Segment(*field) for field in fields]


def _program_table(data: bytes) -> tuple[int, int, int]:
    (offset,) = struct.unpack_from("<Q", data, 32)
    entry_size, count = struct.unpack_from("<HH", data, 54)
    return offset, entry_size, count


def _content(data: bytes, segment: _Segment, source: str) -> bytes:
    if segment.offset + segment.size > len(data):
        what = f"{segment.type} of {segment.size} bytes ends behind the file's {len(data)}; it is truncated"
        raise FormatError(source, what, offset=segment.offset, spec=_SPEC)
    return data[segment.offset : segment.offset + segment.size]


def _tags(table: bytes, source: str) -> Iterator[tuple[int, int]]:
    for offset in range(0, len(table) - _TAG.size + 1, _TAG.size):
        kind, value = _TAG.unpack_from(table, offset)
        if kind == _DT_NULL:
            return
        yield kind, value
    if table:
        raise FormatError(source, f"the dynamic table of {len(table)} bytes has no end (DT_NULL)", spec=_SPEC)


def _strings(data: bytes, tags: list[tuple[int, int]], segments: list[_Segment], source: str) -> bytes:
    """The string table: DT_STRTAB is an address, and a PT_LOAD segment says where in the file that is."""
    values = dict(reversed(tags))
    address, size = values.get(_DT_STRTAB), values.get(_DT_STRSZ)
    if address is None or size is None:
        raise FormatError(source, "the dynamic table names no string table (DT_STRTAB, DT_STRSZ)", spec=_SPEC)
    for segment in segments:
        start = address - segment.address
        if segment.type == "PT_LOAD" and start >= 0 and start + size <= segment.size:
            return _content(data, _Segment("DT_STRTAB", segment.offset + start, address, size), source)
    raise FormatError(source, f"the string table at address {address:#x} is in no loaded segment", spec=_SPEC)


def _text(table: bytes, at: int, source: str, offset: int) -> str:
    end = table.find(b"\0", at) if at < len(table) else -1
    value = table[at:end] if end > at else b""
    if not value or not value.isascii():
        what = f"a name in the dynamic table is {value!r}; want ASCII text that ends in NUL"
        raise FormatError(source, what, offset=offset, spec=_SPEC)
    return value.decode("ascii")


def library_closure(tree: FileTree, binaries: Sequence[str], architecture: str) -> tuple[str, ...]:
    """Every path to copy so that the binaries start, sorted: files, and the links that lead to them.

    Args:
        tree: unpacked packages; ``lib`` may be missing or a link to ``usr/lib``.
        binaries: tree paths, with or without ``usr/``.
        architecture: ``x86_64`` or ``aarch64``.

    Raises:
        SpecError: a binary or a library is not in the tree, or is for another architecture.
        FormatError: a file that is no ELF program or library.
    """
    search = _Search(tree, architecture)
    for binary in binaries:
        search.add(binary, "", f"add the package of {posixpath.basename(binary)} to initramfs.packages")
    return tuple(sorted(search.paths))


class _Search:
    """Breadth-first walk over DT_NEEDED; ``paths`` is what it has found."""

    def __init__(self, tree: FileTree, architecture: str) -> None:
        if architecture not in MACHINES:
            raise SpecError(f"architecture {architecture!r}: unknown; write one of {', '.join(MACHINES)}")
        self.tree, self.architecture = tree, architecture
        self.paths: set[str] = set()
        self.read: set[str] = set()
        triplet = f"{architecture}-linux-gnu"  # Debian Policy 9.1.1 and the Multiarch specification
        self.standard = tuple(
            f"{top}{name}" for top in ("", "usr/") for name in _standard_directories(triplet)
        )

    def add(self, path: str, wanted_by: str, advice: str) -> None:
        """Adds one file with everything it needs."""
        links = walk(self.tree, path)
        if not links:
            who = f"{wanted_by}: needs {path}, which" if wanted_by else f"{path}:"
            raise SpecError(f"{who} is in no package of the initramfs; {advice}")
        self.paths.update(links)
        real = links[-1]
        if real in self.read:
            return
        self.read.add(real)
        linkage = needed(self.tree[real].read(), real)
        if linkage.machine != MACHINES[self.architecture]:
            names = {number: name for name, number in MACHINES.items()}
            other = names.get(linkage.machine, f"machine {linkage.machine}")
            what = f"is for {other}, the image is for {self.architecture}"
            raise SpecError(f"{real}: {what}; take the package of the image's architecture")
        if linkage.interpreter:
            self.add(linkage.interpreter.lstrip("/"), real, "add the package libc6 to initramfs.packages")
        for library in linkage.libraries:
            self.add(
                self.find(library, linkage, real),
                real,
                f"add the package that has {library} to initramfs.packages",
            )

    def find(self, library: str, linkage: Linkage, wanted_by: str) -> str:
        """The tree path the loader would take; just the name when there is none."""
        if "/" in library:
            return library.lstrip("/")
        origin = posixpath.dirname(wanted_by)
        own = (
            entry.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", f"/{origin}")
            for entry in linkage.runpath
        )
        for directory in (*(posixpath.normpath(entry).strip("/") for entry in own), *self.standard):
            if walk(self.tree, f"{directory}/{library}"):
                return f"{directory}/{library}"
        return library


def _standard_directories(triplet: str) -> tuple[str, ...]:
    return f"lib/{triplet}", "lib", "lib64"


def walk(tree: FileTree, path: str) -> tuple[str, ...]:
    """The tree paths a look-up of ``path`` passes: links, then the regular file. Empty when there is none.

    Links between directories (``lib`` -> ``usr/lib``) are followed and not listed. Where the tree lacks those
    of a merged ``/usr``, the path is tried below ``usr`` as well, as base-files would have led it there.
    """
    passed: list[str] = []
    for _ in range(_MAX_LINKS):
        found = _directory_free(tree, path) or _directory_free(tree, f"usr/{path}")
        if not found:
            return ()
        passed.append(found)
        node = tree[found]
        if node.type is NodeType.FILE:
            return tuple(passed)
        if node.type is not NodeType.SYMLINK and node.type is not NodeType.HARDLINK:
            return ()
        path = node.target if node.type is NodeType.HARDLINK else _joined(found, node.target)
    return ()


def _directory_free(tree: FileTree, path: str) -> str:
    """``path`` with every link among its directories resolved, when the tree has it; else empty."""
    parts, done, budget = path.split("/"), "", _MAX_LINKS
    while len(parts) > 1:
        step = posixpath.join(done, parts[0])
        node: Node | None = tree.nodes.get(step)
        if node is not None and node.type is NodeType.SYMLINK and budget:
            budget -= 1
            parts[0:1] = _joined(step, node.target).split("/")
            done = ""
        else:
            done, parts = step, parts[1:]
    final = posixpath.join(done, parts[0])
    return final if final in tree else ""


def _joined(link: str, target: str) -> str:
    """Where a link at tree path ``link`` leads, as a tree path; ``..`` stops at the root."""
    absolute = posixpath.join("/", posixpath.dirname(link), target)
    return posixpath.normpath(absolute).lstrip("/")
