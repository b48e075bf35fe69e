"""The launch digest of a machine with SEV-SNP that starts from an IGVM file, as QEMU loads it.

    page data and parameter areas, almost in file order -> one VMSA page per virtual CPU

Virtual CPUs come last whatever their place in the file: KVM launches them, all that there are, when QEMU has
done the rest.

Spec: QEMU 10.1 backends/igvm.c, target/i386/sev.c sev_snp_launch_finish(); Linux 6.12
arch/x86/kvm/svm/sev.c snp_launch_update_vmsa().
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import MeasureError
from ..machine.sev import SevMachine, SevMode, SevVmm
from ..machine.sev_cpus import CpuSignature
from .gctx import DIGEST_SIZE, VMSA_ADDRESS, LaunchDigest, PageType, page_digests
from .igvm_image import IgvmImage, VcpuContext
from .igvm_vmsa import sev_features, with_features
from .sev import PROVED_FEATURES, MatrixEntry, SevPrediction
from .sev_launch import MAX_VCPUS, HashedFile
from .sev_pages import LAUNCH_DIGEST, Pages
from .trace import Established, HashAlgorithm, Trace
from .vmsa import RESET_EIP, vmsa_page

SPEC = "QEMU 10.1 backends/igvm.c"


@dataclass(frozen=True, kw_only=True)
class IgvmLaunch:
    """A machine that starts from an IGVM file.

    Attributes:
        kernel: what QEMU offers to the firmware, unmeasured; the same holds of ``initrd``.
    """

    machine: SevMachine
    igvm: IgvmImage
    kernel: HashedFile | None = None
    initrd: HashedFile | None = None

    @property
    def images(self) -> tuple[tuple[str, IgvmImage], ...]:
        """Files that are measured page by page, each with its role."""
        return (("igvm", self.igvm),)

    @property
    def hashes(self) -> None:
        """There is no table of kernel hashes: QEMU looks for its place in firmware outside of the file."""


def replay(launch: IgvmLaunch) -> SevPrediction:
    """The launch digest, with every step that leads to it.

    Raises:
        MeasureError: the machine cannot be launched like that, or it is not modelled.
    """
    _check(launch)
    state, steps = LaunchDigest(), []
    for pages in (*launch.igvm.pages, *virtual_cpus(launch)):
        pages.update(state)
        steps.append(replace(pages.step(state.value), spec=SPEC))
    doubts = _all_doubts(launch)
    return SevPrediction(
        digest=state.value,
        algorithm=HashAlgorithm.SHA384,
        trace=Trace(LAUNCH_DIGEST, tuple(steps)),
        established=Established.SPEC_ONLY if doubts else Established.ORACLE,
        notes=tuple(_notes(launch, state.value, doubts)),
    )


def matrix(launch: IgvmLaunch, vcpus: Sequence[int], cpus: Sequence[CpuSignature]) -> tuple[MatrixEntry, ...]:
    """The digests of a machine with other CPUs and numbers of them; pages are measured once.

    Raises:
        MeasureError: a shape cannot be launched.
    """
    if not vcpus or not cpus:
        raise MeasureError("matrix: give at least one number of vCPUs and one CPU")
    start = LaunchDigest()
    for pages in launch.igvm.pages:
        pages.update(start)
    entries = []
    for cpu in cpus:
        for count in vcpus:
            shape = replace(launch, machine=replace(launch.machine, vcpus=count, cpu=cpu))
            _check(shape)
            state = LaunchDigest(start.value)
            for pages in virtual_cpus(shape):
                pages.update(state)
            entries.append(MatrixEntry(cpu, count, state.value))
    return tuple(entries)


def first_different_page_of_run(before: IgvmImage, after: IgvmImage, index: int) -> int | None:
    """Number of the first page that differs between two runs of pages in one place; None where none does."""
    if index >= min(len(before.pages), len(after.pages)):
        return None
    old, new = before.pages[index], after.pages[index]
    if (old.address, old.count) != (new.address, new.count) or len(old.digests) != len(new.digests):
        return None
    for at in range(0, len(old.digests), DIGEST_SIZE):
        if old.digests[at : at + DIGEST_SIZE] != new.digests[at : at + DIGEST_SIZE]:
            return at // DIGEST_SIZE
    return None


def virtual_cpus(launch: IgvmLaunch) -> Iterator[Pages]:
    """The virtual CPUs: those that the file describes, all others as they are after a reset.

    Raises:
        MeasureError: one is not as the others, or the CPU is not known.
    """
    machine, image = launch.machine, launch.igvm
    number = 0
    while number < machine.vcpus:
        context = image.contexts.get(number)
        count = 1
        if context is None:
            while number + count < machine.vcpus and number + count not in image.contexts:
                count += 1
        name = f"vCPU {number}" if count == 1 else f"vCPUs {number} to {number + count - 1}"
        page, source = _vcpu(launch, context)
        yield Pages(
            type=PageType.VMSA,
            address=VMSA_ADDRESS,
            count=count,
            digests=page_digests(page),
            source=source,
            description=name,
        )
        number += count


def _vcpu(launch: IgvmLaunch, context: VcpuContext | None) -> tuple[bytes, str]:
    """A virtual CPU's VMSA page, and what it comes from."""
    machine = launch.machine
    if context is not None:
        source = f"{launch.igvm.name} directive {context.directive}"
        return with_features(context.page, machine.features), source
    signature = machine.cpu.eax if machine.cpu else 0
    page = vmsa_page(SevVmm.QEMU, eip=RESET_EIP, signature=signature, features=machine.features)
    return page, f"CPU {machine.cpu}, SEV_FEATURES {machine.features:#x}, reset state"


def _check(launch: IgvmLaunch) -> None:
    machine, image = launch.machine, launch.igvm
    if machine.mode is not SevMode.SEV_SNP or machine.vmm is not SevVmm.QEMU:
        what = f"is modelled for sev-snp and qemu, not for {machine.mode.value} and {machine.vmm.value}"
        raise MeasureError(f"{image.name}: an IGVM file {what}; give firmware")
    if not 1 <= machine.vcpus <= MAX_VCPUS:
        raise MeasureError(f"vcpus: {machine.vcpus} is not from 1 to {MAX_VCPUS}; give a number of them")
    if image.features not in (None, machine.features):
        what = f"SEV_FEATURES are {image.features:#x} in its VMSA, and KVM takes them from there"
        raise MeasureError(f"{image.name}: {what}; leave out {machine.features:#x}")
    beyond = max(image.contexts, default=0)
    if beyond >= machine.vcpus:
        what = f"describes vCPU {beyond}, the machine has {machine.vcpus} and does not start so"
        raise MeasureError(f"{image.name}: {what}; give it at least {beyond + 1}")
    for number, context in image.contexts.items():
        if image.features is None and sev_features(context.page) != machine.features:
            what = f"vCPU {number} has SEV_FEATURES {sev_features(context.page):#x}, vCPU 0 is not described"
            raise MeasureError(f"{image.name}: {what}; describe vCPU 0 in the file")
    missing = machine.vcpus > len(image.contexts)
    if missing and machine.cpu is None:
        raise MeasureError("cpu: family, model and stepping are measured; give a CPU model or the numbers")
    if machine.kernel_hashes and launch.kernel is not None:
        what = "kernel-hashes=on: QEMU has no place for the hashes beside an IGVM file, and does not start so"
        raise MeasureError(f"{what}; leave it out, or put the kernel into the file")


def _all_doubts(launch: IgvmLaunch) -> tuple[str, ...]:
    machine, doubts = launch.machine, list(launch.igvm.doubts)
    if machine.vcpus > len(launch.igvm.contexts):
        doubts.append("vCPUs that the file does not describe start as after a reset")
    if any(sev_features(item.page) != machine.features for item in launch.igvm.contexts.values()):
        doubts.append("all vCPUs have SEV_FEATURES of the first")
    if machine.features not in PROVED_FEATURES[SevMode.SEV_SNP, SevVmm.QEMU]:
        doubts.append(f"SEV_FEATURES {machine.features:#x}")
    return tuple(doubts)


def _notes(launch: IgvmLaunch, digest: bytes, doubts: Sequence[str]) -> Iterator[str]:
    """What the digest says less about than one might think."""
    image = launch.igvm
    if doubts:
        yield f"{image.name}: known from QEMU's source alone: {'; '.join(doubts)}"
    if launch.kernel is not None:
        yield "kernel, initrd and command line are not measured; only what is in the IGVM file is"
    block = image.id_block
    if block is not None and block.ld != digest:
        what = f"its ID block is for the digest {block.ld.hex()}"
        yield f"{image.name}: {what}, so the AMD firmware does not start this machine"
