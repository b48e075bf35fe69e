"""Machines, kernels and ACPI files for tests of stage0, put together by hand."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from recipes.machine.qemu import Accelerator
from recipes.machine.sev import SevMachine, SevMode
from recipes.machine.sev_cpus import CpuSignature
from recipes.machine.stage0 import Stage0Machine
from recipes.measure.sev_launch import HashedFile, SevFirmware
from recipes.measure.stage0 import AcpiTables, Stage0Kernel, Stage0Launch
from recipes.units import KIB
from tests.unit import sev_firmware
from tests.unit.bzimages import bzimage

CMDLINE = " console=ttyS0 panic=-1 quiet -- --launcher-addr=vsock://2:1061704823"
TABLES = b"FACS" + struct.pack("<I", 64) + bytes(56) + b"DSDT" + struct.pack("<I", 40) + bytes(32) + bytes(24)
RSDP = b"RSD PTR " + bytes(12)


def machine(**changes: Any) -> Stage0Machine:
    values: dict[str, Any] = {
        "name": "sample",
        "type": "q35",
        "accelerator": Accelerator.KVM,
        "vcpus": 2,
        "max_vcpus": 2,
        "memory": 8_000_000 * KIB,
        "amd": True,
        "settings": (("smm", "off"),),
        "sev": snp(),
        "cmdline": CMDLINE,
    }
    return Stage0Machine(**values | changes)


def snp(**changes: Any) -> SevMachine:
    values: dict[str, Any] = {
        "name": "sample",
        "mode": SevMode.SEV_SNP,
        "vcpus": 2,
        "cpu": CpuSignature(25, 17, 1),
        "features": 1,
        "cmdline": CMDLINE,
    }
    return SevMachine(**values | changes)


def insecure(**changes: Any) -> Stage0Machine:
    return machine(**{"type": "microvm", "sev": None, "settings": ()} | changes)


def launch(value: Stage0Machine | None = None, **changes: Any) -> Stage0Launch:
    values: dict[str, Any] = {
        "machine": value or machine(),
        "firmware": SevFirmware.of("stage0_bin", [sev_firmware.firmware(size=0x10000)]),
        "kernel": Stage0Kernel.of("kernel_bin", [bzimage()]),
        "initrd": hashed("initrd", sev_firmware.stream("initrd", 5000)),
        "acpi": acpi(),
    }
    return Stage0Launch(**values | changes)


def hashed(name: str, data: bytes) -> HashedFile:
    return HashedFile(name=name, size=len(data), sha256=hashlib.sha256(data).digest())


def acpi(*commands: bytes, **changes: Any) -> AcpiTables:
    usual = (
        allocate("etc/acpi/rsdp", 16, 2),
        allocate("etc/acpi/tables", 64, 1),
        add_checksum("etc/acpi/tables", 73, 64, 40),
        add_pointer("etc/acpi/rsdp", "etc/acpi/tables", 16, 4),
        command(0),
        command(0),
    )
    values: dict[str, Any] = {"table_loader": b"".join(commands or usual), "rsdp": RSDP, "tables": TABLES}
    return AcpiTables(**values | changes)


def command(number: int, body: bytes = b"") -> bytes:
    return (struct.pack("<I", number) + body).ljust(128, b"\0")


def allocate(file: str, alignment: int = 64, zone: int = 1) -> bytes:
    return command(1, struct.pack("<56sIB", file.encode(), alignment, zone))


def add_pointer(file: str, other: str, offset: int = 0, size: int = 4) -> bytes:
    return command(2, struct.pack("<56s56sIB", file.encode(), other.encode(), offset, size))


def add_checksum(file: str, offset: int = 0, start: int = 0, length: int = 1) -> bytes:
    return command(3, struct.pack("<56sIII", file.encode(), offset, start, length))


def write_pointer(file: str, other: str) -> bytes:
    return command(4, struct.pack("<56s56sIIB", file.encode(), other.encode(), 0, 0, 8))
