"""The Realm Initial Measurement of a realm that kvmtool starts, from its machine and its files.

    parameters -> kernel -> bss -> initramfs -> device tree -> virtual CPUs

The newer kvmtool makes all of RAM known first. Where the tree of a kvmtool is not modelled, a captured one
stands in for it.

Spec: islet-project/3rd-kvmtool, branch kvmtool-rim-measurer/eac5, commit 3cac6a9: arm/aarch64/realm.c,
arm/aarch64/kvm-cpu.c; the newer dialect: commit 61403e79.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from ..errors import FormatError, MeasureError
from ..formats.arm64_image import HEAD_SIZE, Arm64Image, read_header
from ..formats.fdt import Node, guest_region
from ..machine import KvmtoolMachine, KvmtoolProfile, RipasPolicy
from ..machine.kvmtool_profiles import find_profile
from .granules import Blob, BytesBlob
from .kvmtool_capture import CAPTURED, Capture, contradictions, differences, read_capture
from .kvmtool_doubts import Doubt, doubts, established
from .kvmtool_fdt import device_tree
from .kvmtool_layout import DTB_REGION, LOG_SIZE, Layout, place
from .kvmtool_params import algorithm_of, check_machine, memory_option, params_source, realm_params
from .realm_launch import (
    CreateRec,
    InitRipas,
    Operation,
    PopulateData,
    PopulateUnmeasured,
    RealmCreate,
    Replayer,
)
from .ripas import PAGES, block_sizes
from .rmm import REC_RUNNABLE, RealmParams, RecParams
from .trace import Established, HashAlgorithm, Trace


@dataclass(frozen=True)
class RealmPrediction:
    """What a launch will measure.

    Attributes:
        profile: the name of the stack it holds for.
        rim: as many bytes as a hash.
        trace: the steps of the RIM.
        device_tree: as the guest sees it; a captured one has no origins.
        dtb: the 64 KiB of guest memory with it.
        established: how far the value can be trusted.
        notes: doubts, for people, in plain words.
    """

    profile: str
    algorithm: HashAlgorithm
    rim: bytes
    trace: Trace
    device_tree: Node
    dtb: bytes
    layout: Layout
    established: Established
    notes: tuple[str, ...]


def replay(
    machine: KvmtoolMachine,
    kernel: Blob,
    initrd: Blob | None,
    *,
    dtb: bytes | None = None,
    replayer: Replayer | None = None,
) -> RealmPrediction:
    """The prediction for a launch.

    Args:
        kernel: the file that ``-k`` names, as it is.
        initrd: the file that ``-i`` names.
        dtb: a device tree captured with ``--dump-dtb``, used as it is.
        replayer: shared by launches that are measured together, in the machine's algorithm.

    Raises:
        MeasureError: kvmtool refuses the launch, or something about it is not known or not modelled.
        FormatError: the kernel or the captured device tree is no such thing.
    """
    profile = find_profile(machine.profile)
    check_machine(machine, profile, has_initrd=initrd is not None)
    if dtb is None and not profile.device_tree:
        raise MeasureError(
            f"{profile.name}: the device tree of this kvmtool is not modelled; start the realm once with "
            "--dump-dtb FILE and give that file with --dtb FILE"
        )
    params = realm_params(machine, profile)
    header = kernel_header(kernel)
    layout = place(machine, kernel, header, initrd)
    found = doubts(machine, profile, layout, params, raw_kernel="" if header else kernel.name)
    if dtb is None:
        tree = device_tree(machine, layout)
        region = _region(tree)
    else:
        capture = read_capture(dtb)
        tree, region = capture.tree, capture.region
        found += _of_capture(machine, profile, layout, capture)
    algorithm = algorithm_of(machine)
    source = "device tree" if dtb is None else CAPTURED
    launch = _operations(machine, profile, params, layout, (kernel, initrd, BytesBlob(source, region)))
    replayed = (Replayer(algorithm) if replayer is None else replayer).replay(launch)
    return RealmPrediction(
        profile=profile.name,
        algorithm=algorithm,
        rim=replayed.rim,
        trace=replayed.trace,
        device_tree=tree,
        dtb=region,
        layout=layout,
        established=established(profile, found),
        notes=tuple(doubt.text for doubt in found),
    )


def operations(
    machine: KvmtoolMachine, layout: Layout, kernel: Blob, initrd: Blob | None, dtb_region: bytes
) -> tuple[Operation, ...]:
    """The calls to the RMM that a launch makes, in order.

    Args:
        dtb_region: the 64 KiB of guest memory that hold the device tree.

    Raises:
        MeasureError: a parameter of the realm is not known, or impossible.
    """
    profile = find_profile(machine.profile)
    params = realm_params(machine, profile)
    contents = (kernel, initrd, BytesBlob("device tree", dtb_region))
    return _operations(machine, profile, params, layout, contents)


_headers: WeakKeyDictionary[Blob, tuple[Arm64Image | None]] = WeakKeyDictionary()


def kernel_header(kernel: Blob) -> Arm64Image | None:
    """The kernel's arm64 header, or None for a raw file; read once as long as the blob is there.

    Raises:
        FormatError: a compressed kernel, or one of another architecture.
    """
    known = _headers.get(kernel)
    if known is None:
        head = b""
        for window in kernel.windows():
            head += bytes(window[: HEAD_SIZE - len(head)])
            if len(head) >= HEAD_SIZE:
                break
        known = _headers[kernel] = (read_header(head, kernel.size, kernel.name, allow_raw=True),)
    return known[0]


def _operations(
    machine: KvmtoolMachine,
    profile: KvmtoolProfile,
    params: RealmParams,
    layout: Layout,
    contents: tuple[Blob, Blob | None, Blob],
) -> tuple[Operation, ...]:
    kernel, initrd, dtb = contents
    launch: list[Operation] = [RealmCreate(params=params, source=params_source(machine, profile))]
    blocks = PAGES if profile.ripas is RipasPolicy.TAIL_PAGES else block_sizes(params.s2sz)
    if profile.ripas is RipasPolicy.RAM_BLOCKS:
        ram = (layout.ram, layout.ram_end)
        launch.append(_init_ripas(ram, memory_option(machine), "RAM", blocks))
    launch.append(PopulateData(address=layout.kernel, blob=kernel, source=kernel.name, description="kernel"))
    start, end = layout.tail
    if profile.ripas is not RipasPolicy.RAM_BLOCKS and start < end:
        launch.append(_init_ripas((start, end), kernel.name, "kernel bss", blocks))
    if initrd is not None and layout.initrd is not None:
        description = "initramfs"
        launch.append(
            PopulateData(address=layout.initrd, blob=initrd, source=initrd.name, description=description)
        )
    launch.append(PopulateData(address=layout.dtb, blob=dtb, source=dtb.name, description="device tree"))
    launch += [_create_rec(machine, profile, layout, index) for index in range(machine.vcpus)]
    if layout.log is not None:
        launch.append(
            PopulateUnmeasured(
                address=layout.log, size=LOG_SIZE, source="--measurement-log", description="measurement log"
            )
        )
    return tuple(launch)


def _init_ripas(where: tuple[int, int], source: str, description: str, blocks: tuple[int, ...]) -> InitRipas:
    base, top = where
    return InitRipas(base=base, top=top, source=source, description=description, blocks=blocks)


def _create_rec(machine: KvmtoolMachine, profile: KvmtoolProfile, layout: Layout, index: int) -> CreateRec:
    # arm/aarch64/kvm-cpu.c, reset_vcpu_aarch64: the others wait until the guest starts them with PSCI.
    first = RecParams(flags=REC_RUNNABLE, pc=layout.kernel, gprs=(layout.dtb, 0, 0, 0, 0, 0, 0, 0))
    return CreateRec(
        rec=first if index == 0 else RecParams(),
        source=f"-c {machine.vcpus}",
        description=f"vCPU {index}",
        policy=profile.rec_policy,
    )


def _of_capture(
    machine: KvmtoolMachine, profile: KvmtoolProfile, layout: Layout, capture: Capture
) -> tuple[Doubt, ...]:
    """What a captured tree says otherwise than the launch it is used for."""
    if not profile.device_tree:
        return contradictions(machine, layout, capture)
    try:
        tree = device_tree(machine, layout)
        return differences(capture, tree, _region(tree))
    except MeasureError as error:
        # A captured tree is the way to measure what is not modelled.
        return (Doubt(f"{CAPTURED}: not compared with the tree of this launch: {error}"),)


def _region(tree: Node) -> bytes:
    try:
        return guest_region(tree, DTB_REGION)
    except FormatError as error:
        raise MeasureError(str(error)) from None
