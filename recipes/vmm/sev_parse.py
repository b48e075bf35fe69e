"""A QEMU command line with ``-object sev-guest`` or ``sev-snp-guest``, as the machine that is measured.

What the digest depends on and no command line shows (SEV_FEATURES that KVM turns on, the CPU behind
``-cpu host``) is given as a fact of the host. Hosts without a QEMU command line are described as
``vmm=ec2,firmware=F,vcpus=2``.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence

from ..errors import MeasureError, suggestion
from ..machine.sev import DEFAULT_POLICY, POLICY_ES, SevMachine, SevMode, SevVmm
from ..machine.sev_cpus import CPU_MODELS, HOST_MODELS, CpuSignature
from .qemu_options import OptionValue, split_option
from .sev_options import FEATURE_SETTINGS, IGNORED_SEV
from .sev_values import (
    ParsedSev,
    SevFiles,
    SevHost,
    check_policy,
    default_policy,
    features_of,
    igvm_features,
    number,
    refuse_cpu,
    signature,
    vcpu_count,
)
from .sev_words import SEV_GUEST, SNP_GUEST, TDX_GUEST, SevLine, options, read

_HOW = "give --host family=F --host model=M --host stepping=S, as /proc/cpuinfo has them"
_PROGRAMS = frozenset(["qemu-system-x86_64", "qemu-kvm", "kvm"])
# Objects that protect a machine, and settings that name one. No expressions: compiling some takes as long as
# all of the parsing.
_GUESTS = (SEV_GUEST, SNP_GUEST, TDX_GUEST)
_PROTECTED = ("confidential-guest-support=", "memory-encryption=")
# Others put other parts in place: microvm, for one, adds to the command line behind the hash of it.
_TYPE, _VERSION = "q35", "pc-q35-"
_VERSION_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.")
# Parts of a machine that are multiplied; of the last three, QEMU computes one that is left out, and a q35 has
# one of each of the first three. Spec: QEMU 10.0 hw/core/machine-smp.c, hw/i386/pc.c pc_machine_class_init().
_FIXED = ("drawers", "books", "clusters")
_COMPUTED = ("sockets", "cores", "threads")
_TOPOLOGY = (*_FIXED, "dies", "modules", *_COMPUTED)


def is_sev(argv: Sequence[str]) -> bool:
    """Whether the words start a QEMU with an SEV guest object, or with what only makes sense beside one."""
    if not argv or not is_qemu(argv[0]):
        return False
    for option, value in itertools.pairwise(argv):
        match option:
            case "-object" | "--object":
                protected = _is_guest(value)
            case "-machine" | "--machine" | "-M" | "--M":
                parts = value.split(",")
                protected = any(part.replace("_", "-").startswith(_PROTECTED) for part in parts)
            case _:
                continue
        if protected:
            return True
    return False


def _is_guest(value: str) -> bool:
    """Whether an object protects a machine, wherever its type stands; of JSON, whether it has such a word."""
    if value.startswith("{"):
        return any(f'"{name}"' in value for name in _GUESTS)
    first, *others = value.split(",")
    return first in _GUESTS or any(f"qom-type={name}" in (first, *others) for name in _GUESTS)


def is_qemu(program: str) -> bool:
    """Whether a word is the name or path of QEMU for x86."""
    return program.rpartition("/")[2] in _PROGRAMS


def parse(
    argv: Sequence[str],
    *,
    name: str = "command line",
    host: SevHost | None = None,
    file_size: Callable[[str], int],
) -> ParsedSev:
    """The machine and the files of a QEMU command line with SEV.

    Args:
        argv: the words, the program's name first.
        name: what to call the machine.
        file_size: gives the bytes of a file; asked for the variable store below an SVSM alone.

    Raises:
        MeasureError: naming the option that is unknown, missing or not modelled.
    """
    line, host = SevLine(), host or SevHost()
    for option, value in options(argv[1:]):
        read(line, option, value)
    guest = _guest(line)
    stated_policy = "policy" in guest.settings
    mode, policy = _mode(guest)
    legacy, assumed = _vm_type(line, guest, mode)
    igvm = _igvm(line)
    kernel_hashes = guest.switch("kernel-hashes")
    with_svsm = guest.switch("svsm")
    features, notes = (igvm_features if igvm else features_of)(mode, guest, host)
    if mode is SevMode.SEV:
        refuse_cpu(host, mode.value)
    for key in sorted(set(guest.settings) & IGNORED_SEV):
        line.ignored.append(f"-object {guest.head}: {key}={guest.take(key)}")
    guest.finish()
    _check_direct_boot(line)
    if igvm:
        _check_igvm(line, igvm, kernel_hashes=kernel_hashes, with_svsm=with_svsm)
    files, variables = _files(line, igvm, with_svsm=with_svsm)
    machine = SevMachine(
        name=name,
        mode=mode,
        vmm=SevVmm.SVSM if files.svsm else SevVmm.QEMU,
        vcpus=_vcpus(line),
        cpu=_cpu(line, host) if mode is not SevMode.SEV else None,
        features=features,
        kernel_hashes=kernel_hashes,
        policy=policy,
        cmdline=line.once.get("-append", "") if "-kernel" in line.once else None,
        variables_size=file_size(variables) if files.svsm and variables else 0,
        legacy_vm_type=legacy,
    )
    return ParsedSev(
        machine=machine,
        files=files,
        ignored=tuple(line.ignored),
        notes=(*notes, *assumed),
        stated_policy=stated_policy,
        stated_features=host.features is not None,
    )


def _files(line: SevLine, igvm: str | None, *, with_svsm: bool) -> tuple[SevFiles, str | None]:
    """Paths of what is launched, and of the variable store."""
    if igvm:
        firmware, svsm, variables = "", None, None
    else:
        firmware, svsm, variables = _firmware(line, with_svsm=with_svsm)
    files = SevFiles(
        firmware=firmware,
        kernel=line.once.get("-kernel"),
        initrd=line.once.get("-initrd"),
        svsm=svsm,
        igvm=igvm,
        rom="-bios" in line.once,
        flash=tuple(line.flash[unit] for unit in sorted(line.flash)),
        raw=tuple(line.flash[unit] for unit in sorted(line.raw)),
    )
    return files, variables


def _igvm(line: SevLine) -> str | None:
    """Path of the IGVM file that the machine uses."""
    used, found = line.machine.get("igvm-cfg"), None
    for value in line.igvm:
        if value.need("id") != used:
            kind = line.machine.get("type", "q35")
            what = f"no machine uses it, so it is not loaded; write -machine {kind},igvm-cfg=ID"
            raise MeasureError(f"-object {value.text}: {what}, or leave it out")
        found = value.need("file")
        value.finish()
    if len(line.igvm) > 1:
        raise MeasureError(f"-object: {len(line.igvm)} of type igvm-cfg; give one")
    if used is not None and found is None:
        what = f"there is no such object; write -object igvm-cfg,id={used},file=FILE"
        raise MeasureError(f"-machine igvm-cfg={used}: {what}")
    return found


def _check_igvm(line: SevLine, path: str, *, kernel_hashes: bool, with_svsm: bool) -> None:
    """Stops where something is given that is in an IGVM file or cannot be beside one.

    Spec: QEMU 10.1 hw/i386/pc_sysfw.c pc_system_firmware_init(), target/i386/sev.c
    sev_add_kernel_loader_hashes().
    """
    if "-bios" in line.once or line.flash:
        what = "the firmware is in the IGVM file, and QEMU takes no other beside it"
        raise MeasureError(f"firmware: {what}; leave out -bios and -drive if=pflash")
    if with_svsm:
        raise MeasureError("svsm=on: the SVSM is in the IGVM file; leave it out")
    if kernel_hashes and "-kernel" in line.once:
        what = f"QEMU has no place for the hashes beside {path}, and does not start so"
        raise MeasureError(f"kernel-hashes=on: {what}; leave it out, or put the kernel into the IGVM file")


def _guest(line: SevLine) -> OptionValue:
    """The SEV guest object, which the machine uses."""
    kind = line.machine.get("type", "")
    version = kind.removeprefix(_VERSION)
    if kind != _TYPE and (not version or version == kind or not _VERSION_CHARACTERS.issuperset(version)):
        if not kind:
            raise MeasureError("-machine: missing; write -machine q35,confidential-guest-support=ID")
        raise MeasureError(f"-machine {kind}: is not modelled; use q35")
    if len(line.guests) != 1:
        raise MeasureError(f"-object: {len(line.guests)} of types {SEV_GUEST} and {SNP_GUEST}; give one")
    guest = line.guests[0]
    name = guest.need("id")
    used = line.machine.get("confidential-guest-support") or line.machine.get("memory-encryption")
    if used != name:
        what = f"write -machine {kind},confidential-guest-support={name}"
        raise MeasureError(f"-object {guest.text}: no machine uses it, so nothing is measured; {what}")
    return guest


def _mode(guest: OptionValue) -> tuple[SevMode, int]:
    """Which SEV the guest object asks for, and its policy."""
    text, where = guest.take("policy"), f"-object {guest.text}"
    if guest.head == SNP_GUEST:
        mode = SevMode.SEV_SNP
        policy = number(where, text) if text else default_policy(mode)
    else:
        policy = number(where, text) if text else DEFAULT_POLICY
        mode = SevMode.SEV_ES if policy & POLICY_ES else SevMode.SEV
    return mode, check_policy(where, mode, policy)


def _vm_type(line: SevLine, guest: OptionValue, mode: SevMode) -> tuple[bool | None, tuple[str, ...]]:
    """Which of KVM's two ways an SEV-ES guest is set up by, None where nothing says it; and what was assumed.

    Machine types up to 9.0 have the earlier way by themselves, and ``auto`` takes it as well unless something
    is asked for that only the newer one has. Older QEMUs have no other.

    Spec: QEMU 10.0 target/i386/sev.c sev_kvm_type(), sev_init2_required(), hw/i386/pc.c pc_compat_9_0; QEMU
    11.0 target/i386/sev.c: SEV_FEATURES need the newer one.
    """
    if guest.head != SEV_GUEST:
        return None, ()
    text, kind = guest.take("legacy-vm-type"), line.machine["type"]
    if mode is not SevMode.SEV_ES:
        line.ignored += [f"-object {guest.head}: legacy-vm-type={text}"] if text else []
        return None, ()
    wanted = [key for key in FEATURE_SETTINGS if guest.settings.get(key) in ("on", "yes", "true")]
    number_of, dot, minor = kind.removeprefix(_VERSION).partition(".")
    versioned = bool(dot) and number_of.isdecimal() and minor.isdecimal()
    if text in ("", "auto"):
        if not text and not versioned:
            return (False if wanted else None), ()
        legacy = not wanted
        note = (
            f"legacy-vm-type={'on' if legacy else 'off'}: QEMU takes it so with {kind} where it is not stated"
        )
        return legacy, () if text else (note,)
    guest.settings["legacy-vm-type"] = text
    legacy = guest.switch("legacy-vm-type")
    if legacy and wanted:
        what = f"{wanted[0]}=on needs the newer VM type"
        raise MeasureError(f"-object {guest.text}: {what}; write legacy-vm-type=off")
    return legacy, ()


def _check_direct_boot(line: SevLine) -> None:
    for option in ("-initrd", "-append"):
        if "-kernel" not in line.once and option in line.once:
            raise MeasureError(f"{option}: there is no -kernel that it is for; give one, or leave it out")


def _firmware(line: SevLine, *, with_svsm: bool) -> tuple[str, str | None, str | None]:
    """Paths of firmware, SVSM and variable store."""
    bios = line.once.get("-bios")
    if (bios is None) == (0 not in line.flash):
        given = "missing" if bios is None else "given by -bios and by -drive if=pflash"
        raise MeasureError(
            f"firmware: {given}; give it by -bios FILE or by one -drive if=pflash,format=raw,file=FILE"
        )
    if with_svsm != (2 in line.flash):
        what = "an SVSM is svsm=on at the object, with its file in flash unit 2"
        raise MeasureError(f"svsm: {what}; give both or none")
    for unit in sorted(line.flash):
        # Spec: QEMU 10.0 hw/i386/pc_sysfw.c pc_system_firmware_init().
        if unit and unit - 1 not in line.flash:
            what = f"QEMU takes none without unit {unit - 1}"
            raise MeasureError(f"-drive if=pflash,unit={unit}: {what}; give both, or leave it out")
    if 1 in line.flash and not with_svsm:
        line.ignored.append(
            f"-drive if=pflash,unit=1: {line.flash[1]} holds variables, which are not measured"
        )
    return bios if bios is not None else line.flash[0], line.flash.get(2), line.flash.get(1)


def _vcpus(line: SevLine) -> int:
    """Virtual CPUs that are there at the start.

    Spec: QEMU 10.0 hw/core/machine-smp.c machine_parse_smp_config().
    """
    text = line.once.get("-smp", "1")
    where, settings = f"-smp {text}", split_option("-smp", text, "cpus")
    cpus, most = settings.take("cpus"), settings.take("maxcpus")
    parts = {key: vcpu_count(where, settings.take(key)) for key in _TOPOLOGY if key in settings.settings}
    settings.finish()
    for key in _FIXED:
        if parts.get(key, 1) > 1:
            raise MeasureError(f"{where}: a q35 has no {key}; leave {key} out")
    product = functools.reduce(operator.mul, parts.values(), 1)
    total = vcpu_count(where, most or cpus or str(product))
    count = vcpu_count(where, cpus or str(total))
    if count > total:
        raise MeasureError(f"{where}: {count} vCPUs are more than maxcpus={total}; QEMU does not start so")
    complete = all(key in parts for key in _COMPUTED)
    if total % product or (complete and total != product):
        what = f"{product} of {', '.join(parts)} do not make {total} vCPUs"
        raise MeasureError(f"{where}: {what}; make them the number of maxcpus, or leave them out")
    return count


def _cpu(line: SevLine, host: SevHost) -> CpuSignature:
    """The signature of ``-cpu``; what else it says of features is not measured."""
    if "-cpu" not in line.once:
        raise MeasureError("-cpu: missing; family, model and stepping are measured, so name a model")
    text = line.once["-cpu"]
    name, _, rest = text.partition(",")
    stated: dict[str, int] = {}
    for setting in filter(None, rest.split(",")):
        key, _, value = setting.partition("=")
        if key in ("family", "model", "stepping"):
            stated[key] = number(f"-cpu {text}", value)
        else:
            line.ignored.append(f"-cpu: {setting}")
    known = CPU_MODELS.get(name)
    if known is None and name not in HOST_MODELS:
        close = suggestion(name, [*CPU_MODELS, *HOST_MODELS]) or "; use one such as EPYC-Milan"
        raise MeasureError(f"-cpu {text}: no such model of a CPU with SEV{close}")
    facts = {"family": host.family, "model": host.model, "stepping": host.stepping}
    numbers = []
    for key, fact in facts.items():
        if fact is not None and (known is not None or key in stated):
            raise MeasureError(f"--host {key}={fact}: -cpu {name} says it; leave one of them out")
        value_of = stated.get(key, getattr(known, key) if known else fact)
        if value_of is None:
            raise MeasureError(f"-cpu {text}: the digest depends on the host's {key}; {_HOW}")
        numbers.append(value_of)
    return signature(f"-cpu {text}", *numbers)
