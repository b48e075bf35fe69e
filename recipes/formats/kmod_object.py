"""One kernel module: decompressed, and what its ELF sections say about its name, needs and symbols.

The three structures are read here and not with a general ELF library: an index wants every module of a
kernel, and bytes that somebody else made may only ever give a ``FormatError``.

Spec: System V ABI, "Object Files" (ELF64 header, section header, symbol); kmod 30, libkmod/libkmod-elf.c
(which symbols count as exported and as needed), libkmod-module.c (``.modinfo`` is NUL-separated key=value).
"""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import zlib
from dataclasses import dataclass
from typing import Annotated

from ..binary import Struct, raw, u16, u32, u64
from ..errors import FormatError
from ..units import MIB

SUFFIXES = (
    ".ko",
    ".ko.gz",
    ".ko.xz",
    ".ko.zst",
)  # kmod 30 libkmod-file.c: the compressions a module may have
MODULE_LIMIT = 128 * MIB  # several times the largest module of a distribution kernel
_XZ_MEMORY = 256 * MIB  # memory the largest xz preset needs to decompress is 65 MiB (xz(1), table of presets)
_ELF64_LSB = b"\x7fELF\x02\x01\x01"  # magic, ELFCLASS64, ELFDATA2LSB, EV_CURRENT
_ET_REL, _SHT_NOBITS, _SHN_UNDEF = 1, 8, 0
_VERSION_ENTRY = 64  # libkmod-elf.c: struct kmod_modversion64, an 8-byte CRC and a 56-byte name
_SPEC = "System V ABI ELF64"


class _ElfHeader(Struct):
    ident: Annotated[bytes, raw(16)]
    type: u16
    machine: u16
    version: u32
    entry: u64
    phoff: u64
    shoff: u64
    flags: u32
    ehsize: u16
    phentsize: u16
    phnum: u16
    shentsize: u16
    shnum: u16
    shstrndx: u16


class _Section(Struct):
    name: u32
    type: u32
    flags: u64
    addr: u64
    offset: u64
    size: u64
    link: u32
    info: u32
    addralign: u64
    entsize: u64


_SYMBOL = struct.Struct("<IBBHQQ")  # ELF64 symbol: name, info, other, shndx, value, size


@dataclass(frozen=True)
class ModuleInfo:
    """What a module says about itself.

    Attributes:
        name: as the kernel knows it, with underscores.
        filename: the path it was read from.
        depends: names of ``depends=``, with underscores.
        soft_before, soft_after: names of ``softdep=pre: ... post: ...``, verbatim; they may be aliases.
        softdeps, weakdeps, aliases: the raw values, in file order.
        exports: symbols other modules may use.
        needs: undefined symbols in the order depmod resolves them.
    """

    name: str
    filename: str
    depends: tuple[str, ...] = ()
    soft_before: tuple[str, ...] = ()
    soft_after: tuple[str, ...] = ()
    softdeps: tuple[str, ...] = ()
    weakdeps: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


def module_name(path: str) -> str | None:
    """The kernel's name of the module in a file, with underscores; None when the file is no module."""
    base = path.rpartition("/")[2]
    for suffix in SUFFIXES:
        if base.endswith(suffix) and base != suffix:
            return base.removesuffix(suffix).replace("-", "_")
    return None


def decompress(data: bytes, filename: str) -> bytes:
    """The ELF file inside a ``.ko``, ``.ko.gz``, ``.ko.xz`` or ``.ko.zst``, at most 128 MiB.

    Raises:
        FormatError: the compressed stream is damaged, incomplete, followed by other bytes, or too large.
    """
    if filename.endswith(".xz"):
        plain = _unxz(data, filename)
    elif filename.endswith(".gz"):
        plain = _gunzip(data, filename)
    elif filename.endswith(".zst"):
        plain = _unzstd(data, filename)
    else:
        plain = data
    if len(plain) > MODULE_LIMIT:
        raise FormatError(
            filename, f"the module is larger than {MODULE_LIMIT} bytes; this is no kernel module"
        )
    return plain


def _unxz(data: bytes, filename: str) -> bytes:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    try:
        plain = decoder.decompress(data, MODULE_LIMIT + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise FormatError(filename, f"the xz stream is damaged ({error})") from None
    if len(plain) <= MODULE_LIMIT and (not decoder.eof or decoder.unused_data):
        raise FormatError(filename, "the xz stream is incomplete or followed by other bytes")
    return plain


def _gunzip(data: bytes, filename: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return file.read(MODULE_LIMIT + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise FormatError(filename, f"the gzip stream is damaged ({error})") from None


def _unzstd(data: bytes, filename: str) -> bytes:
    import zstandard

    try:
        expected = zstandard.get_frame_parameters(data).content_size
        with zstandard.ZstdDecompressor(max_window_size=MODULE_LIMIT).stream_reader(data) as reader:
            plain = reader.read(MODULE_LIMIT + 1)
    except zstandard.ZstdError as error:
        raise FormatError(filename, f"the zstd stream is damaged ({error})") from None
    if expected not in (zstandard.CONTENTSIZE_UNKNOWN, len(plain)):
        raise FormatError(filename, f"the zstd stream gives {len(plain)} bytes and announces {expected}")
    return plain


class _Object:
    """The sections of one relocatable ELF64 file."""

    def __init__(self, data: bytes, filename: str) -> None:
        self.data, self.filename = data, filename
        header = _ElfHeader.unpack(data, source=filename)
        if header.ident[:7] != _ELF64_LSB or header.type != _ET_REL:
            got = f"{header.ident[:7].hex()}, type {header.type}"
            raise FormatError(
                filename, f"ELF identification is {got}, expected a little-endian ELF64 relocatable file"
            )
        if header.shentsize != _Section.SIZE or not 0 <= header.shstrndx < header.shnum:
            what = f"{header.shnum} sections of {header.shentsize} bytes, names in {header.shstrndx}"
            raise FormatError(filename, f"{what}: no usable section table", offset=0x3A, spec=_SPEC)
        sections = [
            _Section.unpack(data, header.shoff + _Section.SIZE * index, source=filename)
            for index in range(header.shnum)
        ]
        names = self.content(sections[header.shstrndx])
        self.sections: dict[bytes, _Section] = {}
        for section in sections:
            self.sections.setdefault(self.string(names, section.name), section)

    def content(self, section: _Section) -> bytes:
        """The bytes of a section."""
        if section.type == _SHT_NOBITS:
            return b""
        if section.offset + section.size > len(self.data):
            what = f"a section of {section.size} bytes ends after the {len(self.data)} bytes of the file"
            raise FormatError(self.filename, what, offset=section.offset, spec=_SPEC)
        return self.data[section.offset : section.offset + section.size]

    def named(self, name: bytes) -> bytes:
        """The bytes of the first section of that name; empty when there is none."""
        section = self.sections.get(name)
        return self.content(section) if section else b""

    def string(self, table: bytes, offset: int) -> bytes:
        """The NUL-terminated string at ``offset`` of a string table."""
        end = table.find(b"\0", offset)
        if offset >= len(table) or end < 0:
            what = f"string at {offset:#x} is outside its table of {len(table)} bytes"
            raise FormatError(self.filename, what, spec=_SPEC)
        return table[offset:end]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _unique(names: list[bytes]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_text(name) for name in names))


def _symbols(elf: _Object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Exported symbols, and undefined ones in the order of ``kmod_elf_get_dependency_symbols``."""
    table, strings = elf.named(b".symtab"), elf.named(b".strtab")
    if len(table) % _SYMBOL.size:
        what = f".symtab has {len(table)} bytes, expected a multiple of {_SYMBOL.size}"
        raise FormatError(elf.filename, what, spec=_SPEC)
    exports: list[bytes] = []
    needs: list[bytes] = []
    find, size = strings.find, len(strings)
    for name_at, _, _, section, _, _ in _SYMBOL.iter_unpack(table[_SYMBOL.size :]):
        if section == _SHN_UNDEF or strings.startswith(b"__crc_", name_at):
            end = find(b"\0", name_at)
            if name_at >= size or end < 0:
                raise FormatError(elf.filename, f"symbol name at {name_at:#x} is outside .strtab", spec=_SPEC)
            name = strings[name_at:end]
            if name.startswith(b"__crc_"):
                exports.append(name[6:])
            elif name:
                needs.append(name)
    versions = elf.named(b"__versions")
    if len(versions) % _VERSION_ENTRY == 0:
        starts = range(8, len(versions), _VERSION_ENTRY)
        needs.extend(versions[at : at + _VERSION_ENTRY - 8].partition(b"\0")[0] for at in starts)
    if not exports:
        exports = [name for name in elf.named(b"__ksymtab_strings").split(b"\0") if name]
    return _unique(exports), _unique(needs)


def split_softdep(value: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names before and after in ``pre: a b post: c``; a name before both words counts for nothing.

    Spec: kmod 30, libkmod/libkmod-config.c ``kmod_config_add_softdep``.
    """
    before: list[str] = []
    after: list[str] = []
    target: list[str] | None = None
    for word in value.split():
        if word in ("pre:", "post:"):
            target = before if word == "pre:" else after
        elif target is not None:
            target.append(word)
    return tuple(before), tuple(after)


def read_module(data: bytes, filename: str) -> ModuleInfo:
    """What the module in a file, compressed as its name says, says about itself.

    Raises:
        FormatError: the compression or the ELF file is damaged, or the name is not that of a module.
    """
    name = module_name(filename)
    if name is None:
        raise FormatError(filename, f"not the name of a module; expected one of {', '.join(SUFFIXES)}")
    elf = _Object(decompress(data, filename), filename)
    info: dict[str, list[str]] = {}
    for item in elf.named(b".modinfo").split(b"\0"):
        key, equals, value = item.partition(b"=")
        if equals:
            info.setdefault(_text(key), []).append(_text(value))
    depends = [word for value in info.get("depends", []) for word in value.split(",") if word]
    soft = [split_softdep(value) for value in info.get("softdep", [])]
    exports, needs = _symbols(elf)
    return ModuleInfo(
        name=name,
        filename=filename,
        depends=tuple(word.replace("-", "_") for word in depends),
        soft_before=tuple(word for before, _ in soft for word in before),
        soft_after=tuple(word for _, after in soft for word in after),
        softdeps=tuple(info.get("softdep", [])),
        weakdeps=tuple(info.get("weakdep", [])),
        aliases=tuple(info.get("alias", [])),
        exports=exports,
        needs=needs,
    )
