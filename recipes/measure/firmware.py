"""What must be known of a firmware build beyond its bytes, and what follows from it for one machine.

A build is known by its SHA-256. Its model is learnt from a boot once: which words its early code writes into
the volume that is measured, which boot options it makes, whether it knows Secure Boot. Where a machine is not
covered the answer is a MeasureError that says so, never a guess.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from ..errors import FormatError, MeasureError
from ..formats.devicepath import device_path, fv, fv_file, pci, pci_root
from ..formats.efi import BM_AUTO_CREATE_BOOT_OPTION, EFI_GLOBAL_VARIABLE, LoadOption, Variable
from ..formats.ovmf import measured_volumes
from ..machine import QemuMachine
from ..units import format_size
from .trace import Established, measured
from .uefi import FirmwareBlob

# Variables of EFI_GLOBAL_VARIABLE that decide what is started, by the start of their names: a used store has
# them, a fresh one does not. Spec: UEFI 2.10 section 3.3 table 3.1, section 8.5.4 (OsIndications).
BOOT_DECISIONS = ("Boot", "Driver", "SysPrep", "OsRecovery", "PlatformRecovery", "Key", "OsIndications")

# PCI device number of the first disk when it is the first PCI device given: slot 0 is the host bridge, and on
# the i440fx slot 1 is the ISA bridge. Spec: QEMU 7.2 hw/i386/pc_piix.c, pc_q35.c; checked against boots.
FIRST_DISK_SLOT = {"q35": 1, "pc": 2}


@dataclass(frozen=True)
class Patch:
    """Words that early code writes into PEIFV before the TPM driver measures it.

    Attributes:
        chipset: ``q35`` or ``pc``.
        memory: bytes of RAM they hold for; None where they do not depend on it, and likewise below.
        vcpus: number of processors.
        cpu: QEMU's processor model.
        words: offset in the volume and the bytes that stand there when it is measured.
    """

    chipset: str
    memory: int | None
    words: tuple[tuple[int, bytes], ...]
    vcpus: int | None = None
    cpu: str | None = None


@dataclass(frozen=True)
class FirmwareFile:
    """A boot option for an application inside the firmware: volume and file."""

    volume: UUID
    file: UUID


@dataclass(frozen=True)
class BootOption:
    """A boot option that firmware makes in an empty store.

    Attributes:
        application: what it starts; None for the option of the boot disk.
        attributes: ``LoadOptionAttributes``.
    """

    description: str
    attributes: int
    application: FirmwareFile | None = None


@dataclass(frozen=True, kw_only=True)
class FirmwareModel:
    """A firmware build.

    Attributes:
        name: package, version and file, for people.
        code_sha256: of the code flash.
        crtm_version: PcdFirmwareVersionString.
        secure_boot_variable: built with Secure Boot, so the variable ``SecureBoot`` exists.
        measures_acpi: edk2 since February 2023 does.
        measures_smbios: edk2 since stable202505 does; PCR 1 of such a build is not modelled.
        boot_options: in the order they are made, which is that of their numbers.
        patches: empty where PEIFV is measured as it is in the file.
        established: place (VMM, version, accelerator, machine type: ``qemu 7.2 tcg pc-q35-7.2``), register,
            and how the replay of that register was established there.
    """

    name: str
    code_sha256: bytes
    crtm_version: str
    secure_boot_variable: bool
    measures_acpi: bool
    measures_smbios: bool = False
    boot_options: tuple[BootOption, ...]
    patches: tuple[Patch, ...] = ()
    established: tuple[tuple[str, str, Established], ...] = ()

    def establishment(self, register: str, place: str) -> Established | None:
        """How the replay of ``register`` was established there; for ``PCR11:ready`` that of PCR 11 counts."""
        wanted = (place, register.partition(":")[0])
        return next((label for *where, label in self.established if tuple(where) == wanted), None)


@dataclass(frozen=True)
class PreparedFirmware:
    """A firmware build with its volumes hashed: the first once for each patch, the others once."""

    model: FirmwareModel
    patched: tuple[tuple[Patch | None, FirmwareBlob], ...]
    rest: tuple[FirmwareBlob, ...]

    def blobs(self, machine: QemuMachine) -> tuple[FirmwareBlob, ...]:
        """The volumes as the TPM driver finds them on this machine.

        Raises:
            MeasureError: what early code writes into PEIFV on such a machine is not known.
        """
        for patch, blob in self.patched:
            if patch is None or _covers(patch, machine):
                return (blob, *self.rest)
        known = ", ".join(_describe(patch) for patch, _ in self.patched if patch) or "no machine"
        what = f"what {self.model.name} writes into PEIFV on this machine"
        raise MeasureError(
            f"{machine.name}: {what} is not known, only for {known}; learn the words from a memory dump"
        )


def _describe(patch: Patch) -> str:
    """The machines of a patch in words: ``q35 with 512 MiB``."""
    limits = [format_size(patch.memory)] if patch.memory is not None else []
    limits += [f"{patch.vcpus} vCPU"] if patch.vcpus is not None else []
    limits += [patch.cpu] if patch.cpu is not None else []
    return f"{patch.chipset} with {' and '.join(limits)}" if limits else patch.chipset


def prepare(code: bytes, model: FirmwareModel, source: str) -> PreparedFirmware:
    """The volumes of an x86 build, inflated and hashed.

    Args:
        code: the code flash.
        model: of this very file.
        source: name of the file, for messages.

    Raises:
        MeasureError: the model is of another file.
        FormatError: the file is not OVMF.
    """
    digest = hashlib.sha256(code).digest()
    if digest != model.code_sha256:
        what = f"SHA-256 is {digest.hex()}, the model of {model.name} is for {model.code_sha256.hex()}"
        raise MeasureError(f"{source}: {what}; take the model of this file")
    return hash_volumes(measured_volumes(code, source), model, source)


def hash_volumes(volumes: Sequence[bytes], model: FirmwareModel, source: str) -> PreparedFirmware:
    """The volumes hashed, the first once for each patch of the model.

    Raises:
        MeasureError: a patch lies outside the volume.
        FormatError: there are not two volumes.
    """
    if len(volumes) != 2:
        raise FormatError(source, f"{len(volumes)} measured volumes, expected PEIFV and DXEFV")
    patches: tuple[Patch | None, ...] = model.patches or (None,)
    patched = tuple(
        (patch, FirmwareBlob("PEIFV", measured(apply(volumes[0], patch, source)))) for patch in patches
    )
    return PreparedFirmware(model, patched, (FirmwareBlob("DXEFV", measured(volumes[1])),))


def apply(volume: bytes, patch: Patch | None, source: str) -> bytes:
    """The volume with the words of the patch in it.

    Raises:
        MeasureError: a word lies outside the volume.
    """
    patched = bytearray(volume)
    for offset, word in patch.words if patch else ():
        if not 0 <= offset <= len(volume) - len(word):
            what = f"patch word at {offset:#x} lies outside PEIFV of {len(volume):#x} bytes"
            raise MeasureError(f"{source}: {what}; the patch is of another build")
        patched[offset : offset + len(word)] = word
    return bytes(patched)


def _covers(patch: Patch, machine: QemuMachine) -> bool:
    return (
        patch.chipset == machine.chipset
        and patch.memory in (None, machine.memory)
        and patch.vcpus in (None, machine.vcpus)
        and patch.cpu in (None, machine.cpu)
    )


def check_store(variables: Sequence[Variable], source: str) -> None:
    """Stops where the store decides already what is booted.

    Args:
        variables: of the store before the boot.
        source: name of the store or its machine, for messages.

    Raises:
        MeasureError: naming the variable.
    """
    for item in variables:
        if item.vendor == EFI_GLOBAL_VARIABLE and item.name.startswith(BOOT_DECISIONS):
            what = f"the variable store holds {item.name}, so it decides already what is booted"
            raise MeasureError(f"{source}: {what}, which is not modelled; start from a fresh store")


def boot_variables(
    machine: QemuMachine, model: FirmwareModel, variables: Sequence[Variable] = ()
) -> tuple[tuple[str, bytes], ...]:
    """BootOrder and the Boot#### it names, as firmware makes them in a store that has none.

    Args:
        machine: its disks and devices decide.
        model: of the firmware.
        variables: of the store before the boot.

    Raises:
        MeasureError: the store has boot options already, or the machine's are not modelled.
    """
    check_store(variables, machine.name)
    if machine.devices:
        what = f"which boot options firmware makes for {machine.devices[0]} is not modelled"
        raise MeasureError(f"{machine.name}: {what}; leave the device out or PCR 1 unused")
    return boot_option_variables(
        model.boot_options, FIRST_DISK_SLOT[machine.chipset], disk_first=boots_by_index(machine)
    )


def boots_by_index(machine: QemuMachine) -> bool:
    """Whether the boot disk, the first one, has a boot index; it must be the only one that can be started.

    Raises:
        MeasureError: there is no disk, or another one may come before it.
    """
    if not machine.disks:
        raise MeasureError(f"{machine.name}: there is no disk to boot from; give it one")
    first, others = machine.disks[0], machine.disks[1:]
    if any(disk.bootindex is not None for disk in others):
        what = "a further disk has a boot index, and the order of several boot disks is not modelled"
        raise MeasureError(f"{machine.name}: {what}; give a boot index to the first disk alone")
    if others and first.bootindex is None:
        what = f"{len(machine.disks)} disks and no boot index, so which of them boots is not modelled"
        raise MeasureError(f"{machine.name}: {what}; give the first disk bootindex=0")
    return first.bootindex is not None


def boot_option_variables(
    options: Sequence[BootOption], disk_slot: int, *, disk_first: bool
) -> tuple[tuple[str, bytes], ...]:
    """BootOrder, then the options in its order.

    Numbers follow the order in which options are made. A boot index moves the disk's to the front.

    Args:
        options: that firmware makes.
        disk_slot: PCI device number of the disk.
        disk_first: QEMU gives the disk a boot index.

    Spec: edk2-stable202502 OvmfPkg/Library/QemuBootOrderLib/QemuBootOrderLib.c SetBootOrderFromQemu.
    """
    order = list(range(len(options)))
    if disk_first:
        order.sort(key=lambda number: options[number].application is not None)
    boot_order = struct.pack(f"<{len(order)}H", *order)
    boot = ((f"Boot{number:04X}", _load_option(options[number], disk_slot)) for number in order)
    return (("BootOrder", boot_order), *boot)


def _load_option(option: BootOption, disk_slot: int) -> bytes:
    if option.application is None:
        # The GUID at the end marks an option that firmware made itself and may remove again.
        path = device_path(pci_root(), pci(disk_slot))
        optional = BM_AUTO_CREATE_BOOT_OPTION.bytes_le
    else:
        path = device_path(fv(option.application.volume), fv_file(option.application.file))
        optional = b""
    return LoadOption(option.attributes, option.description, path, optional).pack()
