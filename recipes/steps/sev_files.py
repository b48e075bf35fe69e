"""Files that a launch with SEV names, as QEMU takes or refuses them before anything is measured."""

from __future__ import annotations

from pathlib import Path

from ..errors import FormatError, MeasureError
from ..units import KIB, MIB, SECTOR_SIZE, format_size
from ..vmm.sev_values import SevFiles
from .blobs import FileBlob

# Spec: QEMU 10.0 hw/i386/x86-common.c x86_bios_rom_init().
_ROM_UNIT = 64 * KIB
# Of all units of flash. Spec: QEMU 10.0 hw/i386/pc_sysfw.c FLASH_SIZE_LIMIT, pc.c max_fw_size.
_FLASH_LIMIT = 8 * MIB
# What disk images begin with. Spec: QEMU 10.0 block/: the probe function of each format.
_IMAGES = {
    b"QFI\xfb": "qcow2",
    b"QED\0": "QED",
    b"KDMV": "VMDK",
    b"COWD": "VMDK",
    b"# Disk DescriptorFile": "VMDK",
    b"vhdxfile": "VHDX",
    b"conectix": "VHD",
    b"LUKS\xba\xbe": "LUKS",
    b"WithoutFreeSpace": "Parallels",
    b"WithouFreSpacExt": "Parallels",
}
_VDI, _VDI_AT = b"\x7f\x10\xda\xbe", 0x40
_HEAD = 0x80

# Fields of a kernel's header, as much as there has to be of it, and the first version that says how long a
# command line may be. Spec: Linux 6.12 Documentation/arch/x86/boot.rst; QEMU 10.0 hw/i386/x86-common.c
# x86_load_linux().
_SETUP_SECTS, _MAGIC, _PROTOCOL, _LOADFLAGS, _HEADER_END = 0x1F1, 0x202, 0x206, 0x211, 0x238
_OLDEST = 0x206
_LOADED_HIGH = 1


def check_files(files: SevFiles) -> None:
    """Checks sizes and formats of what the firmware is given by.

    Raises:
        FormatError: a file is none, or a disk image where QEMU would take what is in it.
        MeasureError: QEMU does not start with files of these sizes.
    """
    if files.rom:
        size = FileBlob.of(Path(files.firmware)).size
        if size % _ROM_UNIT:
            what = f"{size} bytes, and QEMU takes multiples of {format_size(_ROM_UNIT)}"
            raise MeasureError(f"-bios {files.firmware}: {what}; give the file as it was built")
    present = [path for path in map(Path, files.flash) if path.exists()]
    size = sum(FileBlob.of(path).size for path in present)
    if size > _FLASH_LIMIT:
        what = f"{format_size(size)} in all, and QEMU takes {format_size(_FLASH_LIMIT)}"
        raise MeasureError(f"-drive if=pflash: {what}; give the firmware by -bios")
    for path in present:
        if str(path) not in {str(Path(item)) for item in files.raw}:
            check_no_image(path, flash=True)


def check_no_image(path: Path, *, flash: bool = False) -> None:
    """Checks that a file is no disk image.

    Args:
        flash: QEMU would find out, and take what is in it.

    Raises:
        FormatError: it is one.
    """
    head = FileBlob.of(path).head(_HEAD)
    kind = next((name for magic, name in _IMAGES.items() if head.startswith(magic)), None)
    if head[_VDI_AT:].startswith(_VDI):
        kind = "VDI"
    if kind is not None:
        use = ", or write format=raw where QEMU is to take it as it is" if flash else ""
        what = f"a disk image ({kind}), which is not what the machine has in memory"
        raise FormatError(str(path), f"{what}; convert it by qemu-img convert -O raw{use}")


def is_linux(path: Path) -> bool:
    """Whether a file is a Linux kernel to QEMU; others are handed to the firmware all the same.

    Raises:
        FormatError: a kernel that QEMU boots in a way that is not modelled, or does not boot.
    """
    blob = FileBlob.of(path)
    head = blob.head(_HEADER_END)
    magic = head[_MAGIC:_PROTOCOL] == b"HdrS"
    if len(head) < _HEADER_END or magic or head.startswith(b"\x7fELF"):
        if not _is_usual(head, blob.size):
            # Rarely needed, and slow to read.
            from ..measure.direct_boot import LinuxKernel

            LinuxKernel.parse(head, blob.size, str(path))
        return True
    if _setup_size(head) > blob.size:
        what = f"a setup part of {_setup_size(head)} bytes in a file of {blob.size}"
        raise FormatError(str(path), f"{what}; QEMU takes it for no kernel, give a bzImage (vmlinuz)")
    return False


def _is_usual(head: bytes, size: int) -> bool:
    """Whether the header is one of a kernel that is loaded as all are today."""
    return (
        len(head) == _HEADER_END
        and head[_MAGIC:_PROTOCOL] == b"HdrS"
        and int.from_bytes(head[_PROTOCOL : _PROTOCOL + 2], "little") >= _OLDEST
        and bool(head[_LOADFLAGS] & _LOADED_HIGH)
        and _setup_size(head) <= size
    )


def _setup_size(head: bytes) -> int:
    """Bytes of the setup part; 0 sectors stand for 4."""
    return ((head[_SETUP_SECTS] or 4) + 1) * SECTOR_SIZE
