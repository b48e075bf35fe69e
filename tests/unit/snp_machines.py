"""Machines with SEV-SNP as a recipe makes them, for tests of what is done with them."""

from __future__ import annotations

from dataclasses import replace

from recipes.machine import SnpBoot, SnpFirmware, SnpMachine, TpmInterface

DISK = SnpMachine(
    name="snp-disk",
    type="pc-q35-10.0",
    cpu="EPYC-Milan",
    vcpus=4,
    memory=8 << 30,
    firmware=SnpFirmware(package="ovmf", file="OVMF.fd"),
    boot=SnpBoot.DISK,
    tpm=TpmInterface.CRB,
)
UKI = replace(
    DISK,
    name="snp",
    firmware=SnpFirmware(package="ovmf-amdsev", file="OVMF.amdsev.fd", recipe="ovmf-amdsev"),
    boot=SnpBoot.UKI,
)
KERNEL = replace(UKI, name="snp-kernel", boot=SnpBoot.KERNEL, tpm=None)
