"""What the kernel's EFI stub extends into PCR 9: its command line and its initrd.

Spec: Linux 6.12 drivers/firmware/efi/libstub/efi-stub-helper.c (efi_convert_cmdline, efi_load_initrd,
efi_measure_tagged_event); kernels since 5.17 do the same.
"""

from __future__ import annotations

from ..formats.eventlog import EventType
from . import tpm
from .commandline import encode
from .trace import Measured, Step, measured

_SPEC = "Linux 6.12 drivers/firmware/efi/libstub/efi-stub-helper.c"


def kernel_steps(command_line: str | None, initrd: Measured | None, source: str) -> tuple[Step, ...]:
    """The two tagged events, each left out where there is nothing to measure.

    Args:
        command_line: None where the stub sets no load options; an empty one is its terminator alone.
        initrd: what the stub offers by LoadFile2, None where it offers none.
        source: name of the UKI.
    """
    steps = []
    if command_line is not None:
        steps.append(
            tpm.event(
                9,
                EventType.EV_EVENT_TAG,
                measured(encode(command_line)),
                source=f"{source} command line",
                description=command_line,
                spec=f"{_SPEC} efi_convert_cmdline",
            )
        )
    if initrd is not None:
        steps.append(
            tpm.event(
                9,
                EventType.EV_EVENT_TAG,
                initrd,
                source=f"{source} combined initrd",
                description="Linux initrd",
                spec=f"{_SPEC} efi_load_initrd",
            )
        )
    return tuple(steps)
