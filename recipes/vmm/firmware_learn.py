"""The words of a firmware volume that the firmware itself changes before the volume is measured.

PEI modules run in place from the RAM copy of their volume, so what they keep in their data sections is part
of PCR 0. The words are learnt once for a firmware build, chipset and memory size, from the memory of a
running machine.

Spec: PCR replay notes, section 2, "PCR 0 details"; firmware volume header: PI Specification 1.8, volume 3,
section 3.2.1.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ..errors import MeasureError
from ..formats.ovmf import measured_volumes
from ..machine import QemuMachine
from ..units import MIB, PAGE_SIZE
from .acpi_capture import capture_acpi
from .bench import Flash, bench
from .captures import AcpiCapture
from .launch import Qemu
from .models import FirmwareFacts
from .qemu import PROGRAM

WORD = 4
VOLUME_BASE = 0x820000
"""Where OVMF inflates its PEI volume to (OvmfPkg/OvmfPkgX64.fdf, MEMFD offset 0x020000)."""

REGION_START, REGION_SIZE = 8 * MIB, 16 * MIB
"""The part of guest memory that holds the inflated volumes (PcdOvmfMemFvBase and behind)."""

_HEADER_SIZE = 56
_POLL = 0.25

Patch = tuple[int, bytes]


def learn_patches(
    machine: QemuMachine,
    flash: Flash,
    volumes: Sequence[bytes],
    *,
    binary: str = PROGRAM,
    timeout: float = 60.0,
) -> tuple[tuple[Patch, ...], ...]:
    """For each volume, the offsets and new values of the 32-bit words that differ after PEI.

    Args:
        volumes: firmware volumes as they are inflated from the flash file.
        timeout: seconds the firmware may take to reach its boot phase.

    Raises:
        MeasureError: a volume is not in memory, or its words do not come to rest.
        ToolError: a program is missing or fails.
    """
    with bench(machine, flash, binary=binary) as qemu:
        limit = time.monotonic() + timeout
        while not _pci_is_set_up(qemu):
            if time.monotonic() > limit:
                message = f"{machine.name}: the firmware set up no PCI device within {timeout:g} s"
                raise MeasureError(message)
            qemu.check_running()
            time.sleep(_POLL)
        last: tuple[tuple[Patch, ...], ...] | None = None
        while True:
            memory = _dump(qemu)
            found = tuple(diff_volume(volume, memory) for volume in volumes)
            if found == last:
                return found
            if time.monotonic() > limit:
                message = f"{machine.name}: the firmware volumes still change after {timeout:g} s"
                raise MeasureError(message)
            last = found
            time.sleep(_POLL)


def capture_machine(
    machine: QemuMachine, flash: Flash, facts: FirmwareFacts, *, binary: str = PROGRAM
) -> AcpiCapture:
    """All that only a running VMM knows of a machine: its ACPI blobs, and firmware words that are not known.

    Takes well under a second where the facts have the words, and some seconds of firmware otherwise.

    Args:
        facts: of the build in ``flash``.

    Raises:
        MeasureError: the machine is not modelled, or its words cannot be learnt.
        ToolError: a program is missing or fails.
    """
    capture = capture_acpi(machine, flash, facts.layout, binary=binary)
    if capture.code_sha256 != facts.code_sha256:
        raise MeasureError(f"{flash.code.name}: not the file of {facts.name}; take the facts of this file")
    if facts.words_for(machine) is not None:
        return capture
    pei_volume = measured_volumes(flash.code.read_bytes(), flash.code.name)[0]
    (words,) = learn_patches(machine, flash, (pei_volume,), binary=binary)
    return replace(capture, firmware_words=words)


def diff_volume(volume: bytes, memory: bytes) -> tuple[Patch, ...]:
    """Offsets and values of the words of ``memory`` that differ from ``volume``, in order.

    Args:
        memory: guest memory from ``REGION_START``.

    Raises:
        MeasureError: the volume's header is not in this memory, or is there more than once.
    """
    start = _locate(volume, memory)
    copy = memory[start : start + len(volume)]
    if copy == volume:
        return ()
    # Pages first: nearly all of them are equal.
    edges = pairwise([*range(0, len(volume), PAGE_SIZE), len(volume)])
    return tuple(
        (offset, copy[offset : offset + WORD])
        for low, high in edges
        if copy[low:high] != volume[low:high]
        for offset in range(low, high, WORD)
        if copy[offset : offset + WORD] != volume[offset : offset + WORD]
    )


def _locate(volume: bytes, memory: bytes) -> int:
    header = volume[:_HEADER_SIZE]
    expected = VOLUME_BASE - REGION_START
    if memory.startswith(header, expected):
        return expected
    found = [at for at in range(0, len(memory) - len(volume) + 1, PAGE_SIZE) if memory.startswith(header, at)]
    if len(found) != 1:
        what = "is not in memory; is it from this firmware file?" if not found else "is there more than once"
        raise MeasureError(f"firmware volume of {len(volume)} bytes: {what}")
    return found[0]


def _pci_is_set_up(qemu: Qemu) -> bool:
    """Whether a PCI device has an address: PciBusDxe ran, in BDS, long after the last PEI module."""
    buses = qemu.execute("query-pci")
    return isinstance(buses, list) and any(
        region["address"] not in {-1, 0xFFFFFFFFFFFFFFFF}
        for bus in buses
        for device in bus["devices"]
        for region in device["regions"]
    )


def _dump(qemu: Qemu) -> bytes:
    qemu.execute("stop")
    data = qemu.save_memory(REGION_START, REGION_SIZE)
    qemu.execute("cont")
    return data
