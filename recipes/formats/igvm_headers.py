"""The headers that an IGVM file is made of: their types, their contents, and what has to hold of each.

Spec: microsoft/igvm 0f363b7, igvm_defs/src/lib.rs; each class names the structure there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, NamedTuple

from ..binary import Struct, raw, u8, u16, u32, u64
from ..errors import FormatError
from ..units import MIB, PAGE_SIZE

# Physical addresses of x86 have no more bits. Spec: AMD64 APM volume 2, section 5.1.
_ADDRESS_END = 1 << 52
# Ours: a parameter area holds a table or two.
_MAX_AREA = 16 * MIB
_DAMAGED = "the file is damaged"
# (0) guest address, (8) mask, (12) place in the file, (16) flags, (20) type, (22) reserved
_PAGE_DATA = struct.Struct("<QIIIHH")


class PlatformType(IntEnum):
    """Which kind of isolation a platform has. Spec: IgvmPlatformType."""

    NATIVE = 0
    VSM_ISOLATION = 1
    SEV_SNP = 2
    TDX = 3
    SEV = 4
    SEV_ES = 5


class InitializationType(IntEnum):
    """Headers before the directives. Spec: IgvmVariableHeaderType."""

    GUEST_POLICY = 0x101
    RELOCATABLE_REGION = 0x102
    PAGE_TABLE_RELOCATION_REGION = 0x103


class DirectiveType(IntEnum):
    """Commands to the loader. Spec: IgvmVariableHeaderType."""

    PARAMETER_AREA = 0x301
    PAGE_DATA = 0x302
    PARAMETER_INSERT = 0x303
    VP_CONTEXT = 0x304
    REQUIRED_MEMORY = 0x305
    VP_COUNT_PARAMETER = 0x307
    SRAT = 0x308
    MADT = 0x309
    MMIO_RANGES = 0x30A
    SNP_ID_BLOCK = 0x30B
    MEMORY_MAP = 0x30C
    ERROR_RANGE = 0x30D
    COMMAND_LINE = 0x30E
    SLIT = 0x30F
    PPTT = 0x310
    VBS_MEASUREMENT = 0x311
    DEVICE_TREE = 0x312
    ENVIRONMENT_INFO_PARAMETER = 0x313


class PageDataType(IntEnum):
    """What kind of page is loaded. Spec: IgvmPageDataType."""

    NORMAL = 0
    SECRETS = 1
    CPUID_DATA = 2
    CPUID_XF = 3


class SupportedPlatform(Struct):
    """A platform that the file is for. Spec: IGVM_VHS_SUPPORTED_PLATFORM."""

    compatibility_mask: u32
    highest_vtl: u8
    platform_type: u8
    platform_version: u16
    shared_gpa_boundary: u64


class GuestPolicy(Struct):
    """The guest policy on some platforms. Spec: IGVM_VHS_GUEST_POLICY."""

    policy: u64
    compatibility_mask: u32
    reserved_0x0c: u32


class ParameterArea(Struct):
    """Memory that the host fills with parameters. Spec: IGVM_VHS_PARAMETER_AREA."""

    number_of_bytes: u64
    parameter_area_index: u32
    file_offset: u32


class PageData(NamedTuple):
    """A page of the guest; a file offset of zero is a page of zeros. Spec: IGVM_VHS_PAGE_DATA.

    A plain tuple with a plain codec, because there is one for each page.
    """

    gpa: int
    compatibility_mask: int
    file_offset: int
    flags: int
    data_type: int
    reserved_0x16: int

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0, *, source: str = "bytes") -> PageData:
        """The header at ``offset``.

        Raises:
            FormatError: fewer than 24 bytes are left.
        """
        if len(data) - offset < _PAGE_DATA.size:
            raise FormatError(source, f"{len(data)} bytes end in a page; {_DAMAGED}", offset=offset)
        return cls(*_PAGE_DATA.unpack_from(data, offset))

    @property
    def is_2mb(self) -> bool:
        """Whether the page has 2 MiB."""
        return bool(self.flags & 1)

    @property
    def unmeasured(self) -> bool:
        """Whether its content is not measured."""
        return bool(self.flags & 2)

    @property
    def shared(self) -> bool:
        """Whether the host sees it."""
        return bool(self.flags & 4)


class ParameterInsert(Struct):
    """Where a parameter area goes. Spec: IGVM_VHS_PARAMETER_INSERT."""

    gpa: u64
    compatibility_mask: u32
    parameter_area_index: u32


class VpContext(Struct):
    """First registers of a virtual CPU, of SEV-SNP a VMSA page. Spec: IGVM_VHS_VP_CONTEXT."""

    gpa: u64
    compatibility_mask: u32
    file_offset: u32
    vp_index: u16
    reserved_0x12: u16


class RequiredMemory(Struct):
    """Memory that has to be there. Spec: IGVM_VHS_REQUIRED_MEMORY."""

    gpa: u64
    compatibility_mask: u32
    number_of_bytes: u32
    flags: u32
    reserved_0x14: u32


class SnpIdBlock(Struct):
    """An ID block with its signatures. Spec: IGVM_VHS_SNP_ID_BLOCK."""

    compatibility_mask: u32
    author_key_enabled: u8
    reserved_0x05: Annotated[bytes, raw(3)]
    ld: Annotated[bytes, raw(48)]
    family_id: Annotated[bytes, raw(16)]
    image_id: Annotated[bytes, raw(16)]
    version: u32
    guest_svn: u32
    id_key_algorithm: u32
    author_key_algorithm: u32
    id_key_signature: Annotated[bytes, raw(144)]
    id_public_key: Annotated[bytes, raw(152)]
    author_key_signature: Annotated[bytes, raw(144)]
    author_public_key: Annotated[bytes, raw(152)]


HeaderValue = (
    SupportedPlatform
    | GuestPolicy
    | ParameterArea
    | PageData
    | ParameterInsert
    | VpContext
    | RequiredMemory
    | SnpIdBlock
)

# A place in a parameter area. Spec: IGVM_VHS_PARAMETER.
_PARAMETER: tuple[int, None] = (8, None)
# Bytes of each type of header, and its layout where its content matters here.
HEADERS: dict[int, tuple[int, type[HeaderValue] | None]] = {
    0x1: (SupportedPlatform.SIZE, SupportedPlatform),
    InitializationType.GUEST_POLICY: (GuestPolicy.SIZE, GuestPolicy),
    InitializationType.RELOCATABLE_REGION: (48, None),
    InitializationType.PAGE_TABLE_RELOCATION_REGION: (32, None),
    DirectiveType.PARAMETER_AREA: (ParameterArea.SIZE, ParameterArea),
    DirectiveType.PAGE_DATA: (_PAGE_DATA.size, PageData),
    DirectiveType.PARAMETER_INSERT: (ParameterInsert.SIZE, ParameterInsert),
    DirectiveType.VP_CONTEXT: (VpContext.SIZE, VpContext),
    DirectiveType.REQUIRED_MEMORY: (RequiredMemory.SIZE, RequiredMemory),
    DirectiveType.VP_COUNT_PARAMETER: _PARAMETER,
    DirectiveType.SRAT: _PARAMETER,
    DirectiveType.MADT: _PARAMETER,
    DirectiveType.MMIO_RANGES: _PARAMETER,
    DirectiveType.SNP_ID_BLOCK: (SnpIdBlock.SIZE, SnpIdBlock),
    DirectiveType.MEMORY_MAP: _PARAMETER,
    DirectiveType.ERROR_RANGE: (16, None),
    DirectiveType.COMMAND_LINE: _PARAMETER,
    DirectiveType.SLIT: _PARAMETER,
    DirectiveType.PPTT: _PARAMETER,
    DirectiveType.VBS_MEASUREMENT: (864, None),
    DirectiveType.DEVICE_TREE: _PARAMETER,
    DirectiveType.ENVIRONMENT_INFO_PARAMETER: _PARAMETER,
}


@dataclass(frozen=True)
class Head:
    """Where a header stands.

    Attributes:
        offset: in the file.
        data_start: where the file data begins.
        size: of the file.
    """

    source: str
    offset: int
    data_start: int
    size: int

    def error(self, what: str) -> FormatError:
        """The complaint about this header."""
        return FormatError(self.source, f"{what}; {_DAMAGED}", offset=self.offset)


def check_value(value: HeaderValue, head: Head) -> None:
    """Checks what has to hold of a header by itself.

    Raises:
        FormatError: it does not.
    """
    match value:
        case PageData():
            _check_page(value, head)
        case ParameterArea():
            _check_area(value, head)
        case ParameterInsert():
            _check_address(value.gpa, head)
        case VpContext():
            _check_address(value.gpa, head)
            _check_reserved(value.reserved_0x12, head)
            _check_data(value.file_offset, head)
        case RequiredMemory():
            _check_address(value.gpa, head)
            _check_reserved(value.reserved_0x14, head)
        case GuestPolicy():
            _check_reserved(value.reserved_0x0c, head)
        case SnpIdBlock():
            _check_reserved(int.from_bytes(value.reserved_0x05, "little"), head)
        case SupportedPlatform():
            pass  # its mask is checked beside those of the other platforms


def _check_page(page: PageData, head: Head) -> None:
    _check_address(page.gpa, head)
    _check_reserved(page.reserved_0x16 | page.flags >> 3, head)
    if page.data_type > PageDataType.CPUID_XF:
        raise head.error(f"a page has the data type {page.data_type}, none that is known")
    if page.is_2mb and page.gpa % (2 * MIB):
        raise head.error(f"a page of 2 MiB is at {page.gpa:#x}, between two of them")
    if page.file_offset:
        _check_data(page.file_offset, head)


def _check_area(area: ParameterArea, head: Head) -> None:
    size = area.number_of_bytes
    if not 0 < size <= _MAX_AREA or size % PAGE_SIZE:
        raise head.error(f"a parameter area has {size} bytes, not whole pages up to {_MAX_AREA} bytes")


def _check_address(address: int, head: Head) -> None:
    if address % PAGE_SIZE or address > _ADDRESS_END - PAGE_SIZE:
        raise head.error(f"{address:#x} is not the address of a page")


def _check_reserved(value: int, head: Head) -> None:
    if value:
        raise head.error("what is reserved in a header is not zero")


def _check_data(offset: int, head: Head) -> None:
    """Checks that a page's content lies in the file data."""
    if not head.data_start <= offset <= head.size - PAGE_SIZE:
        raise head.error(f"a page's content at {offset:#x} is not in the file data")
