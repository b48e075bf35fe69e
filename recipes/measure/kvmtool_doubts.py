"""What makes a realm's prediction less certain than its profile: said in plain words, and in the label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..machine import KvmtoolMachine, KvmtoolProfile, RecPolicy, RipasPolicy
from ..units import PAGE_SIZE, align_up
from .kvmtool_fdt import lost_command_line
from .kvmtool_layout import RAW_TEXT_OFFSET, Layout
from .kvmtool_params import ends_above_4_gib
from .ripas import block_sizes
from .rmm import RealmParams
from .trace import Established

# What the program that computed the values of the eac5 profiles can put in NUM_BPS and NUM_WPS.
_MEASURED_BREAKPOINTS = ((0, 0), (2, 2))


@dataclass(frozen=True)
class Doubt:
    """One reason for care.

    Attributes:
        text: for people.
        weakens: whether no other program's value stands behind the prediction because of it.
    """

    text: str
    weakens: bool = True


def established(profile: KvmtoolProfile, doubts: tuple[Doubt, ...]) -> Established:
    """The label of a prediction."""
    if any(doubt.weakens for doubt in doubts):
        return Established.SPEC_ONLY
    return Established(profile.established)


def doubts(
    machine: KvmtoolMachine,
    profile: KvmtoolProfile,
    layout: Layout,
    params: RealmParams,
    *,
    raw_kernel: str = "",
) -> tuple[Doubt, ...]:
    """Every doubt about a launch, in the order of the launch.

    Args:
        raw_kernel: name of the kernel's file where it has no arm64 header.
    """
    return (
        *_of_memory(machine, profile, params),
        *_of_parameters(machine, profile, params),
        *_of_raw_kernel(raw_kernel),
        *_of_kernel(profile, layout, params),
        *_of_command_line(machine),
        *_of_vcpus(machine, profile),
    )


def _of_memory(machine: KvmtoolMachine, profile: KvmtoolProfile, params: RealmParams) -> Iterator[Doubt]:
    if machine.memory % PAGE_SIZE:
        yield Doubt(
            f"-m: {machine.memory} bytes are no whole pages of {PAGE_SIZE}; the measurer takes that, "
            "KVM does not",
            weakens=False,
        )
    if not ends_above_4_gib(machine) or machine.ipa_bits:
        return
    if profile.s2sz is not None:
        yield Doubt(
            f"-m: RAM ends above 4 GiB; the measurer keeps s2sz at {params.s2sz}, which is the value here, "
            "but a kvmtool that starts the realm takes more, and then the RIM differs",
            weakens=False,
        )
    else:
        yield Doubt(
            f"-m: RAM ends above 4 GiB; s2sz is {params.s2sz} as kvmtool's source has it, and no other "
            "program computed a value with it"
        )


def _of_parameters(machine: KvmtoolMachine, profile: KvmtoolProfile, params: RealmParams) -> Iterator[Doubt]:
    if profile.options == "eac5" and (params.num_bps, params.num_wps) not in _MEASURED_BREAKPOINTS:
        yield Doubt(
            f"--host: {params.num_bps} breakpoints and {params.num_wps} watchpoints are values that no other "
            "program measured with"
        )
    if machine.scsi_disks:
        yield Doubt("-d scsi: the order of such disks among the devices is read from source, not compared")
    if profile.options == "rel0" and machine.pmu and not machine.pmu_counters:
        yield Doubt(
            "--pmu without --pmu-counters: the realm may get as many counters as the host has; "
            "say how many with --pmu-counters"
        )


def _of_raw_kernel(name: str) -> Iterator[Doubt]:
    if name:
        # Its value is as certain as any: the measurer takes such files, and computed values of one.
        yield Doubt(
            f"{name}: no arm64 Image header; the file is loaded at offset {RAW_TEXT_OFFSET:#x} as kvmtool "
            "does; the realm boots only if it is a raw arm64 program",
            weakens=False,
        )


def _of_kernel(profile: KvmtoolProfile, layout: Layout, params: RealmParams) -> Iterator[Doubt]:
    if profile.ripas is not RipasPolicy.RAM_BLOCKS and has_whole_block(layout, params):
        start, end = layout.tail
        how = (
            "granule by granule as the measurer does, an RMM"
            if profile.ripas is RipasPolicy.TAIL_PAGES
            else ""
        )
        yield Doubt(
            f"kernel: its bss at {start:#x} to {end:#x} holds an aligned block of 2 MiB; "
            + (
                f"it is counted {how} measures the block at once where KVM does not split it"
                if how
                else "it is measured at once, as TF-RMM's source has it, and no other program did so"
            ),
            # The measurer's own value is what the first profile is for.
            weakens=not how,
        )
    if layout.initrd_is_in_bss:
        yield Doubt(
            f"initramfs: it begins at {layout.initrd:#x}, before the end of the kernel's bss at "
            f"{layout.kernel_memory_end:#x}; the measurer takes that, but the kernel clears it at start; "
            "give more memory with -m"
        )
    if layout.dtb_is_in_bss:
        yield Doubt(
            f"device tree: it begins at {layout.dtb:#x}, before the end of the kernel's bss at "
            f"{layout.kernel_memory_end:#x}; the measurer takes that, but the kernel clears it at start; "
            "give more memory with -m"
        )


def _of_command_line(machine: KvmtoolMachine) -> Iterator[Doubt]:
    lost = lost_command_line(machine)
    if lost:
        yield Doubt(
            f"-p: the last {lost} bytes do not fit kvmtool's buffer for the command line and are cut off; no "
            "other program computed a value of such a line; shorten -p"
        )


def has_whole_block(layout: Layout, params: RealmParams) -> bool:
    """Whether the kernel's bss holds a block that one RTT entry above the last level can cover."""
    start, end = layout.tail
    return any(align_up(start, size) + size <= end for size in block_sizes(params.s2sz)[1:])


def _of_vcpus(machine: KvmtoolMachine, profile: KvmtoolProfile) -> Iterator[Doubt]:
    if (
        machine.vcpus > 1
        and not machine.islet
        and profile.options == "eac5"
        and profile.rec_policy is RecPolicy.ALL
    ):
        yield Doubt(
            f"-c {machine.vcpus}: the measurer counts every REC, TF-RMM the first alone; if the realm runs "
            "on TF-RMM take --profile kvmtool-eac5-tf-rmm",
            weakens=False,
        )
