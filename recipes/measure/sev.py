"""The launch digest of a machine with AMD SEV, SEV-ES or SEV-SNP.

    SEV      SHA-256 of firmware | table of kernel hashes
    SEV-ES   the same | one VMSA page per virtual CPU
    SEV-SNP  firmware pages -> sections of its SEV metadata -> one VMSA page per virtual CPU, page by page

Spec: QEMU 10.0 target/i386/sev.c sev_launch_finish(), sev_snp_launch_finish(); AMD SEV API 55766, section
6.5; EC2, Google Compute Engine and SVSM as in sev-snp-measure 0.0.13 guest.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from ..errors import MeasureError
from ..formats.ovmf_footer import FOUR_GIB
from ..machine.sev import SevMachine, SevMode, SevVmm
from ..machine.sev_cpus import CpuSignature
from ..record import TYPE_CHECKING, dataclass, replace
from ..units import PAGE_SIZE
from .gctx import DIGEST_SIZE, LaunchDigest
from .sev_launch import HashedFile, SevFirmware, SevLaunch, check_launch, takes_vm_type
from .sev_pages import LAUNCH_DIGEST, SPEC, before_vcpus, firmware_pages, table_of, vcpu_runs, virtual_cpus
from .trace import Established, HashAlgorithm, Step, Trace

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

__all__ = [
    "LAUNCH_DIGEST",
    "PROVED_FEATURES",
    "HashedFile",
    "MatrixEntry",
    "SevFirmware",
    "SevLaunch",
    "SevPrediction",
    "firmware_digest",
    "first_different_page",
    "matrix",
    "replay",
]


PROVED_FEATURES = {
    (SevMode.SEV_SNP, SevVmm.QEMU): frozenset([0x0, 0x1, 0x5, 0x9, 0x21, 0x2D, 0x3FF]),
    (SevMode.SEV_SNP, SevVmm.EC2): frozenset([0x1, 0x21]),
    (SevMode.SEV_SNP, SevVmm.GCE): frozenset([0x1, 0x21]),
    (SevMode.SEV_SNP, SevVmm.SVSM): frozenset([0x1]),
    (SevMode.SEV_ES, SevVmm.QEMU): frozenset([0]),
    (SevMode.SEV_ES, SevVmm.EC2): frozenset([0]),
    (SevMode.SEV_ES, SevVmm.GCE): frozenset([0]),
    (SevMode.SEV, SevVmm.QEMU): frozenset([0]),
}
"""SEV_FEATURES that another program's digests are known with, by mode and VMM.

Spec: sev-snp-measure 0.0.13, run on machines of each kind.
"""


@dataclass(frozen=True, kw_only=True)
class SevPrediction:
    """What a launch measures.

    Attributes:
        digest: 48 bytes for SEV-SNP, 32 for the others.
        notes: what a reader has to know about it.
    """

    digest: bytes
    algorithm: HashAlgorithm
    trace: Trace
    established: Established
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MatrixEntry:
    """The digest of one shape of a machine."""

    cpu: CpuSignature
    vcpus: int
    digest: bytes


def replay(launch: SevLaunch) -> SevPrediction:
    """The launch digest, with every step that leads to it.

    Raises:
        FormatError: the firmware's table is missing or damaged.
        MeasureError: the machine cannot be launched like that, or it is not modelled.
    """
    check_launch(launch)
    if launch.machine.mode is SevMode.SEV_SNP:
        return _replay_snp(launch)
    return _replay_sha256(launch)


def firmware_digest(firmware: SevFirmware) -> bytes:
    """The SEV-SNP launch digest after the firmware alone: what all machines with this firmware begin with.

    Raises:
        MeasureError: the file is not made of whole pages.
    """
    state = LaunchDigest()
    firmware_pages(firmware, FOUR_GIB, "firmware").update(state)
    return state.value


def matrix(launch: SevLaunch, vcpus: Sequence[int], cpus: Sequence[CpuSignature]) -> tuple[MatrixEntry, ...]:
    """The digests of a machine with other CPUs and numbers of them, CPU by CPU in the order given.

    What comes before the virtual CPUs is measured once, and a machine with one more goes on from the last.

    Raises:
        FormatError: the firmware's table is missing or damaged.
        MeasureError: a shape cannot be launched, or the machine is none with SEV-SNP.
    """
    if launch.machine.mode is not SevMode.SEV_SNP:
        raise MeasureError(f"matrix: {launch.machine.mode.value} has none; it is for sev-snp")
    if not vcpus or not cpus:
        raise MeasureError("matrix: give at least one number of vCPUs and one CPU")
    state = LaunchDigest()
    for pages in before_vcpus(launch):
        pages.update(state)
    entries = []
    for cpu in cpus:
        for count in (min(vcpus), max(vcpus)):
            check_launch(replace(launch, machine=replace(launch.machine, vcpus=count, cpu=cpu)))
        widest = replace(launch, machine=replace(launch.machine, vcpus=max(vcpus), cpu=cpu))
        known = _after_each_vcpu(widest, state.value)
        entries += [MatrixEntry(cpu, count, known[count - 1]) for count in vcpus]
    return tuple(entries)


def first_different_page(before: SevFirmware, after: SevFirmware) -> int | None:
    """File offset of the first page that differs between two files of one size; None where none does."""
    pairs = zip(_split(before.page_digests), _split(after.page_digests), strict=False)
    return next((index * PAGE_SIZE for index, (one, other) in enumerate(pairs) if one != other), None)


def _split(digests: bytes) -> Iterator[bytes]:
    for at in range(0, len(digests), DIGEST_SIZE):
        yield digests[at : at + DIGEST_SIZE]


def _after_each_vcpu(launch: SevLaunch, value: bytes) -> list[bytes]:
    state, found = LaunchDigest(value), []
    for pages in virtual_cpus(launch):
        for _ in range(pages.count):
            state.vcpu(pages.digests)
            found.append(state.value)
    return found


def _replay_snp(launch: SevLaunch) -> SevPrediction:
    state, steps = LaunchDigest(), []
    for pages in (*before_vcpus(launch), *virtual_cpus(launch)):
        pages.update(state)
        steps.append(pages.step(state.value))
    return SevPrediction(
        digest=state.value,
        algorithm=HashAlgorithm.SHA384,
        trace=Trace(LAUNCH_DIGEST, tuple(steps)),
        established=_established(launch),
        notes=tuple(_notes(launch)),
    )


def _replay_sha256(launch: SevLaunch) -> SevPrediction:
    firmware, hashes = launch.firmware, launch.hashes
    state = firmware.sha256.copy()
    steps = [_update(state, state.digest(), firmware.size, firmware.name, "firmware")]
    if hashes is not None:
        files = [item.name for item in (launch.kernel, launch.initrd) if item]
        state.update(hashes.table)
        digest, source = hashlib.sha256(hashes.table).digest(), ", ".join([*files, "command line"])
        steps.append(_update(state, digest, len(hashes.table), source, table_of(hashes)))
    for run in vcpu_runs(launch) if launch.machine.mode is SevMode.SEV_ES else ():
        state.update(run.page * run.count)
        step = _update(
            state, hashlib.sha256(run.page).digest(), len(run.page) * run.count, run.source, run.name
        )
        steps.append(replace(step, operation="LAUNCH_UPDATE_VMSA", count=run.count))
    return SevPrediction(
        digest=state.digest(),
        algorithm=HashAlgorithm.SHA256,
        trace=Trace(LAUNCH_DIGEST, tuple(steps)),
        established=_established(launch),
        notes=tuple(_notes(launch)),
    )


def _established(launch: SevLaunch) -> Established:
    """Whether digests of another program are known for machines like this."""
    machine = launch.machine
    proved = (
        machine.features in PROVED_FEATURES.get((machine.mode, machine.vmm), frozenset())
        and not _odd(launch)
        and not _foreign(launch)
        # The other program knows the newer way alone.
        and (machine.legacy_vm_type is False or not takes_vm_type(machine))
    )
    return Established.ORACLE if proved else Established.SPEC_ONLY


def _odd(launch: SevLaunch) -> bool:
    """Whether QEMU hashes a kernel that is no Linux kernel to it."""
    return launch.hashes is not None and launch.machine.vmm is SevVmm.QEMU and not launch.linux


def _foreign(launch: SevLaunch) -> bool:
    """Whether a host gets a kernel that boots none directly."""
    return launch.kernel is not None and launch.machine.vmm in (SevVmm.EC2, SevVmm.GCE)


def _update(state: Hash, digest: bytes, size: int, source: str, description: str) -> Step:
    """The step of what was hashed last; ``after`` is the digest if the launch ended here."""
    return Step(
        register=LAUNCH_DIGEST,
        operation="LAUNCH_UPDATE_DATA",
        digests={HashAlgorithm.SHA256: digest},
        size=size,
        source=source,
        description=description,
        spec=SPEC,
        after=state.copy().digest(),
    )


def _nothing_to_hash(machine: SevMachine) -> str:
    """What kernel-hashes=on does without a kernel. Spec: QEMU 10.0 snp_launch_update_kernel_hashes()."""
    what = "no kernel, so there is nothing for kernel-hashes=on to hash"
    if machine.mode is SevMode.SEV_SNP and machine.vmm is SevVmm.QEMU:
        return f"{what}: QEMU 10.0 aborts so; leave it out, which is what is measured here"
    return what


def _notes(launch: SevLaunch) -> Iterator[str]:
    """What the digest says less about than one might think."""
    machine = launch.machine
    if launch.kernel is not None and not machine.kernel_hashes:
        yield "kernel, initrd and command line are not measured; add kernel-hashes=on to the sev object"
    elif launch.kernel is None and machine.kernel_hashes:
        yield _nothing_to_hash(machine)
    if launch.kernel is not None and _odd(launch):
        what = "no Linux kernel to QEMU, such as a UKI; it hashes the file as it is"
        yield f"-kernel {launch.kernel.name}: {what}, and the firmware has to be able to start it"
    if launch.initrd is not None and not launch.linux and machine.vmm in (SevVmm.QEMU, SevVmm.SVSM):
        # Spec: QEMU 10.0 hw/i386/x86-common.c x86_load_linux(), where the protocol is below 0x200.
        what = "QEMU does not start with one beside a kernel that is no Linux kernel to it"
        yield f"-initrd {launch.initrd.name}: {what}; leave it out, or put it into the UKI"
    if _foreign(launch):
        yield f"vmm {machine.vmm.value}: its hosts boot no kernel directly, so none measures this digest"
    if takes_vm_type(machine) and machine.legacy_vm_type is None:
        yield (
            "legacy-vm-type is not stated: measured as off, which needs QEMU 9.1 and Linux 6.10 or newer; "
            "QEMU by itself takes it as on, and that measures another value: "
            "write legacy-vm-type=on or legacy-vm-type=off"
        )
    if machine.mode is SevMode.SEV_SNP and not machine.features & 1:
        yield f"SEV_FEATURES {machine.features:#x} lacks bit 0 (SNP active), which every SEV-SNP guest has"
    if machine.mode is SevMode.SEV:
        yield "an attestation of plain SEV shows an HMAC over this digest, keyed by the owner's TIK"
