"""What is launched: one frozen value, replayed for its golden values and rendered as its launch command.

Nothing here opens a file. A path never belongs to a machine; the place a file is read from is given when the
command is rendered, so that the same machine has the same value in every folder.
"""

from .kvmtool import (
    HostFeatures,
    Irqchip,
    KvmtoolMachine,
    KvmtoolNetwork,
    KvmtoolProfile,
    RecPolicy,
    RipasPolicy,
    VirtioTransport,
)
from .qemu import Accelerator, Disk, QemuMachine, TpmInterface, UefiFirmware

__all__ = [
    "Accelerator",
    "Disk",
    "HostFeatures",
    "Irqchip",
    "KvmtoolMachine",
    "KvmtoolNetwork",
    "KvmtoolProfile",
    "QemuMachine",
    "RecPolicy",
    "RipasPolicy",
    "TpmInterface",
    "UefiFirmware",
    "VirtioTransport",
]
