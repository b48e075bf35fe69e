"""The pages of a launch with SEV-SNP and SEV-ES, in the order in which they become the guest's.

Spec: QEMU 10.0 target/i386/sev.c snp_populate_metadata_pages(), sev_snp_launch_update_vmsa(); EC2, Google
Compute Engine and SVSM as in sev-snp-measure 0.0.13 guest.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from ..errors import MeasureError
from ..formats.ovmf_footer import FOUR_GIB, SectionType, SevSection
from ..machine.sev import SevVmm
from ..record import dataclass
from ..units import PAGE_SIZE
from .gctx import DIGEST_SIZE, VMSA_ADDRESS, LaunchDigest, PageType, page_digests
from .kernel_hashes import KernelHashes
from .sev_launch import SevFirmware, SevLaunch, svsm_end
from .trace import HashAlgorithm, Step
from .vmsa import RESET_EIP, vmsa_page

LAUNCH_DIGEST = "LAUNCH_DIGEST"
SPEC = "QEMU 10.0 target/i386/sev.c"
# How QEMU launches each section. Spec: QEMU 10.0 target/i386/sev.c snp_metadata_desc_to_page_type().
_PAGE_TYPES = {
    SectionType.SNP_SEC_MEM: PageType.ZERO,
    SectionType.SNP_SECRETS: PageType.SECRETS,
    SectionType.CPUID: PageType.CPUID,
    SectionType.SVSM_CAA: PageType.ZERO,
    SectionType.SNP_KERNEL_HASHES: PageType.ZERO,
}


@dataclass(frozen=True, kw_only=True)
class Pages:
    """Pages of one kind, one behind the other, or virtual CPUs that start alike.

    Attributes:
        digests: of their contents, one behind the other; empty where they have none.
    """

    type: PageType
    address: int
    count: int
    digests: bytes = b""
    source: str
    description: str

    def update(self, state: LaunchDigest) -> None:
        """Measures them."""
        if self.type is PageType.VMSA:
            for _ in range(self.count):
                state.vcpu(self.digests)
        elif self.digests:
            state.pages(self.address, self.digests, self.type)
        else:
            state.empty_pages(self.address, self.count * PAGE_SIZE, self.type)

    def step(self, after: bytes) -> Step:
        """The step of the trace."""
        one = len(self.digests) == DIGEST_SIZE
        digest = self.digests if one else hashlib.sha384(self.digests).digest()
        return Step(
            register=LAUNCH_DIGEST,
            operation=self.type.name,
            digests={HashAlgorithm.SHA384: digest if self.digests else bytes(DIGEST_SIZE)},
            size=self.count * PAGE_SIZE if self.digests else 0,
            source=self.source,
            description=self.description,
            spec=SPEC,
            address=self.address,
            count=self.count,
            after=after,
        )


@dataclass(frozen=True)
class VcpuRun:
    """Virtual CPUs that start alike.

    Attributes:
        page: the VMSA page of each.
        source: what its registers come from.
    """

    name: str
    count: int
    page: bytes
    source: str


def before_vcpus(launch: SevLaunch) -> tuple[Pages, ...]:
    """Everything that is there before the virtual CPUs of a machine with SEV-SNP, in the order of the launch.

    Raises:
        FormatError: the firmware's table is missing or damaged.
        MeasureError: the firmware is not for SEV-SNP, or its parts overlap.
    """
    firmware, svsm = launch.firmware, launch.svsm
    top = FOUR_GIB
    rows = [firmware_pages(firmware, top, "firmware")]
    if svsm is not None:
        top = svsm_end(launch)
        rows.append(firmware_pages(svsm, top, "SVSM"))
    source = svsm or firmware
    for section in source.sections:
        for item in rows:
            if item.address - section.size < section.address < item.address + item.count * PAGE_SIZE:
                what = f"{section.type.name} at {section.address:#x} overlaps the {item.description}"
                raise MeasureError(f"{source.name}: {what} at {item.address:#x}; the file is damaged")
    sections = [_section_pages(launch, source, section) for section in source.sections]
    if launch.machine.vmm is SevVmm.EC2:
        sections.sort(key=lambda pages: pages.type is PageType.CPUID)
    return (*rows, *sections)


def firmware_pages(firmware: SevFirmware, end: int, description: str) -> Pages:
    """A file that lies below a guest address.

    Raises:
        MeasureError: it is not made of whole pages.
    """
    digests = firmware.page_digests
    return Pages(
        type=PageType.NORMAL,
        address=end - firmware.size,
        count=len(digests) // DIGEST_SIZE,
        digests=digests,
        source=firmware.name,
        description=description,
    )


def _section_pages(launch: SevLaunch, firmware: SevFirmware, section: SevSection) -> Pages:
    hashes, area = launch.hashes, launch.firmware.footer.hashes
    if section.type is SectionType.SNP_KERNEL_HASHES and hashes is not None and area is not None:
        files = [item.name for item in (launch.kernel, launch.initrd) if item]
        return Pages(
            type=PageType.NORMAL,
            address=section.address,
            count=1,
            digests=page_digests(hashes.page(area, firmware.name)),
            source=", ".join([*files, "command line"]),
            description=table_of(hashes),
        )
    kind = _PAGE_TYPES[section.type]
    if section.type is SectionType.SNP_SEC_MEM and launch.machine.vmm is SevVmm.GCE:
        kind = PageType.UNMEASURED
    return Pages(
        type=kind,
        address=section.address,
        count=section.size // PAGE_SIZE,
        source=f"{firmware.name} SEV metadata",
        description=section.type.name,
    )


def table_of(hashes: KernelHashes) -> str:
    """The table of kernel hashes with its entries, so that two of them show which entry is not the same."""
    entries = (("kernel", hashes.kernel), ("initrd", hashes.initrd), ("command line", hashes.cmdline))
    return "table of kernel hashes: " + ", ".join(f"{name} {value.hex()}" for name, value in entries)


def virtual_cpus(launch: SevLaunch) -> Iterator[Pages]:
    """The virtual CPUs of a machine with SEV-SNP.

    Raises:
        MeasureError: see ``vcpu_runs``.
    """
    for run in vcpu_runs(launch):
        yield Pages(
            type=PageType.VMSA,
            address=VMSA_ADDRESS,
            count=run.count,
            digests=page_digests(run.page),
            source=run.source,
            description=run.name,
        )


def vcpu_runs(launch: SevLaunch) -> Iterator[VcpuRun]:
    """The first virtual CPU, and the others, which start alike.

    Raises:
        MeasureError: the firmware does not say where they start.
    """
    rest = launch.machine.vcpus - 1
    names = (("vCPU 0", 1), ("vCPU 1" if rest == 1 else f"vCPUs 1 to {rest}", rest))
    for (name, count), (page, source) in zip(names, _vmsa_pages(launch), strict=False):
        yield VcpuRun(name, count, page, source)


def _vmsa_pages(launch: SevLaunch) -> Iterator[tuple[bytes, str]]:
    """VMSA pages of the first virtual CPU and of each other, with what they come from."""
    machine = launch.machine
    features = machine.features
    signature = machine.cpu.eax if machine.cpu else 0
    origin = f"CPU {machine.cpu}, " if machine.cpu and machine.vmm in (SevVmm.QEMU, SevVmm.SVSM) else ""
    text = f"{origin}SEV_FEATURES {features:#x}" + (", legacy VM type" if machine.legacy_vm_type else "")
    others = f"{text}, reset block of {launch.firmware.name}"
    legacy = bool(machine.legacy_vm_type)
    first, rest = RESET_EIP, launch.firmware.footer.reset_eip if machine.vcpus > 1 else None
    if launch.svsm is not None:
        entry = launch.svsm.footer.svsm_entry
        if entry is None:
            raise MeasureError(f"{launch.svsm.name}: its table has no SVSM entry point; give an SVSM build")
        first = rest = svsm_end(launch) - launch.svsm.size + entry
        text = others = f"{text}, entry point of {launch.svsm.name}"
    yield vmsa_page(machine.vmm, eip=first, signature=signature, features=features, legacy=legacy), text
    if machine.vcpus > 1:
        if not rest:
            what = "no SEV-ES reset block, so only one vCPU can start; give a build for SEV-ES"
            raise MeasureError(f"{launch.firmware.name}: {what}")
        yield vmsa_page(machine.vmm, eip=rest, signature=signature, features=features, legacy=legacy), others
