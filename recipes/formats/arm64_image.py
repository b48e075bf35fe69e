"""The header of an arm64 kernel Image, and the names of what people give in its place.

Monitors that load a kernel themselves copy the file as it is: nothing unpacks a compressed kernel, and a
realm that starts in the middle of one is measured all the same and never boots.

Spec: Linux Documentation/arch/arm64/booting.rst section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..binary import Struct, raw, u32, u64
from ..errors import FormatError
from ..units import KIB
from .pe import PE_MAGIC, CoffHeader, SectionHeader

MAGIC = b"ARM\x64"  # booting.rst: 0x644d5241, at MAGIC_OFFSET
MAGIC_OFFSET = 56
HEADER_SIZE = 64
HEAD_SIZE = KIB  # ours: what the file's start has to hold so that every other kind is recognised
_ADVICE = "an uncompressed arm64 kernel Image is needed"
_SPEC = "Linux Documentation/arch/arm64/booting.rst section 4"
_MZ = b"MZ"  # PE Format: the MS-DOS stub; what an Image with EFI stub starts with, too


class Arm64ImageHeader(Struct):
    """The first 64 bytes; code and reserved fields may have any value. Spec: booting.rst section 4."""

    code0: u32
    code1: u32
    text_offset: u64
    image_size: u64
    flags: u64
    reserved_0x20: u64
    reserved_0x28: u64
    reserved_0x30: u64
    magic: Annotated[bytes, raw(4)]
    pe_offset: u32


@dataclass(frozen=True, kw_only=True)
class Arm64Image:
    """What the header says; nothing bounds the numbers, and who loads the kernel checks that they fit.

    Attributes:
        text_offset: bytes from a 2 MiB boundary of RAM to the start of the file.
        image_size: bytes that the running kernel needs from there, its zeroed data included; 0 in kernels
            before 3.17, which leave it open.
        flags: as stored, bits 4 and up are reserved.
    """

    text_offset: int
    image_size: int
    flags: int

    @property
    def big_endian(self) -> bool:
        """Whether the kernel runs big-endian: flags bit 0. Monitors do not look, so it is no error here."""
        return bool(self.flags & 1)

    @property
    def page_size(self) -> int:
        """Bytes of the kernel's pages, 0 if it does not say: flags bits 1 and 2."""
        return (0, 4 * KIB, 16 * KIB, 64 * KIB)[self.flags >> 1 & 3]

    @property
    def anywhere(self) -> bool:
        """Whether the 2 MiB boundary may be any in RAM rather than one near its start: flags bit 3."""
        return bool(self.flags & 8)


def read_header(head: bytes, file_size: int, source: str, *, allow_raw: bool = False) -> Arm64Image | None:
    """What the header of a kernel says; None for a file without one that is nothing else we know.

    Args:
        head: the file's first ``HEAD_SIZE`` bytes, or all of a shorter one.
        file_size: bytes of the whole file.
        source: its name, for messages.
        allow_raw: take a file without header, as kvmtool does (arm/aarch64/kvm.c
            ``kvm__arch_get_kern_offset``). A compressed kernel or one of another machine is refused even so.

    Raises:
        FormatError: empty, too short for a header, shorter than its EFI stub says, some other kind of file,
            or none we know and not ``allow_raw``.
    """
    if file_size < HEADER_SIZE:
        size = f"{file_size} bytes are no kernel" if file_size else "the file is empty"
        raise FormatError(source, f"{size}; {_ADVICE}")
    if head[MAGIC_OFFSET : MAGIC_OFFSET + len(MAGIC)] == MAGIC:
        header = Arm64ImageHeader.unpack(head, source=source)
        if head[: len(_MZ)] == _MZ:
            _check_stored(head, header.pe_offset, file_size, source)
        return Arm64Image(text_offset=header.text_offset, image_size=header.image_size, flags=header.flags)
    kind = foreign_kind(head)
    if kind is not None:
        raise FormatError(source, f"this is {kind.name}; {kind.advice}")
    if allow_raw:
        return None
    found = head[MAGIC_OFFSET : MAGIC_OFFSET + len(MAGIC)].hex()
    what = f"magic {found}, not {MAGIC.hex()}; {_ADVICE}"
    raise FormatError(source, what, offset=MAGIC_OFFSET, spec=_SPEC)


def _check_stored(head: bytes, pe_offset: int, file_size: int, source: str) -> None:
    """Refuses an Image whose EFI stub names bytes behind the end of the file.

    The Image header alone does not tell: its size counts what is not stored, too. Headers behind ``head`` are
    not looked at, those of Linux end far before.

    Spec: Microsoft PE Format, "Section Table"; Linux arch/arm64/kernel/efi-header.S.
    """
    coff_at = pe_offset + len(PE_MAGIC)
    if head[pe_offset:coff_at] != PE_MAGIC or coff_at + CoffHeader.SIZE > len(head):
        return
    coff = CoffHeader.unpack(head, coff_at, source=source)
    table = coff_at + CoffHeader.SIZE + coff.size_of_optional_header
    count = min(coff.number_of_sections, max(len(head) - table, 0) // SectionHeader.SIZE)
    for index in range(count):
        section = SectionHeader.unpack(head, table + index * SectionHeader.SIZE, source=source)
        end = section.pointer_to_raw_data + section.size_of_raw_data
        if section.size_of_raw_data and end > file_size:
            what = f"truncated: its EFI stub has content up to {end:#x}, the file ends at {file_size:#x}"
            raise FormatError(source, f"{what}; copy the kernel again", spec="Microsoft PE Format")


@dataclass(frozen=True)
class ForeignKind:
    """A kind of file that is no arm64 Image: what to call it, and what to do about it."""

    name: str
    advice: str


def foreign_kind(head: bytes) -> ForeignKind | None:
    """What a file is that starts so, if we know it; an arm64 Image with EFI stub is an EFI program, too."""
    if head[:2] == _MZ and head[4:8] == b"zimg":
        return _zboot(head)
    return next((kind for at, start, kind in _KINDS if head[at : at + len(start)] == start), None)


def _zboot(head: bytes) -> ForeignKind:
    """An EFI zboot kernel. Spec: Linux drivers/firmware/efi/libstub/zboot-header.S (method as text at 24)."""
    text = head[24:32].split(b"\0")[0]
    method = f" ({text.decode()}-compressed)" if text.isalnum() else ""
    return ForeignKind(f"an EFI zboot kernel{method}", f"{_ADVICE}, take its payload out and unpack it")


def _compressed(name: str, command: str) -> ForeignKind:
    return ForeignKind(f"{name}-compressed data", f"{_ADVICE}, unpack it with {command}")


def _kernel_of(machine: str) -> ForeignKind:
    return ForeignKind(f"a Linux kernel for {machine}", "take that of an arm64 package or build")


# Offset and bytes that tell a kind, the most particular first; MZ stands in front of several.
_KINDS: tuple[tuple[int, bytes, ForeignKind], ...] = (
    # Linux lib/decompress.c compressed_formats, with the further magic bytes of each format's own document
    (0, b"\x1f\x8b\x08", _compressed("gzip", "gunzip")),
    (0, b"\xfd7zXZ\0", _compressed("xz", "unxz")),
    (0, b"\x28\xb5\x2f\xfd", _compressed("zstd", "unzstd")),
    (0, b"\x04\x22\x4d\x18", _compressed("lz4", "unlz4")),
    (0, b"\x02\x21\x4c\x18", _compressed("lz4 (legacy)", "unlz4")),
    (0, b"BZh", _compressed("bzip2", "bunzip2")),
    (0, b"\x89LZO\0", _compressed("lzop", "lzop -d")),
    (0, b"\x5d\0\0", _compressed("lzma", "unlzma")),
    # gabi 4.1: the ELF identification
    (0, b"\x7fELF", ForeignKind("an ELF file", f"{_ADVICE}: `objcopy -O binary` makes it of vmlinux")),
    # Linux Documentation/arch/x86/boot.rst: header magic
    (0x202, b"HdrS", _kernel_of("x86 (bzImage)")),
    # Linux arch/arm/boot/compressed/head.S: magic number 0x016f2818
    (0x24, b"\x18\x28\x6f\x01", _kernel_of("32-bit Arm (zImage)")),
    # Linux Documentation/arch/riscv/boot-image-header.rst: magic2
    (MAGIC_OFFSET, b"RSC\x05", _kernel_of("RISC-V")),
    # PE Format, MS-DOS stub
    (
        0,
        _MZ,
        ForeignKind(
            "an EFI program (PE)", f"{_ADVICE}; that of a unified kernel image is its section .linux"
        ),
    ),
    # Devicetree Specification v0.4 section 5.2; also the start of a FIT image
    (0, b"\xd0\x0d\xfe\xed", ForeignKind("a device tree or FIT image", _ADVICE)),
    # U-Boot include/image.h IH_MAGIC
    (0, b"\x27\x05\x19\x56", ForeignKind("a U-Boot uImage", _ADVICE)),
    # Linux Documentation/driver-api/early-userspace/buffer-format.rst
    (0, b"070701", ForeignKind("a cpio archive", f"it may be the initramfs; {_ADVICE}")),
    # deb(5)
    (0, b"!<arch>\n", ForeignKind("an archive or Debian package", f"{_ADVICE}; unpack it")),
)
