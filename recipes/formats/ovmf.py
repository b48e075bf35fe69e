"""What OVMF and AAVMF firmware files hold for a TPM: the volumes that PCR 0 covers.

    x86      volume at 0 (FVMAIN_COMPACT) > file of type 0x0b > LZMA section > two volumes: PEIFV, DXEFV
    aarch64  volume at 0x1000, measured as it lies in flash

The x86 volumes are hashed from memory, after PEI modules ran in PEIFV and wrote to their data; the bytes here
are those of the file, before any such write.

Spec: edk2-stable202502 OvmfPkg/OvmfPkgX64.fdf, OvmfPkg/Sec/SecMain.c DecompressMemFvs(),
ArmVirtPkg/ArmVirtQemu.fdf; both measured by SecurityPkg/Tcg/Tcg2Pei/Tcg2Pei.c MeasureMainBios().
"""

from __future__ import annotations

import lzma
from uuid import UUID

from ..errors import FormatError
from ..units import MIB
from .efi import encode_utf16
from .firmware_volume import (
    EFI_FV_FILETYPE_FIRMWARE_VOLUME_IMAGE,
    EFI_SECTION_FIRMWARE_VOLUME_IMAGE,
    EFI_SECTION_GUID_DEFINED,
    files,
    guided_section,
    sections,
    volume_header,
)

# Spec: edk2-stable202502 MdeModulePkg/MdeModulePkg.dec gLzmaCustomDecompressGuid.
LZMA_CUSTOM_DECOMPRESS = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
# Where the first volume lies in AAVMF's flash. Spec: edk2-stable202502 ArmVirtPkg/ArmVirtQemu.fdf
# [FD.QEMU_EFI].
AARCH64_VOLUME_OFFSET = 0x1000
# Builds inflate to 13 to 16 MiB; more is refused, so a small file cannot fill memory.
MAX_INFLATED = 64 * MIB
# Dictionary and state of the decoder; OVMF builds use a dictionary of 16 MiB.
_MAX_LZMA_MEMORY = 80 * MIB
# lzma-alone header: properties, u32 dictionary size, u64 inflated size.
_LZMA_HEADER_SIZE = 13


def measured_volumes(code: bytes | memoryview, source: str) -> tuple[bytes, ...]:
    """PEIFV and DXEFV of an x86 OVMF file, inflated, in the order they are measured in.

    Args:
        code: ``OVMF_CODE*.fd``, or a file without variable store in front.

    Raises:
        FormatError: the file is not made as described above, or inflates to more than 64 MiB.
    """
    for file in files(memoryview(code), source):
        if file.type != EFI_FV_FILETYPE_FIRMWARE_VOLUME_IMAGE:
            continue
        for section in sections(file.data, source):
            if section.type != EFI_SECTION_GUID_DEFINED:
                continue
            encoding, data = guided_section(section, source)
            if encoding == LZMA_CUSTOM_DECOMPRESS:
                return _volume_images(_inflate(data, source), source)
    what = "no LZMA-compressed firmware volume in the first volume; give the code file of an x86 OVMF build"
    raise FormatError(source, what, spec="edk2-stable202502 OvmfPkg/OvmfPkgX64.fdf FV.FVMAIN_COMPACT")


def aarch64_blob(code: bytes | memoryview, source: str) -> bytes:
    """The volume at 0x1000 of an AAVMF file: the one blob that its PCR 0 covers.

    Raises:
        FormatError: there is no valid volume.
    """
    head = volume_header(code, AARCH64_VOLUME_OFFSET, source)
    return bytes(code[AARCH64_VOLUME_OFFSET : AARCH64_VOLUME_OFFSET + head.fv_length])


def contains_utf16(volume: bytes, text: str) -> bool:
    """Whether ``text`` stands in the volume as a NUL-terminated UTF-16 string on an even offset.

    Confirms a firmware version that was given as data: EV_S_CRTM_VERSION hashes it with its NUL. The empty
    version of some builds stands everywhere and confirms nothing.
    """
    needle = encode_utf16(text + "\0")
    at = volume.find(needle)
    while at >= 0 and at % 2:
        at = volume.find(needle, at + 1)
    return at >= 0


def _inflate(data: memoryview, source: str) -> bytes:
    """The content of an lzma-alone stream.

    Raises:
        FormatError: no whole stream, or its size is not given, is wrong or exceeds ``MAX_INFLATED``.
    """
    where = f"{source}: LZMA section"
    size = int.from_bytes(data[5:_LZMA_HEADER_SIZE], "little")
    if len(data) < _LZMA_HEADER_SIZE or size > MAX_INFLATED:
        what = f"{len(data)} bytes that inflate to {size}; a header of 13 and at most {MAX_INFLATED} are read"
        raise FormatError(where, what)
    try:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MAX_LZMA_MEMORY)
        content = decoder.decompress(data, max_length=size + 1)
    except (lzma.LZMAError, MemoryError) as error:
        raise FormatError(where, f"does not inflate ({error}); the file is damaged") from None
    if len(content) != size:
        raise FormatError(where, f"inflates to {len(content)} bytes, its header says {size}")
    return content


def _volume_images(content: bytes, source: str) -> tuple[bytes, ...]:
    where = f"{source}: inflated"
    volumes = []
    for section in sections(memoryview(content), where):
        if section.type == EFI_SECTION_FIRMWARE_VOLUME_IMAGE:
            head = volume_header(section.data, 0, where)
            volumes.append(bytes(section.data[: head.fv_length]))
    if len(volumes) != 2:
        what = f"{len(volumes)} firmware volumes, expected PEIFV and DXEFV"
        raise FormatError(where, what, spec="edk2-stable202502 OvmfPkg/OvmfPkgX64.fdf FV.FVMAIN_COMPACT")
    return tuple(volumes)
