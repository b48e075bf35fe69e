"""Unified kernel images: the stub with the boot payload as PE sections, written by our own PE writer.

Firmware measures the Authenticode digest of the whole file into PCR 4, so the order of the sections is fixed
here; systemd-stub measures each section's name and VirtualSize bytes into PCR 11, in an order of its own.

Spec: UAPI Unified Kernel Image specification, "UKI Components"; systemd 257 src/boot/stub.c and
src/fundamental/uki.c.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..binary import Struct
from ..errors import FormatError
from ..units import align_up
from .pe import (
    CoffHeader,
    Machine,
    OptionalHeader,
    PeImage,
    Section,
    SectionHeader,
)

SPEC = "UAPI Unified Kernel Image specification"

# The order in the file. Ours, and part of what is measured: a change here changes PCR 4 of every image. The
# kernel and the initramfs come last, as in ukify 257, so that small sections keep their place when they grow.
SECTION_ORDER = (
    ".osrel",
    ".cmdline",
    ".uname",
    ".splash",
    ".dtb",
    ".dtbauto",
    ".hwids",
    ".ucode",
    ".profile",
    ".pcrpkey",
    ".pcrsig",
    ".linux",
    ".initrd",
)

SBAT_HEADER = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md"
# The line that says this is a UKI of generation 1. Spec: UAPI UKI specification, section ".sbat"; ukify 257.
UKI_SBAT = "uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/"

# IMAGE_SCN_CNT_INITIALIZED_DATA and IMAGE_SCN_MEM_READ. Spec: Microsoft PE Format, "Section Flags".
SECTION_FLAGS = 0x40000040
_INITIALIZED_DATA = 0x00000040

# Index of the debug directory. Spec: Microsoft PE Format, "Optional Header Data Directories".
_DEBUG_DIRECTORY = 6

# Places are 32-bit; no stub or kernel comes near this.
_IMAGE_LIMIT = 1 << 31

_LOADER_INFO = re.compile(rb"#### LoaderInfo: systemd-stub ([!-~]{1,64}) ####\0?")


@dataclass(frozen=True)
class UkiSection:
    """One payload section: a name of ``SECTION_ORDER`` and exactly the bytes that the stub will measure."""

    name: str
    data: bytes


@dataclass(frozen=True)
class _Placed:
    """A section header without its file offset, and its stored bytes before padding."""

    name: str
    virtual_size: int
    virtual_address: int
    data: bytes | memoryview
    characteristics: int


def build(stub: bytes, sections: Sequence[UkiSection], *, sbat: str | None = None) -> bytes:
    """A unified kernel image, unsigned, with time stamp and checksum zero.

    Payload bytes are never changed; the order of ``sections`` does not matter.

    Args:
        stub: systemd-stub for the kernel's CPU type.
        sbat: SBAT lines instead of the usual ``uki`` one.

    Raises:
        FormatError: the stub is not an unsigned systemd-stub, the kernel is not a PE image of the same CPU
            type, a section is unknown, empty or there twice, or the kernel is missing.
    """
    image = PeImage.parse(stub, "UKI stub")
    stub_version(image)
    _check_stub(image)
    _check_sections(image, sections)
    kernel = PeImage.parse(next(each.data for each in sections if each.name == ".linux"), "section .linux")
    if kernel.coff.machine != image.coff.machine:
        have, want = kernel.coff.machine, image.coff.machine
        raise FormatError(
            "section .linux", f"machine {have:#06x}, the stub has {want:#06x}; take the other stub"
        )
    merged = merge_sbat(image, kernel, sbat)
    ordered = sorted(sections, key=lambda each: SECTION_ORDER.index(each.name))
    return _assemble(image, _place(image, ordered, merged))


def stub_version(image: PeImage | bytes) -> str:
    """Version of systemd-stub in a stub or UKI, such as ``257.13-1~deb13u1``.

    Raises:
        FormatError: not a PE image, or its ``.sdmagic`` section is missing or names another program.
    """
    parsed = image if isinstance(image, PeImage) else PeImage.parse(image, "UKI")
    if parsed.section(".sdmagic") is None:
        raise FormatError(parsed.source, "there is no section .sdmagic; take systemd's linux*.efi.stub")
    magic = parsed.section_data(".sdmagic")
    match = _LOADER_INFO.fullmatch(magic)
    if match is None:
        what = f"section .sdmagic is {magic[:80]!r}, expected '#### LoaderInfo: systemd-stub VERSION ####'"
        raise FormatError(parsed.source, what)
    return match[1].decode("ascii")


def merge_sbat(stub: PeImage, kernel: PeImage, sbat: str | None) -> bytes:
    """Content of the UKI's ``.sbat``: one header, the lines of stub and kernel, then ours, and a NUL.

    Spec: shim SBAT.md; systemd 257 src/ukify/ukify.py.

    Raises:
        FormatError: a ``.sbat`` section is not SBAT, or is not ASCII.
    """
    lines = [SBAT_HEADER]
    for image in (stub, kernel):
        if image.section(".sbat") is not None:
            lines += _sbat_lines(image.section_data(".sbat"), f"{image.source} .sbat")
    own = UKI_SBAT if sbat is None else sbat
    if not own.isascii():
        raise FormatError("sbat", f"{own!r} is not ASCII")
    lines += [line for line in own.splitlines() if line and not line.startswith("sbat,")]
    return "\n".join(lines).encode("ascii") + b"\n\0"


def _sbat_lines(data: bytes, source: str) -> list[str]:
    """The lines behind the header."""
    text = data.rstrip(b"\0")
    if not text.startswith(b"sbat,1,") or not text.isascii() or b"\0" in text:
        raise FormatError(
            source, f"starts with {text[:16]!r}, expected 'sbat,1,' and ASCII text", spec="shim SBAT.md"
        )
    return [line for line in text.decode("ascii").splitlines()[1:] if line]


def _check_stub(image: PeImage) -> None:
    machines = {int(machine): machine.name.lower() for machine in Machine}
    if image.coff.machine not in machines:
        names = ", ".join(f"{number:#06x} ({name})" for number, name in sorted(machines.items()))
        raise FormatError(image.source, f"machine is {image.coff.machine:#06x}, expected one of {names}")
    if image.certificates[1]:
        raise FormatError(
            image.source, "the stub is signed, and adding sections breaks that; take an unsigned one"
        )

    if any(each.size for each in image.directories[_DEBUG_DIRECTORY : _DEBUG_DIRECTORY + 1]):
        # Its entries hold file offsets, which move when the header grows.
        raise FormatError(image.source, "the stub has a debug directory, which is not supported; strip it")


def _check_sections(image: PeImage, sections: Sequence[UkiSection]) -> None:
    seen = {section.name for section in image.sections}
    if len(seen) != len(image.sections):
        raise FormatError(image.source, "two sections have the same name")
    for section in sections:
        if section.name not in SECTION_ORDER:
            known = " ".join(SECTION_ORDER)
            raise FormatError(
                f"section {section.name}", f"not a section of a UKI; known are {known}", spec=SPEC
            )
        if section.name in seen:
            raise FormatError(f"section {section.name}", "there twice; a UKI has each section once")
        if not section.data:
            raise FormatError(f"section {section.name}", "empty; leave it out or give it content")
        seen.add(section.name)
    if ".linux" not in seen:
        raise FormatError("section .linux", "missing; a UKI needs a kernel")


def _place(image: PeImage, payload: Sequence[UkiSection], sbat: bytes) -> list[_Placed]:
    """The sections in file order with their places in memory: the stub's stay, payload goes behind."""
    alignment = image.optional.section_alignment
    placed = [_kept(image, section, sbat) for section in image.sections]
    end = max((section.virtual_end for section in image.sections), default=image.optional.size_of_headers)
    new = [(section.name, section.data) for section in payload]
    if image.section(".sbat") is None:
        new.insert(0, (".sbat", sbat))
    for name, data in new:
        address = align_up(end, alignment)
        end = address + len(data)
        if end > _IMAGE_LIMIT:
            raise FormatError(
                f"section {name}", f"the image would end at {end:#x}; at most {_IMAGE_LIMIT:#x} load"
            )
        placed.append(_Placed(name, len(data), address, data, SECTION_FLAGS))
    return placed


def _kept(image: PeImage, section: Section, sbat: bytes) -> _Placed:
    """A section of the stub; ``.sbat`` gets its new content and must fit in front of the next section."""
    header, span = section.header, section.raw_range
    if section.name != ".sbat":
        data = image.data[span.start : span.stop]
        return _Placed(
            section.name, header.virtual_size, header.virtual_address, data, header.characteristics
        )
    above = [
        other.header.virtual_address
        for other in image.sections
        if other.header.virtual_address > header.virtual_address
    ]
    room = min(above, default=_IMAGE_LIMIT) - header.virtual_address
    if len(sbat) > room:
        raise FormatError(
            "section .sbat", f"{len(sbat)} bytes, the stub has room for {room}; shorten the SBAT lines"
        )
    return _Placed(".sbat", len(sbat), header.virtual_address, sbat, header.characteristics)


def _assemble(image: PeImage, sections: Sequence[_Placed]) -> bytes:
    """The file: the stub's headers with a new section table, then every section padded to FileAlignment."""
    optional, alignment = image.optional, image.optional.file_alignment
    table_end = image.section_table_offset + len(sections) * SectionHeader.SIZE
    size_of_headers = align_up(max(table_end, optional.size_of_headers), alignment)
    lowest = min(section.virtual_address for section in sections)
    if size_of_headers > lowest:
        # Headers are mapped at address 0; they may not run into the first section.
        what = f"{len(sections)} section headers end at {size_of_headers:#x}, sections start at {lowest:#x}"
        raise FormatError(image.source, what)

    headers: list[bytes] = []
    offset = size_of_headers
    initialized = 0
    for section in sections:
        stored = align_up(len(section.data), alignment)
        headers.append(_section_header(section, stored, offset if stored else 0).pack())
        offset += stored
        initialized += stored if section.characteristics & _INITIALIZED_DATA else 0
    end = max(section.virtual_address + max(section.virtual_size, len(section.data)) for section in sections)
    fields = vars(optional) | {
        "size_of_image": align_up(end, optional.section_alignment),
        "size_of_initialized_data": initialized,
        "size_of_headers": size_of_headers,
        "check_sum": 0,
    }
    coff = vars(image.coff) | {
        "number_of_sections": len(sections),
        "time_date_stamp": 0,
        "pointer_to_symbol_table": 0,
        "number_of_symbols": 0,
    }
    top: list[Struct] = [CoffHeader(**coff), OptionalHeader(**fields), *image.directories]
    out = bytearray(image.data[: image.coff_offset])
    for part in (*(each.pack() for each in top), *headers):
        out += part
    out += bytes(size_of_headers - len(out))
    for section in sections:
        out += section.data
        out += bytes(-len(section.data) % alignment)
    return bytes(out)


def _section_header(section: _Placed, stored: int, offset: int) -> SectionHeader:
    return SectionHeader(
        name=section.name.encode("ascii").ljust(8, b"\0"),
        virtual_size=section.virtual_size,
        virtual_address=section.virtual_address,
        size_of_raw_data=stored,
        pointer_to_raw_data=offset,
        pointer_to_relocations=0,
        pointer_to_line_numbers=0,
        number_of_relocations=0,
        number_of_line_numbers=0,
        characteristics=section.characteristics,
    )
