"""The whole measured boot of a UEFI machine with a TPM: from a machine and the bytes it boots to every PCR.

    firmware -> variables -> ACPI, boot options -> partition table -> UKI -> addons -> kernel -> boot phases

``prepare`` hashes what all machines share; ``replay_boot`` adds what belongs to one machine and costs next
to nothing, so ten machines cost about as much as one. A register whose inputs are not all known is left out,
with the reason; the others are complete from reset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from ..errors import MeasureError
from ..formats.efi import Variable
from ..machine import QemuMachine
from . import firmware, secureboot, stub, tpm, uefi, userspace
from .firmware import FirmwareModel, PreparedFirmware
from .secureboot import LoadedImage
from .stub import PreparedStub, StubInputs
from .trace import HashAlgorithm, Step, Trace
from .uefi import AcpiTables

# Registers that the replay covers. The kernel's IMA adds to PCR 10, user space to PCR 15 and up, and nothing
# here extends 8 and 14.
COVERED_PCRS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13)

# Device models beside TPM and disks that leave every register but 1 and 2 as it is, and whether firmware can
# boot from one. Any other may bring code, bytes or a boot source: ``loader`` writes into memory, ``nvme`` is
# a disk. Spec: edk2-stable202502 OvmfPkg/OvmfPkgX64.dsc (drivers), OvmfPkg/Library/QemuBootOrderLib.
DEVICES = {
    "vhost-vsock-pci": False,
    "virtio-balloon-pci": False,
    "virtio-net-pci": True,
    "virtio-rng-pci": False,
    "virtio-serial-pci": False,
    "virtserialport": False,
}

# Their settings that firmware does not look at, or only for PCR 1 and 2; not bootindex, not romfile.
DEVICE_SETTINGS = frozenset(
    [
        "addr",
        "bus",
        "chardev",
        "driver",
        "guest-cid",
        "id",
        "mac",
        "max-bytes",
        "name",
        "netdev",
        "period",
        "rng",
    ]
)


@dataclass(frozen=True)
class SourceNames:
    """What the steps call their artefacts."""

    firmware: str = "code flash"
    variables: str = "variable store"
    disk: str = "disk"
    acpi: str = "ACPI capture"


@dataclass(frozen=True, kw_only=True)
class BootInputs:
    """Everything that is booted, the same for every machine.

    Attributes:
        firmware_code: the code flash.
        firmware_model: of that very file; None where the build is not known.
        variables: of the variable store before the boot.
        gpt_event: what firmware measures of the disk's partition table (``formats.gpt.event_data``).
        stub: the UKI and what lies beside it.
    """

    firmware_code: bytes
    firmware_model: FirmwareModel | None
    variables: tuple[Variable, ...]
    gpt_event: bytes
    stub: StubInputs
    sources: SourceNames = field(default_factory=SourceNames)


@dataclass(frozen=True, kw_only=True)
class PreparedBoot:
    """The inputs, hashed.

    Attributes:
        firmware: None where the build is not known.
        secure_boot: it is enforced.
        authorities: steps of verifying the UKI, then each addon; all empty without Secure Boot.
    """

    firmware: PreparedFirmware | None
    variables: tuple[Variable, ...]
    secure_boot: bool
    authorities: tuple[tuple[Step, ...], ...]
    gpt: Step
    stub: PreparedStub
    sources: SourceNames


@dataclass(frozen=True)
class Omitted:
    """A register that is not predicted, and why."""

    register: str
    reason: str


@dataclass(frozen=True)
class Prediction:
    """What a boot of one machine measures.

    Attributes:
        traces: one per register, ordered by it; after a boot phase it is called ``PCR11:enter-initrd`` and so
            on. A register that nothing extends has a trace without steps.
        omitted: the registers that are missing in ``traces``.
        sequence: the steps of all traces up to the start of the kernel, in the order of a real event log.
    """

    traces: tuple[Trace, ...]
    omitted: tuple[Omitted, ...]
    sequence: tuple[Step, ...]

    def trace(self, register: str) -> Trace:
        """The trace of a register.

        Raises:
            MeasureError: it is omitted, for the reason given, or not covered.
        """
        for each in self.traces:
            if each.register == register:
                return each
        reasons = [item.reason for item in self.omitted if item.register == register]
        raise MeasureError(
            f"{register}: {reasons[0] if reasons else 'not covered by the replay of a UEFI boot'}"
        )

    def value(self, register: str, algorithm: HashAlgorithm) -> bytes:
        """Value of a register in one bank.

        Raises:
            MeasureError: as for ``trace``.
        """
        return tpm.fold(self.trace(register), algorithm)


def prepare(inputs: BootInputs) -> PreparedBoot:
    """The inputs hashed: the costly part, done once for any number of machines.

    Raises:
        FormatError: the firmware, the UKI, an addon or db does not parse.
        MeasureError: something in them is not modelled, Secure Boot would refuse it, or the variable store
            decides already what is booted.
    """
    model, names = inputs.firmware_model, inputs.sources
    firmware.check_store(inputs.variables, names.variables)
    # Inflating the firmware and hashing the UKI both leave the interpreter free, so they run side by side.
    with ThreadPoolExecutor(1) as pool:
        known = pool.submit(_prepare_firmware, inputs)
        prepared = stub.prepare(inputs.stub)
    # Firmware built without Secure Boot enforces nothing, whatever the store holds.
    can_enforce = model is None or model.secure_boot_variable
    secure_boot = can_enforce and secureboot.is_enforced(inputs.variables)
    images = [LoadedImage(inputs.stub.name, inputs.stub.uki)]
    images += [LoadedImage(file.name, file.data) for file in stub.addon_files(inputs.stub)]
    authorities: tuple[tuple[Step, ...], ...] = ((),) * len(images)
    if secure_boot:
        authorities = secureboot.authority_steps(inputs.variables, images, names.variables)
    return PreparedBoot(
        firmware=known.result(),
        variables=inputs.variables,
        secure_boot=secure_boot,
        authorities=authorities,
        gpt=uefi.gpt_step(inputs.gpt_event, names.disk),
        stub=prepared,
        sources=names,
    )


def _prepare_firmware(inputs: BootInputs) -> PreparedFirmware | None:
    model = inputs.firmware_model
    return None if model is None else firmware.prepare(inputs.firmware_code, model, inputs.sources.firmware)


def replay_boot(machine: QemuMachine, boot: PreparedBoot, acpi: AcpiTables | None = None) -> Prediction:
    """The registers of ``machine`` when it boots ``boot``.

    Args:
        machine: what is launched.
        boot: from ``prepare``.
        acpi: the capture of this very machine; None where there is none.

    Raises:
        MeasureError: no TPM, another disk boots first, a device is not modelled, or machine and variable
            store disagree on Secure Boot.
    """
    _check(machine, boot)
    stages, omitted = _firmware_stages(machine, boot, acpi)
    steps = (*stages, *_boot_stages(machine, boot))
    missing = {item.register for item in omitted}
    sequence = tuple(step for step in steps if step.register not in missing)
    return Prediction(_complete(sequence, missing), omitted, sequence)


def with_disk(boot: PreparedBoot, gpt_event: bytes, name: str) -> PreparedBoot:
    """The same boot from a disk that differs in its partition table alone.

    Args:
        gpt_event: as in ``BootInputs``.
        name: of the disk, for the steps.
    """
    return replace(boot, gpt=uefi.gpt_step(gpt_event, name), sources=replace(boot.sources, disk=name))


def _check(machine: QemuMachine, boot: PreparedBoot) -> None:
    if machine.tpm is None:
        raise MeasureError(f"{machine.name}: the machine has no TPM, so no PCRs; add one to measure its boot")
    if machine.firmware.secure_boot != boot.secure_boot:
        machine_says = "on" if machine.firmware.secure_boot else "off"
        store_says = "on" if boot.secure_boot else "off"
        what = f"the machine has Secure Boot {machine_says}, firmware and variable store have it {store_says}"
        raise MeasureError(f"{machine.name}: {what}; launch the machine with the store that belongs to it")
    first = machine.disks[0].bootindex if machine.disks else None
    if any(
        disk.bootindex is not None and (first is None or disk.bootindex < first) for disk in machine.disks[1:]
    ):
        what = "a further disk is booted before the first one, which is the image"
        raise MeasureError(f"{machine.name}: {what}; give the first disk the lowest boot index")
    _check_devices(machine)


def _check_devices(machine: QemuMachine) -> None:
    for device in machine.devices:
        driver, settings = _device(device)
        if driver not in DEVICES:
            what = f"what a device {driver} does to the boot is not modelled"
            raise MeasureError(
                f"{machine.name}: -device {device}: {what}; leave it out, or use {', '.join(DEVICES)}"
            )
        for key in settings:
            if key == "romfile" and "romfile=" in device.split(","):
                continue
            if key not in DEVICE_SETTINGS:
                what = f"what the setting {key!r} does to the boot is not modelled"
                raise MeasureError(f"{machine.name}: -device {device}: {what}; leave it out")
        if DEVICES[driver] and machine.disks and machine.disks[0].bootindex is None:
            what = "firmware can boot from it, and the first disk has no boot index"
            raise MeasureError(f"{machine.name}: -device {device}: {what}; give the disk bootindex=0")


def _device(text: str) -> tuple[str, tuple[str, ...]]:
    """Driver and names of the settings; two commas are one of a value. Spec: QEMU 7.2 util/qemu-option.c."""
    head, *others = text.replace(",,", "").split(",")
    named = [part.partition("=") for part in ([head, *others] if "=" in head else others)]
    given = [value for key, _, value in named if key == "driver"]
    return given[0] if given else head, tuple(key for key, _, _ in named)


def _firmware_stages(
    machine: QemuMachine, boot: PreparedBoot, acpi: AcpiTables | None
) -> tuple[tuple[Step, ...], tuple[Omitted, ...]]:
    """The steps up to the start of the UKI, and the registers for which they are not all known."""
    omitted: list[Omitted] = []

    def attempt(index: int, rule: Callable[[], Sequence[Step]]) -> Sequence[Step]:
        try:
            return rule()
        except MeasureError as error:
            omitted.append(Omitted(tpm.register(index), str(error)))
            return ()

    steps = (
        *attempt(0, lambda: _crtm(machine, boot)),
        *attempt(7, lambda: _policy(machine, boot)),
        *attempt(1, lambda: _configuration(machine, boot, acpi)),
        *attempt(2, lambda: _option_roms(machine)),
        *uefi.ready_to_boot_steps(),
    )
    return steps, tuple(sorted(omitted, key=lambda item: item.register))


def _crtm(machine: QemuMachine, boot: PreparedBoot) -> tuple[Step, ...]:
    """PCR 0."""
    known = _known_firmware(machine, boot)
    return uefi.firmware_steps(known.model.crtm_version, known.blobs(machine), boot.sources.firmware)


def _policy(machine: QemuMachine, boot: PreparedBoot) -> tuple[Step, ...]:
    """PCR 7. An unknown build is no obstacle under Secure Boot: it can only be one that has the variable."""
    has_variable = boot.secure_boot or _known_firmware(machine, boot).model.secure_boot_variable
    flag = boot.secure_boot if has_variable else None
    return uefi.secure_boot_policy_steps(boot.variables, flag, boot.sources.variables)


def _configuration(machine: QemuMachine, boot: PreparedBoot, acpi: AcpiTables | None) -> tuple[Step, ...]:
    """PCR 1."""
    model = _known_firmware(machine, boot).model
    if model.measures_smbios:
        what = f"{model.name} measures the SMBIOS tables, which is not modelled"
        raise MeasureError(f"{machine.name}: {what}; leave PCR 1 out")
    tables: tuple[Step, ...] = ()
    if model.measures_acpi:
        if acpi is None:
            what = "there is no capture of its ACPI tables"
            raise MeasureError(f"{machine.name}: {what}; make one with the update task of the image")
        tables = uefi.acpi_steps(acpi, boot.sources.acpi)
    variables = firmware.boot_variables(machine, model, boot.variables)
    return (*tables, *uefi.boot_variable_steps(variables, boot.sources.firmware))


def _option_roms(machine: QemuMachine) -> tuple[Step, ...]:
    """PCR 2: no step, because disks and a TPM have no option ROM, and an empty ``romfile`` is none.

    Spec: QEMU 7.2 hw/pci/pci.c pci_add_option_rom.
    """
    for device in machine.devices:
        if "romfile=" not in device.split(","):
            what = f"whether {device} brings an option ROM for firmware to measure is not modelled"
            raise MeasureError(f"{machine.name}: {what}; give it romfile= for none, or leave PCR 2 unused")
    return ()


def _known_firmware(machine: QemuMachine, boot: PreparedBoot) -> PreparedFirmware:
    if boot.firmware is None:
        what = f"nothing is known of the firmware build {boot.sources.firmware}"
        raise MeasureError(f"{machine.name}: {what}; take a known build or learn this one")
    return boot.firmware


def _boot_stages(machine: QemuMachine, boot: PreparedBoot) -> Iterator[Step]:
    """The steps from the start of the UKI to ExitBootServices."""
    uki, *addons = boot.authorities
    yield from uki
    yield boot.gpt
    yield uefi.image_step(boot.stub.uki.image, boot.stub.uki.name, "UKI")
    yield from stub.stub_steps(
        boot.stub,
        smbios_strings=machine.smbios_strings,
        secure_boot=boot.secure_boot,
        # QEMU machines of this type are not confidential ones; those are replayed by their own modules.
        confidential_vm=False,
        addon_authorities=addons,
    )
    yield from uefi.exit_boot_services_steps()


def _complete(sequence: Sequence[Step], missing: set[str]) -> tuple[Trace, ...]:
    """A trace for every covered register that is not missing, then PCR 11 after each phase."""
    by_register = {trace.register: trace for trace in tpm.traces(sequence)}
    names = [name for name in map(tpm.register, COVERED_PCRS) if name not in missing]
    found = [by_register.get(name, Trace(name, ())) for name in names]
    return (*found, *userspace.phase_traces(by_register["PCR11"]))
