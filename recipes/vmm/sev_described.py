"""A machine with SEV whose host has no QEMU command line, described as ``vmm=ec2,firmware=F,vcpus=2``.

``SETTINGS`` is what there is to say of it: for the parser, which takes no other, and for help texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import MeasureError, suggestion
from ..machine.sev import POLICY_ES, SevMachine, SevMode, SevVmm
from ..machine.sev_cpus import CpuSignature
from ..record import replace
from .qemu_options import OptionValue, split_option
from .sev_values import (
    ParsedSev,
    SevFiles,
    SevHost,
    check_policy,
    default_policy,
    features_of,
    igvm_features,
    number,
    parse_cpu,
    refuse_cpu,
    signature,
    vcpu_count,
)

_VMMS = tuple(item.value for item in SevVmm)
_MODES = tuple(item.value for item in SevMode)
SETTINGS = {
    "vmm": ("|".join(_VMMS), "who starts it; the last is QEMU with COCONUT-SVSM below the firmware"),
    "firmware": ("FILE", "needed, unless igvm= is given"),
    "igvm": ("FILE", "instead of firmware=, with vmm=qemu"),
    "vcpus": ("N", "needed"),
    "mode": ("|".join(_MODES), "sev-snp unless stated"),
    "cpu": ("MODEL", "of QEMU, or family/model/stepping; needed with vmm=qemu and svsm, not for mode=sev"),
    "sev-features": ("N", "as --host sev-features"),
    "policy": ("N", "guest policy; an ID block shows it, the digest does not"),
    "kernel": ("FILE", "that QEMU boots directly"),
    "initrd": ("FILE", "of that kernel"),
    "append": ("TEXT", "its command line; two commas are one of the text"),
    "kernel-hashes": ("on|off", "whether these are measured; on unless stated where there is a kernel"),
    "legacy-vm-type": ("on|off", "of mode=sev-es with vmm=qemu"),
    "svsm": ("FILE", "the SVSM; needed with vmm=svsm"),
    "vars-size": ("BYTES", "of the variable store between SVSM and firmware, with vmm=svsm"),
}
"""Every setting: what stands behind its ``=``, and what it is."""


def settings_help() -> str:
    """Every setting in words."""
    return ", ".join(f"{key}={value} ({what})" for key, (value, what) in SETTINGS.items())


def parse_described(text: str, *, host: SevHost | None = None) -> ParsedSev:
    """A machine that is described as ``vmm=ec2,firmware=F,vcpus=N`` with further settings.

    Two commas are one of the value.

    Raises:
        MeasureError: naming the setting that is unknown, missing or wrong.
    """
    value, host = _settings(text), host or SevHost()
    vmm = _choice(value, "vmm", _VMMS)
    mode = SevMode(_choice(value, "mode", _MODES, SevMode.SEV_SNP.value))
    kernel, initrd, svsm = value.take("kernel"), value.take("initrd"), value.take("svsm")
    cmdline, policy, igvm = value.take("append"), value.take("policy"), value.take("igvm")
    if not kernel and (initrd or cmdline):
        raise MeasureError(f"--machine {text}: initrd and append are for a kernel; give kernel=FILE")
    _check_svsm(text, vmm, svsm)
    host = _with_stated(value, host)
    if igvm:
        _check_igvm(value, vmm, kernel)
    features, notes = (igvm_features if igvm else features_of)(mode, OptionValue("--machine", text), host)
    size = value.take("vars-size")
    if size and not svsm:
        raise MeasureError(
            f"--machine {text}: vars-size is for an SVSM, below which the store is; leave it out"
        )
    machine = SevMachine(
        name="described",
        mode=mode,
        vmm=SevVmm(vmm),
        vcpus=vcpu_count(f"--machine {text}", _need(value, "vcpus", "2")),
        cpu=_described_cpu(value, host, mode, SevVmm(vmm)),
        features=features,
        kernel_hashes=_kernel_hashes(value, kernel, mode, SevVmm(vmm)),
        policy=_policy(text, policy, mode),
        cmdline=cmdline if kernel else None,
        variables_size=number(f"--machine vars-size={size}", size) if size else 0,
        legacy_vm_type=_vm_type(value, mode, SevVmm(vmm)),
    )
    files = SevFiles(
        firmware="" if igvm else _need(value, "firmware", "OVMF.fd"),
        kernel=kernel or None,
        initrd=initrd or None,
        svsm=svsm or None,
        igvm=igvm or None,
    )
    value.finish()
    return ParsedSev(
        machine=machine,
        files=files,
        notes=notes,
        stated_policy=bool(policy),
        stated_features=host.features is not None,
    )


def _settings(text: str) -> OptionValue:
    value = split_option("--machine", text)
    if value.head:
        raise MeasureError(f"--machine {text}: {value.head!r} has no =; write vmm=ec2,firmware=F,vcpus=N")
    for key in value.settings:
        if key not in SETTINGS:
            raise MeasureError(f"--machine {text}: no such setting as {key!r}{suggestion(key, SETTINGS)}")
    return value


def _check_svsm(text: str, vmm: str, svsm: str) -> None:
    if svsm and vmm != SevVmm.SVSM.value:
        raise MeasureError(f"--machine {text}: svsm=FILE belongs to vmm=svsm, and to no other; leave it out")
    if vmm == SevVmm.SVSM.value and not svsm:
        raise MeasureError(f"--machine {text}: vmm=svsm starts an SVSM below the firmware; give svsm=FILE")


def _need(value: OptionValue, key: str, example: str) -> str:
    text = value.take(key)
    if not text:
        what = f"{key}= is missing; write for example {key}={example}"
        raise MeasureError(f"--machine {value.text}: {what}")
    return text


def _kernel_hashes(value: OptionValue, kernel: str, mode: SevMode, vmm: SevVmm) -> bool:
    """Whether the kernel is hashed, which QEMU aborts at with SEV-SNP where there is none.

    Spec: QEMU 10.0 target/i386/sev.c snp_launch_update_kernel_hashes().
    """
    hashes = value.switch("kernel-hashes", default=bool(kernel))
    if hashes and not kernel and (mode, vmm) == (SevMode.SEV_SNP, SevVmm.QEMU):
        what = "kernel-hashes=on without a kernel: QEMU aborts so"
        raise MeasureError(f"--machine {value.text}: {what}; give kernel=FILE, or leave it out")
    return hashes


def _vm_type(value: OptionValue, mode: SevMode, vmm: SevVmm) -> bool | None:
    """Which of KVM's two ways an SEV-ES guest is set up by; None where nothing says it."""
    if "legacy-vm-type" not in value.settings:
        return None
    if (mode, vmm) != (SevMode.SEV_ES, SevVmm.QEMU):
        what = "legacy-vm-type is for mode=sev-es and vmm=qemu, nothing else depends on it"
        raise MeasureError(f"--machine {value.text}: {what}; leave it out")
    return value.switch("legacy-vm-type")


def _with_stated(value: OptionValue, host: SevHost) -> SevHost:
    """The host's facts, with SEV_FEATURES that the description states."""
    where, stated = f"--machine {value.text}", value.take("sev-features")
    if stated and host.features is not None:
        raise MeasureError(f"{where}: sev-features is given by --host as well; leave one out")
    return replace(host, features=number(where, stated)) if stated else host


def _check_igvm(value: OptionValue, vmm: str, kernel: str) -> None:
    """Stops where something is given that is in an IGVM file or cannot be beside one."""
    where = f"--machine {value.text}"
    if vmm != SevVmm.QEMU.value:
        raise MeasureError(f"{where}: igvm=FILE is modelled for vmm=qemu, not for {vmm}; give firmware=FILE")
    if value.take("firmware"):
        raise MeasureError(f"{where}: the firmware is in the IGVM file; leave out firmware=")
    if kernel:
        what = "nothing of a kernel beside an IGVM file is measured"
        raise MeasureError(f"{where}: {what}; leave out kernel=, initrd= and append=")


def _policy(described: str, text: str, mode: SevMode) -> int:
    """The policy; of SEV and SEV-ES it says which of them it is."""
    policy = number(f"--machine policy={text}", text) if text else default_policy(mode)
    if mode is not SevMode.SEV_SNP and bool(policy & POLICY_ES) != (mode is SevMode.SEV_ES):
        meant = SevMode.SEV if mode is SevMode.SEV_ES else SevMode.SEV_ES
        what = f"policy {policy:#x} is one of {meant.value}, and mode is {mode.value}"
        raise MeasureError(f"--machine {described}: {what}; change one of the two")
    return check_policy(f"--machine {described}", mode, policy)


def _described_cpu(value: OptionValue, host: SevHost, mode: SevMode, vmm: SevVmm) -> CpuSignature | None:
    text = value.take("cpu")
    if mode is SevMode.SEV or vmm not in (SevVmm.QEMU, SevVmm.SVSM):
        name = mode.value if mode is SevMode.SEV else f"vmm={vmm.value}"
        if text:
            what = f"{name} measures no CPU signature, so nothing depends on cpu={text}; leave it out"
            raise MeasureError(f"--machine {value.text}: {what}")
        refuse_cpu(host, name)
        return None
    facts = (host.family, host.model, host.stepping)
    if text and facts != (None, None, None):
        raise MeasureError(f"--machine {value.text}: the CPU is given by --host as well; leave one out")
    if text:
        found: CpuSignature | None = parse_cpu(text, f"--machine cpu={text}")
    elif all(fact is not None for fact in facts):
        found = signature("--host", *(fact or 0 for fact in facts))
    else:
        found = None
    if found is None:
        raise MeasureError(
            f"--machine {value.text}: cpu= is missing; give a QEMU model or family/model/stepping"
        )
    return found


def _choice(value: OptionValue, key: str, known: Sequence[str], default: str = "") -> str:
    text = value.take(key, default)
    if text not in known:
        what = (
            f"{text!r} is none of {', '.join(known)}"
            if text
            else f"{key}= is missing; one of {', '.join(known)}"
        )
        raise MeasureError(
            f"--machine {value.text}: {key}: {what}" if text else f"--machine {value.text}: {what}"
        )
    return text
