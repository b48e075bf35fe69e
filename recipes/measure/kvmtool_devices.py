"""The virtio devices that a kvmtool command line gives a realm, with their numbers and interrupts.

Spec: islet-project/3rd-kvmtool, branch kvmtool-rim-measurer/eac5, commit 3cac6a9: virtio/*.c, arm/gic.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import MeasureError
from ..machine import KvmtoolMachine

# hw/serial.c: the serial ports take the first interrupts.
UARTS = 4
# A bus has so many device numbers; for memory mapped devices the same number is ours, none was compared.
_MAX_DEVICES = 32


@dataclass(frozen=True)
class VirtioDevice:
    """A virtio device as the device tree shows it.

    Attributes:
        origin: the option that it comes from.
        is_pci: whether it is a PCI function, not a memory mapped device.
        number: of the PCI device or of the memory mapped one, each counted from 0.
        spi: its shared peripheral interrupt.
    """

    origin: str
    is_pci: bool
    number: int
    spi: int


def virtio_devices(machine: KvmtoolMachine) -> tuple[VirtioDevice, ...]:
    """The virtio devices in the order in which kvmtool creates them, which gives each its interrupt.

    Raises:
        MeasureError: more devices than a bus has numbers for.

    Spec: virtio/*.c: the constructors of the device classes run in the reverse order of linking.
    """
    wanted: list[tuple[str, bool]] = []
    default = machine.transport.is_pci
    wanted += [(f"--9p share {index}", default) for index in range(1, len(machine.shares) + 1)]
    wanted += [(option, default) for option, given in _single_devices(machine) if given]
    if machine.networks is None:
        wanted.append(("default network device", default))
    for index, network in enumerate(machine.networks or (), 1):
        wanted.append((f"-n device {index}", (network.transport or machine.transport).is_pci))
    if machine.console.startswith("virtio"):
        wanted.append((f"--console {machine.console}", default))
    wanted += [(f"-d scsi disk {index}", default) for index in range(1, len(machine.scsi_disks) + 1)]
    wanted += [(f"-d disk {index}", default) for index in range(1, machine.disks + 1)]
    counts = {True: 0, False: 0}
    devices = []
    # Interrupts are given out from one counter, and the serial ports were first.
    for spi, (origin, is_pci) in enumerate(wanted, UARTS):
        devices.append(VirtioDevice(origin, is_pci, counts[is_pci], spi))
        counts[is_pci] += 1
    for is_pci, count in counts.items():
        if count > _MAX_DEVICES:
            what = "PCI" if is_pci else "memory mapped"
            raise MeasureError(
                f"command line: {count} {what} virtio devices, up to {_MAX_DEVICES} are modelled; remove "
                "some of -d, -n and --9p"
            )
    return tuple(devices)


def _single_devices(machine: KvmtoolMachine) -> tuple[tuple[str, bool], ...]:
    return (("--vsock", machine.vsock != 0), ("--balloon", machine.balloon), ("--rng", machine.rng))
