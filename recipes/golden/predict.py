"""From a replayed boot to the rows, policies and traces of the golden manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..machine import QemuMachine
from ..measure.boot import Prediction
from ..measure.firmware import FirmwareModel
from ..measure.trace import ALL_ALGORITHMS, Established, Trace
from .manifest import DiskRegisters, GoldenMachine, Omitted, Policy, RegisterPolicy, RegisterRow

# What each register of a UEFI boot covers, and what a verifier does with it. PCR 0 and 1 hold the platform:
# another VMM version, memory size or firmware build gives other values, and that is not the image's doing.
# Spec: TCG PC Client Platform Firmware Profile 1.06 section 3.3.4; UAPI Linux TPM PCR Registry.
POLICIES = {
    "PCR0": (Policy.MACHINE, "firmware code"),
    "PCR1": (Policy.MACHINE, "ACPI tables and boot order: memory, vCPUs, devices"),
    "PCR2": (Policy.ENFORCE, "option ROMs: there are none"),
    "PCR3": (Policy.ENFORCE, "option ROM configuration: there is none"),
    "PCR4": (Policy.ENFORCE, "the UKI as a whole, and the kernel in it"),
    "PCR5": (Policy.ENFORCE, "the partition table: primary GPT header and used entries"),
    "PCR6": (Policy.ENFORCE, "platform manufacturer: nothing"),
    "PCR7": (Policy.ENFORCE, "Secure Boot: state, PK, KEK, db, dbx, and the entry that verified the UKI"),
    "PCR9": (Policy.ENFORCE, "the kernel's final command line and the initramfs it was handed"),
    "PCR11": (
        Policy.ENFORCE,
        "every section of the UKI (kernel, initramfs, command line, root hash), then boot phases",
    ),
    "PCR12": (Policy.ENFORCE, "command lines, addons and credentials from outside: there are none"),
    "PCR13": (Policy.ENFORCE, "system extensions: there are none"),
}

# What no register covers; printed in the manifest so that nobody has to find out.
UNMEASURED = (
    "backup GPT at the end of the disk: only the primary one is measured (PCR 5); firmware repairs from it",
    "unused entries and the rest of the primary GPT's sectors, protective MBR",
    "EFI system partition outside the UKI: FAT structures, free clusters, file slack",
    "data partition: encrypted with a key that lives for one boot, not authenticated against the host",
    "fw_cfg files other than the four ACPI blobs; the ACPI tables after firmware linked them",
    "SMBIOS strings that the stub does not read; the guest's systemd does not read them here",
    "UEFI variables other than those of Secure Boot and the boot options",
    "state of the TPM's NV memory when the machine starts",
    "device emulation, network, time, and everything after the boot phase `ready`",
)

# The processor of every boot in the repository, recorded or repeated; it stands in ACPI and SMM code.
BOOTED_CPU = "qemu64,-cx16"


@dataclass(frozen=True)
class DiskPrediction:
    """The prediction for a disk of another size than the raw one, and the formats that have it."""

    size: int
    formats: tuple[str, ...]
    prediction: Prediction


def golden_machine(
    machine: QemuMachine,
    prediction: Prediction,
    model: FirmwareModel | None,
    *,
    vmm: str,
    launch: str,
    disks: Sequence[DiskPrediction] = (),
) -> GoldenMachine:
    """The manifest's entry of one machine.

    Args:
        prediction: of a boot from the raw disk.
        disks: of boots from others.
    """

    def rows(predicted: Prediction, traces: Sequence[Trace]) -> tuple[RegisterRow, ...]:
        return tuple(
            RegisterRow(
                register=trace.register,
                algorithm=algorithm,
                value=predicted.value(trace.register, algorithm),
                established=established(machine, trace.register, model, vmm),
            )
            for trace in traces
            for algorithm in ALL_ALGORITHMS
        )

    def on_disk(disk: DiskPrediction) -> DiskRegisters:
        traces = tuple(trace for trace in disk.prediction.traces if trace not in prediction.traces)
        return DiskRegisters(
            size=disk.size, formats=disk.formats, registers=rows(disk.prediction, traces), traces=traces
        )

    names = dict.fromkeys(trace.register.partition(":")[0] for trace in prediction.traces)
    return GoldenMachine(
        name=machine.name,
        vmm=vmm,
        identity=machine.identity(),
        launch=launch,
        registers=rows(prediction, prediction.traces),
        policies=tuple(
            RegisterPolicy(register=name, policy=POLICIES[name][0], covers=POLICIES[name][1])
            for name in names
        ),
        omitted=tuple(Omitted(register=item.register, reason=item.reason) for item in prediction.omitted),
        traces=prediction.traces,
        disks=tuple(on_disk(disk) for disk in disks),
    )


def established(
    machine: QemuMachine, register: str, model: FirmwareModel | None, vmm: str = "qemu"
) -> Established:
    """How the replay of a register was established for this kind of machine.

    ======================================================  ============================  ===================
    machine                                                 PCR 0, 1                      other registers
    ======================================================  ============================  ===================
    firmware, QEMU version, accelerator, machine type are   as the firmware's facts say   as the facts say
    those of a boot
    ... and it has more than one disk, or SMBIOS strings    at most ``oracle``            at most ``oracle``
    or devices
    ... and another CPU model                               ``spec-only``, but            as the facts say
                                                            ``learnt`` words stay learnt
    another version or type, the same accelerator           ``spec-only``                 ``oracle``
    unknown firmware, another accelerator                   ``spec-only``                 ``spec-only``
    ======================================================  ============================  ===================

    The recorded boots on q35 and pc agree on all registers but 0 and 1, which are the platform's.

    Args:
        vmm: with its version, ``qemu 7.2.22``; without one it is another version.
    """
    if model is None:
        return Established.SPEC_ONLY
    accelerator = machine.accelerator.value
    version = ".".join(vmm.partition(" ")[2].split(".")[:2])
    label = model.establishment(register, f"qemu {version} {accelerator} {machine.type}")
    platform = register in ("PCR0", "PCR1")
    if label is None:
        places = {place for place, *_ in model.established if place.split()[2:3] == [accelerator]}
        return Established.ORACLE if places and not platform else Established.SPEC_ONLY
    if platform and machine.cpu != BOOTED_CPU and label is not Established.LEARNT:
        return Established.SPEC_ONLY
    plain = len(machine.disks) == 1 and not machine.smbios_strings and not machine.devices
    return Established.ORACLE if label is Established.BOOTED and not plain else label
