"""Launches of firmware, written as IGVM files: the same pages in the same order, the same registers.

QEMU launches SNP_SEC_MEM sections of firmware as ZERO pages, and no page of an IGVM file as one, so these
launches have none, or one of Google Compute Engine, where they are unmeasured.
"""

from __future__ import annotations

import json
from typing import Any

from recipes.formats.ovmf_footer import FOUR_GIB
from recipes.machine.sev import SevVmm
from recipes.machine.sev_cpus import CPU_MODELS
from recipes.measure.kernel_hashes import KernelHashes
from recipes.measure.sev_launch import SevFirmware
from recipes.measure.vmsa import RESET_EIP, vmsa_page
from tests.unit import igvm_files as igvm
from tests.unit import sev_firmware as fw
from tests.vectors.sev_inputs import FOLDER, hashed

RECORDED: dict[str, Any] = json.loads((FOLDER / "igvm.json").read_text(encoding="utf-8"))
_KINDS = {fw.SECRETS_PAGE: igvm.SECRETS, fw.CPUID: igvm.CPUID}


def firmware(case: dict[str, Any]) -> bytes:
    """The firmware of a case; its first pages are zero where the case says so."""
    sections = [(int(gpa, 16), size, kind) for gpa, size, kind in case["sections"]]
    data = fw.firmware(label="igvm", sections=sections)
    return bytes(case["zeros"]) + data[case["zeros"] :]


def headers(case: dict[str, Any]) -> list[igvm.Header]:
    """The directives that launch what the case's firmware is launched as."""
    data, vmm = firmware(case), SevVmm(case["vmm"].lower())
    start = FOUR_GIB - len(data)
    found = igvm.blank(start, case["zeros"]) if case["zeros"] else []
    found += igvm.pages(start + case["zeros"], data[case["zeros"] :])
    for text, size, kind in sorted(
        case["sections"], key=lambda item: vmm is SevVmm.EC2 and item[2] == fw.CPUID
    ):
        gpa = int(text, 16)
        if kind == fw.SEC_MEM:
            found += igvm.blank(gpa, size, flags=igvm.UNMEASURED)
        elif kind == fw.KERNEL_HASHES:
            found.append(igvm.page(gpa, hashes_page(data)))
        else:
            found += igvm.blank(gpa, size, kind=_KINDS[kind])
    signature, features = CPU_MODELS[case["cpu"]].eax, int(case["features"], 16)
    for number in range(case["vcpus"]):
        eip = fw.AP_EIP if number else RESET_EIP
        found.append(igvm.context(vmsa_page(vmm, eip=eip, signature=signature, features=features), number))
    return found


def hashes_page(data: bytes) -> bytes:
    """The page with the table of kernel hashes."""
    area = SevFirmware.of("F", [data]).footer.hashes
    assert area is not None
    table = KernelHashes.of(hashed("kernel").sha256, hashed("initrd").sha256, RECORDED["append"])
    return table.page(area, "F")


def build(case: dict[str, Any], *, before: tuple[igvm.Header, ...] = ()) -> bytes:
    """The IGVM file of a case."""
    return igvm.build([igvm.platform(), igvm.policy(0x30000), *before, *headers(case)])
