"""What each file of policies holds: which machines, which signatures, and remarks for people.

A TVS that computes launch digests itself takes ``amd_sev_dynamic`` alone and any other none of those, and
only one that is told so takes ``insecure``: so each has files of its own.

Spec: private-compute-infra-toolkit/hats 7d61840, tvs/appraisal_policies/policy_manager/src/lib.rs and
policy_signature/src/lib.rs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from ...errors import ImageError
from ...machine.hats import CvmType, HatsShape, RegexForm
from ...machine.sev_cpus import CPU_MODELS
from ...record import dataclass
from ...schema.hats import InsecurePlace, SignatureSpec
from .names import STAGE0, measured

if TYPE_CHECKING:
    from ...golden.manifest import GoldenMachine
    from ...hats.policy import AppraisalPolicy, Stage0Reference

    Signer = Callable[[AppraisalPolicy], AppraisalPolicy]

ACPI = "acpi_table_sha256"
# A TVS looks at so many policies of one container digest, or at 30: that differs by version.
# Spec: private-compute-infra-toolkit/hats 7d61840, NUM_OF_POLICIES of the policy fetchers.
MOST_TRIED, MOST_TRIED_ELSEWHERE = 10, 30
# Processors that a TVS can compute launch digests for: those with SEV-SNP of which QEMU has a model.
# Spec: virtee/sev src/measurement/vcpu_types.rs CpuType.
KNOWN_CPUS = frozenset((cpu.family, cpu.model) for cpu in CPU_MODELS.values() if cpu.family >= 25)


class PolicyKind(Enum):
    """What a file of policies is for."""

    STATIC = "static"
    INSECURE = "insecure"
    DYNAMIC = "dynamic"


@dataclass(frozen=True, kw_only=True)
class PolicyForm:
    """How policies are written."""

    regex: RegexForm
    dynamic: bool
    insecure: InsecurePlace
    signature: SignatureSpec | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The machines of a recipe with their golden values, and what all policies have in common.

    Attributes:
        stage0: SHA-256 of the firmware.
        missing: files that a stand-in takes the place of.
    """

    title: str
    pairs: tuple[tuple[HatsShape, GoldenMachine], ...]
    form: PolicyForm
    stage0: bytes
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PolicyFile:
    """The content of one file.

    Attributes:
        remarks: what a reader has to know.
        warnings: the same, where it is for whoever builds too.
    """

    policies: tuple[AppraisalPolicy, ...]
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def comments(self) -> str:
        """What stands before the policies: text files may hold comments."""
        return "".join(f"# {line}\n" for line in (*self.remarks, *self.warnings))


def kinds(shapes: Sequence[HatsShape], form: PolicyForm) -> tuple[PolicyKind, ...]:
    """The files that there are; the first one always is."""
    apart = form.insecure is InsecurePlace.APART and any(map(_insecure, shapes))
    found = [PolicyKind.STATIC]
    found += [PolicyKind.INSECURE] * apart
    found += [PolicyKind.DYNAMIC] * form.dynamic
    return tuple(found)


def policy_file(kind: PolicyKind, known: Measured, sign: Signer | None) -> PolicyFile:
    """The content of one file.

    Args:
        sign: adds a signature; None where the recipe asks for none.

    Raises:
        ImageError: the golden values are of another recipe.
    """
    pairs = [pair for pair in known.pairs if _belongs(kind, pair[0], known.form)]
    plain = [_policy(kind, shape, machine, known) for shape, machine in pairs if complete(machine)]
    policies = plain if sign is None or known.missing else [_signed(item, sign) for item in plain]
    warnings = [] if sign is None else [*_unsigned(plain, known.missing)]
    warnings += [*_too_many(plain), *_unknown_cpus(kind, [shape for shape, _ in pairs])]
    remarks = [*_stand_ins([shape for shape, _ in pairs], known.missing)]
    remarks += [f"no policy for {shape.name}: {reason}" for shape, item in pairs for reason in lacking(item)]
    return PolicyFile(policies=tuple(policies), remarks=tuple(remarks), warnings=tuple(warnings))


def lacking(machine: GoldenMachine) -> tuple[str, ...]:
    """Why there is no policy for a machine; a TVS takes none with a field left out."""
    return tuple(item.reason for item in machine.omitted if item.register == ACPI)


def complete(machine: GoldenMachine) -> bool:
    """Whether every field of a policy is known."""
    return not lacking(machine)


def _insecure(shape: HatsShape) -> bool:
    return shape.cvm_type is CvmType.DEFAULT


def _belongs(kind: PolicyKind, shape: HatsShape, form: PolicyForm) -> bool:
    if kind is PolicyKind.STATIC and form.insecure is InsecurePlace.TOGETHER:
        return True
    return _insecure(shape) is (kind is PolicyKind.INSECURE)


def _policy(kind: PolicyKind, shape: HatsShape, machine: GoldenMachine, known: Measured) -> AppraisalPolicy:
    from ...hats.command_line import regex
    from ...hats.policy import AppraisalPolicy, description

    missing = measured(known.missing, protected=not _insecure(shape))
    return AppraisalPolicy(
        description=description(known.title, shape, missing),
        stage0=_reference(kind, shape, machine, known.stage0),
        kernel_image=_value(machine, "kernel_image_sha256"),
        kernel_setup_data=_value(machine, "kernel_setup_data_sha256"),
        init_ram_fs=_value(machine, "init_ram_fs_sha256"),
        memory_map=_value(machine, "memory_map_sha256"),
        acpi_table=_value(machine, ACPI),
        system_image=_value(machine, "system_image_sha256"),
        kernel_cmd_line_regex=regex(shape, known.form.regex),
        containers=(_value(machine, "container_binary_sha256"),),
    )


def _reference(kind: PolicyKind, shape: HatsShape, machine: GoldenMachine, stage0: bytes) -> Stage0Reference:
    from ...hats.policy import AmdSev, AmdSevDynamic, Insecure

    if shape.tcb is None or shape.cpu is None:
        return Insecure()
    if kind is PolicyKind.DYNAMIC:
        return AmdSevDynamic((stage0,), shape.tcb, (shape.cpu,), (shape.vcpus,))
    return AmdSev(_value(machine, "stage0_measurement"), shape.tcb)


def _value(machine: GoldenMachine, register: str) -> bytes:
    value = next((row.value for row in machine.registers if row.register == register), None)
    if value is None:
        raise ImageError(f"golden.json: {machine.name} has no {register}; run the same command again")
    return value


def _signed(policy: AppraisalPolicy, sign: Signer) -> AppraisalPolicy:
    from ...hats.policy import AmdSev

    return sign(policy) if isinstance(policy.stage0, AmdSev) else policy


def _unsigned(policies: Sequence[AppraisalPolicy], missing: tuple[str, ...]) -> Iterator[str]:
    """Why policies are not signed, where the recipe asks for signatures."""
    from ...hats.policy import AmdSev, AmdSevDynamic, Insecure

    found = {type(item.stage0) for item in policies}
    if missing and AmdSev in found:
        yield f"NOT SIGNED: signatures are for real files, and there are stand-ins for {', '.join(missing)}"
    for kind, name in ((Insecure, "insecure"), (AmdSevDynamic, "amd_sev_dynamic")):
        if kind in found:
            yield f"NOT SIGNED: {name}; a signature covers nothing of it, and would stand below any firmware"


def _too_many(policies: Sequence[AppraisalPolicy]) -> Iterator[str]:
    counts = Counter(digest for item in policies for digest in item.containers)
    for digest, count in sorted(counts.items()):
        if count > MOST_TRIED:
            what = f"{count} policies for the container with sha256 {digest.hex()[:16]}…"
            limit = (
                f"a TVS looks at {MOST_TRIED} of one container, or at {MOST_TRIED_ELSEWHERE}, by its version"
            )
            yield f"{what}; {limit}; declare fewer machines, or give each TVS those of its hosts alone"


def _unknown_cpus(kind: PolicyKind, shapes: Sequence[HatsShape]) -> Iterator[str]:
    cpus = dict.fromkeys(shape.cpu for shape in shapes if shape.cpu is not None)
    for cpu in cpus if kind is PolicyKind.DYNAMIC else ():
        if (cpu.family, cpu.model) not in KNOWN_CPUS:
            known = ", ".join(f"{family}/{model}" for family, model in sorted(KNOWN_CPUS))
            what = f"CPU {cpu} (family/model/stepping): a TVS computes launch digests for {known} alone"
            yield f"{what}, so that these policies accept nothing there; use the ones that are not dynamic"


def _stand_ins(shapes: Sequence[HatsShape], missing: tuple[str, ...]) -> Iterator[str]:
    """What a stand-in means for the policies of a file."""
    protected, insecure = not all(map(_insecure, shapes)), any(map(_insecure, shapes))
    for role in missing:
        if role != STAGE0 or not insecure:
            yield f"STAND-IN for {role}: no policy here accepts anything that runs"
        elif protected:
            yield f"STAND-IN for {role}: no policy here but insecure ones may accept anything that runs"
        else:
            yield f"STAND-IN for {role}: insecure policies do not judge it, and accept any firmware"
