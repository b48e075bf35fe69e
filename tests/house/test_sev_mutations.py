"""Breaking any rule of an SEV launch digest makes a recorded digest differ."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest

from recipes.formats.ovmf_footer import FOUR_GIB, OvmfFooter, SectionType
from recipes.machine.sev import SevVmm
from recipes.measure import gctx, kernel_hashes, sev, sev_pages, vmsa
from recipes.measure.gctx import PageType
from tests.unit import test_measure_sev
from tests.vectors import test_snp
from tests.vectors.sev_inputs import RECORDED, SNP, firmware


def recorded(**wanted: object) -> Callable[[], None]:
    """The check of the first recorded digest that is like this."""
    for cases, check in (
        (SNP["vectors"], test_snp.test_digest),
        (RECORDED["vectors"], test_snp.test_recorded_digest),
    ):
        for case in cases:
            if all(case.get(key) == value for key, value in wanted.items()):
                return lambda found=case, run=check: run(found)  # type: ignore[misc]
    raise LookupError(f"no vector is like {wanted}")


@dataclass(frozen=True)
class SevMutation:
    """One broken rule.

    Attributes:
        change: what takes the place of the attribute, given it.
        killed_by: a check that passes while the rule stands.
    """

    rule: str
    module: ModuleType | type
    attribute: str
    change: Callable[[Any], Any]
    killed_by: Callable[[], None]


ONE = recorded(mode="snp", vmm="QEMU", vcpus=1, kernel=False)
TWO = recorded(mode="snp", vmm="QEMU", vcpus=2, kernel=False)
DIRECT = recorded(mode="snp", vmm="QEMU", vcpus=1, kernel=True, initrd=True)
EC2 = recorded(mode="snp", vmm="ec2", vcpus=2, kernel=False)
GCE = recorded(mode="snp", vmm="gce", vcpus=2, kernel=False)
SEV_ES = recorded(mode="seves", vcpus=2, kernel=True)
SVSM = recorded(mode="svsm")
LEGACY = test_measure_sev.test_the_legacy_vm_type_has_no_fpu_state
SEV = recorded(mode="sev", kernel=True)


def other_profile(vmm: SevVmm, **changes: object) -> Callable[[Any], Any]:
    return lambda profiles: {**profiles, vmm: replace(profiles[vmm], **changes)}


def without(name: str) -> Callable[[Any], Any]:
    """A page with another value in a register."""

    def change(page: Callable[..., bytes]) -> Callable[..., bytes]:
        def changed(**registers: Any) -> bytes:
            value = registers[name]
            registers[name] = bytes(16) if isinstance(value, bytes) else value ^ 1
            return page(**registers)

        return changed

    return change


def without_legacy(page: Callable[..., bytes]) -> Callable[..., bytes]:
    return lambda *args, **values: page(*args, **{**values, "legacy": False})


def first(runs: Iterator[Any]) -> Iterator[Any]:
    yield next(runs)


def moved_reset(init: Callable[..., None]) -> Callable[..., None]:
    def changed(self: Any, **values: Any) -> None:
        init(self, **{**values, "reset_eip": (values.get("reset_eip") or 0) + 4})

    return changed


REGISTERS = (
    "es",
    "cs",
    "ss",
    "ds",
    "fs",
    "gs",
    "gdtr",
    "ldtr",
    "idtr",
    "tr",
    "efer",
    "cr4",
    "cr0",
    "dr7",
    "dr6",
)
MORE = ("rflags", "rip", "g_pat", "rdx", "sev_features", "xcr0", "mxcsr", "x87_fcw")
MUTATIONS = [
    *(SevMutation(f"VMSA {name}", vmsa, "_page", without(name), ONE) for name in (*REGISTERS, *MORE)),
    SevMutation("BSP starts at reset", sev_pages, "RESET_EIP", lambda eip: eip - 16, ONE),
    SevMutation("AP starts at reset block", OvmfFooter, "__init__", moved_reset, TWO),
    SevMutation("VMSA address", gctx, "VMSA_ADDRESS", lambda address: 0, ONE),
    SevMutation("firmware ends at 4 GiB", sev_pages, "FOUR_GIB", lambda end: end - 4096, ONE),
    SevMutation(
        "page type of secrets",
        sev_pages,
        "_PAGE_TYPES",
        lambda types: {**types, SectionType.SNP_SECRETS: PageType.ZERO},
        ONE,
    ),
    SevMutation(
        "page type of CPUID",
        sev_pages,
        "_PAGE_TYPES",
        lambda types: {**types, SectionType.CPUID: PageType.ZERO},
        ONE,
    ),
    SevMutation(
        "memory is zero pages",
        sev_pages,
        "_PAGE_TYPES",
        lambda types: {**types, SectionType.SNP_SEC_MEM: PageType.UNMEASURED},
        ONE,
    ),
    SevMutation(
        "CAA is zero pages",
        sev_pages,
        "_PAGE_TYPES",
        lambda types: {**types, SectionType.SVSM_CAA: PageType.UNMEASURED},
        ONE,
    ),
    SevMutation(
        "no kernel is a zero page",
        sev_pages,
        "_PAGE_TYPES",
        lambda types: {**types, SectionType.SNP_KERNEL_HASHES: PageType.UNMEASURED},
        ONE,
    ),
    SevMutation("size of PAGE_INFO", gctx, "_PAGE_INFO", lambda codec: struct.Struct("<48s48sHB6xQ"), ONE),
    SevMutation("order of hashes", kernel_hashes, "_KERNEL", lambda guid: kernel_hashes._INITRD, DIRECT),
    SevMutation("padding of the table", kernel_hashes, "_ALIGNMENT", lambda size: 1, SEV),
    SevMutation("place of the table", kernel_hashes, "PAGE_SIZE", lambda size: 0x400, DIRECT),
    SevMutation("entries have sizes", kernel_hashes, "_SIZE", lambda size: size + 8, DIRECT),
    SevMutation("EC2 launches CPUID last", sev_pages, "SevVmm", lambda vmm: NoEc2, EC2),
    SevMutation("EC2 has a CS of its own", vmsa, "PROFILES", other_profile(SevVmm.EC2, cs=0x9B), EC2),
    SevMutation("EC2 has that CS once", vmsa, "PROFILES", other_profile(SevVmm.EC2, cs_other=0x9A), EC2),
    SevMutation("EC2 has an SS of its own", vmsa, "PROFILES", other_profile(SevVmm.EC2, ss=0x93), EC2),
    SevMutation("EC2 has a TR of its own", vmsa, "PROFILES", other_profile(SevVmm.EC2, tr=0x8B), EC2),
    SevMutation("EC2 has no MXCSR", vmsa, "PROFILES", other_profile(SevVmm.EC2, mxcsr=0x1F80), EC2),
    SevMutation("EC2 has no signature", vmsa, "PROFILES", other_profile(SevVmm.EC2, rdx=None), EC2),
    SevMutation("GCE has a PAT of its own", vmsa, "PROFILES", other_profile(SevVmm.GCE, g_pat=1), GCE),
    SevMutation("GCE has no FCW", vmsa, "PROFILES", other_profile(SevVmm.GCE, x87_fcw=0x37F), GCE),
    SevMutation("GCE leaves memory unmeasured", sev_pages, "SevVmm", lambda vmm: NoEc2, GCE),
    SevMutation("legacy VM type has no FPU state", sev_pages, "vmsa_page", without_legacy, LEGACY),
    SevMutation("SVSM has no FCW", vmsa, "PROFILES", other_profile(SevVmm.SVSM, x87_fcw=0x37F), SVSM),
    SevMutation(
        "SVSM is in protected mode", vmsa, "PROFILES", other_profile(SevVmm.SVSM, protected=False), SVSM
    ),
    SevMutation(
        "SVSM is below the variables", sev_pages, "svsm_end", lambda end: lambda launch: FOUR_GIB, SVSM
    ),
    SevMutation("SEV-ES measures vCPUs", sev, "vcpu_runs", lambda runs: lambda launch: iter(()), SEV_ES),
    SevMutation("vCPUs count", sev, "vcpu_runs", lambda runs: lambda launch: first(runs(launch)), SEV_ES),
]


class NoEc2:
    """The VMMs, as if two of them were others."""

    EC2 = GCE = None
    QEMU, SVSM = SevVmm.QEMU, SevVmm.SVSM


def unread() -> None:
    """What was parsed under a broken rule is parsed again."""
    for name in ("OVMF.amdsev.fd", "small", "svsm"):
        firmware(name).__dict__.pop("footer", None)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule.replace(" ", "-"))
def test_broken_rule_is_noticed(mutation: SevMutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation.killed_by()
    unread()
    original = getattr(mutation.module, mutation.attribute)
    monkeypatch.setattr(mutation.module, mutation.attribute, mutation.change(original))
    with pytest.raises(AssertionError):
        mutation.killed_by()
    monkeypatch.undo()
    unread()


def test_rules_are_named_once() -> None:
    rules = [item.rule for item in MUTATIONS]
    assert sorted(set(rules)) == sorted(rules)
