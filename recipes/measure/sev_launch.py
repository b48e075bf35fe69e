"""What is launched with SEV: a machine, the files it starts with, and what has to hold of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property

from ..errors import MeasureError
from ..formats.ovmf_footer import FOUR_GIB, OvmfFooter, SectionType, SevSection, parse_footer
from ..machine.sev import SevMachine, SevMode, SevVmm
from ..record import TYPE_CHECKING, dataclass
from ..units import KIB, PAGE_SIZE
from .gctx import page_digests
from .kernel_hashes import KernelHashes, check_area

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

# Ours: builds have their table and SEV metadata in the last 4 KiB, SVSMs in the last 64.
TAIL_SIZE = 256 * KIB
# QEMU starts no more. Spec: QEMU 10.0 hw/i386/pc_q35.c, max_cpus.
MAX_VCPUS = 4096


@dataclass(frozen=True, eq=False, kw_only=True)
class SevFirmware:
    """A firmware file, read and hashed once however many launches it is part of; made by ``of``.

    Attributes:
        name: what people call it.
        size: bytes, whole pages.
        page_digests: SHA-384 of each page, one behind the other.
        hashed: SHA-256 of the file; a state that is copied to go on from, never updated. None where nobody
            is to ask for it: SEV-SNP measures pages.
        tail: the last bytes, at most 256 KiB, with the table that VMMs read.
    """

    name: str
    size: int
    page_digests: bytes
    hashed: Hash | None
    tail: bytes

    @classmethod
    def of(cls, name: str, windows: Iterable[bytes | memoryview], *, with_sha256: bool = True) -> SevFirmware:
        """The firmware whose content comes in pieces, each read before the next is asked for.

        Args:
            with_sha256: whether the file as a whole is hashed as well.

        Raises:
            MeasureError: it is not made of whole pages.
        """
        state = hashlib.sha256() if with_sha256 else None
        digests, rest, tail, size = [], b"", bytearray(TAIL_SIZE), 0
        for window in windows:
            size += len(window)
            if state is not None:
                state.update(window)
            last = memoryview(window)[-TAIL_SIZE:]
            # In place: a buffer of its own for each piece would cost as much as hashing some of it.
            tail[: TAIL_SIZE - len(last)] = tail[len(last) :]
            tail[TAIL_SIZE - len(last) :] = last
            piece = rest + bytes(window) if rest else memoryview(window)
            whole = len(piece) - len(piece) % PAGE_SIZE
            digests.append(page_digests(piece[:whole]))
            rest = bytes(piece[whole:])
        if rest or not 0 < size < FOUR_GIB:
            what = f"{size} bytes, firmware is made of whole pages of {PAGE_SIZE}"
            raise MeasureError(f"{name}: {what}; give the file that the VMM loads")
        return cls(
            name=name, size=size, page_digests=b"".join(digests), hashed=state, tail=bytes(tail[-size:])
        )

    @property
    def sha256(self) -> Hash:
        """SHA-256 of the file, to be copied and never updated.

        Raises:
            MeasureError: the file was read for its pages alone.
        """
        if self.hashed is None:
            raise MeasureError(f"{self.name}: read for its pages alone; read it with its SHA-256")
        return self.hashed

    @cached_property
    def footer(self) -> OvmfFooter:
        """What its table says.

        Raises:
            FormatError: it has none, or a damaged one.
        """
        return parse_footer(self.tail, self.name, size=self.size)

    @property
    def sections(self) -> tuple[SevSection, ...]:
        """Its SEV metadata.

        Raises:
            MeasureError: it has none.
        """
        if self.footer.sections is None:
            what = "no SEV metadata, and SEV-SNP does not start without; give a build for SEV-SNP"
            raise MeasureError(f"{self.name}: {what} (Debian: ovmf-amdsev)")
        return self.footer.sections


@dataclass(frozen=True, kw_only=True)
class HashedFile:
    """A file of which only the hash is measured."""

    name: str
    size: int
    sha256: bytes


@dataclass(frozen=True, kw_only=True)
class SevLaunch:
    """A machine and the files that it starts with.

    Attributes:
        svsm: COCONUT-SVSM, below the firmware.
        linux: the kernel is a file that QEMU takes for a Linux kernel.
    """

    machine: SevMachine
    firmware: SevFirmware
    kernel: HashedFile | None = None
    initrd: HashedFile | None = None
    svsm: SevFirmware | None = None
    linux: bool = True

    @property
    def images(self) -> tuple[tuple[str, SevFirmware], ...]:
        """Files that are measured page by page, each with its role."""
        svsm = (("svsm", self.svsm),) if self.svsm else ()
        return (("firmware", self.firmware), *svsm)

    @property
    def hashes(self) -> KernelHashes | None:
        """What the table of kernel hashes says; None where there is none."""
        if self.kernel is None or not self.machine.kernel_hashes:
            return None
        initrd = self.initrd.sha256 if self.initrd else None
        return KernelHashes.of(self.kernel.sha256, initrd, self.machine.cmdline or "")


def check_launch(launch: SevLaunch) -> None:
    """Checks that the machine can be launched, and that it is one that is modelled.

    Raises:
        FormatError: the firmware's table is missing or damaged.
        MeasureError: it cannot, or is not.
    """
    machine, firmware = launch.machine, launch.firmware
    if not 1 <= machine.vcpus <= MAX_VCPUS:
        raise MeasureError(f"vcpus: {machine.vcpus} is not from 1 to {MAX_VCPUS}; give a number of them")
    if not 0 <= machine.features < 1 << 64:
        raise MeasureError(f"sev-features: {machine.features:#x} has more than 64 bits")
    if (machine.vmm is SevVmm.SVSM) != (launch.svsm is not None):
        raise MeasureError("svsm: a machine with an SVSM has its file, any other has none")
    if machine.vmm is SevVmm.SVSM and machine.mode is not SevMode.SEV_SNP:
        raise MeasureError(f"svsm: needs sev-snp, this machine has {machine.mode.value}")
    if machine.legacy_vm_type is not None and not takes_vm_type(machine):
        what = "is for sev-es and qemu, and nothing else depends on it"
        raise MeasureError(f"legacy-vm-type: {what}; leave it out")
    if machine.vmm is not SevVmm.QEMU and machine.mode is SevMode.SEV:
        raise MeasureError(f"vmm {machine.vmm.value}: plain SEV is modelled for QEMU alone")
    if machine.vmm in (SevVmm.QEMU, SevVmm.SVSM) and machine.cpu is None and machine.mode is not SevMode.SEV:
        raise MeasureError("cpu: family, model and stepping are measured; give a CPU model or the numbers")
    if launch.svsm is not None and launch.hashes is not None:
        raise MeasureError("svsm: kernel hashes below an SVSM are not modelled; leave out kernel-hashes=on")
    if machine.kernel_hashes and launch.kernel is not None:
        _check_hashes(firmware, machine.mode)
    elif launch.kernel is None and (launch.initrd is not None or machine.cmdline):
        raise MeasureError("kernel: initrd and command line are for one; give a kernel, or leave them out")


def takes_vm_type(machine: SevMachine) -> bool:
    """Whether the digest depends on which of KVM's two ways the machine is set up by."""
    return machine.mode is SevMode.SEV_ES and machine.vmm is SevVmm.QEMU


def _check_hashes(firmware: SevFirmware, mode: SevMode) -> None:
    """Checks that the firmware takes kernel hashes."""
    use = "use a build of OvmfPkg/AmdSev (Debian: ovmf-amdsev), or leave out kernel-hashes=on"
    area = firmware.footer.hashes
    if area is None:
        raise MeasureError(f"{firmware.name}: has no place for kernel hashes; {use}")
    check_area(area, firmware.name)
    if mode is not SevMode.SEV_SNP:
        return
    places = [item for item in firmware.sections if item.type is SectionType.SNP_KERNEL_HASHES]
    if not places:
        raise MeasureError(f"{firmware.name}: its SEV metadata has no SNP_KERNEL_HASHES section; {use}")
    page = area.base - area.base % PAGE_SIZE
    if [item.address for item in places] != [page]:
        found = ", ".join(f"{item.address:#x}" for item in places)
        what = f"the SNP_KERNEL_HASHES section is at {found}, and the table in the page {page:#x}"
        raise MeasureError(f"{firmware.name}: {what}; the firmware is damaged")


def svsm_end(launch: SevLaunch) -> int:
    """Where the SVSM ends: below the variable store, which is below the firmware.

    Raises:
        MeasureError: there is no room for it.
    """
    size = launch.machine.variables_size
    if size < 0 or size % PAGE_SIZE:
        raise MeasureError(
            f"variables: {size} bytes are not whole pages; give the size of the variable store"
        )
    end = FOUR_GIB - launch.firmware.size - size
    if launch.svsm is not None and end < launch.svsm.size:
        raise MeasureError(f"{launch.svsm.name}: does not fit below firmware and variables")
    return end
