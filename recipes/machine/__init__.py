"""What is launched: one frozen value, replayed for its golden values and rendered as its launch command.

Nothing here opens a file. A path never belongs to a machine; the place a file is read from is given when the
command is rendered, so that the same machine has the same value in every folder.
"""

from __future__ import annotations

import importlib

from ..record import TYPE_CHECKING

if TYPE_CHECKING:
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
    from .snp import SnpBoot, SnpFirmware, SnpMachine

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
    "SnpBoot",
    "SnpFirmware",
    "SnpMachine",
    "TpmInterface",
    "UefiFirmware",
    "VirtioTransport",
]
_OF_QEMU = frozenset(["Accelerator", "Disk", "QemuMachine", "TpmInterface", "UefiFirmware"])
_OF_SNP = frozenset(["SnpBoot", "SnpFirmware", "SnpMachine"])


def __getattr__(name: str) -> object:
    """A name of ``__all__``, from its module: a command that launches one kind of machine reads no other."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "qemu" if name in _OF_QEMU else "snp" if name in _OF_SNP else "kvmtool"
    value: object = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value
