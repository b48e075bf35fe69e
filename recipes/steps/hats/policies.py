"""``policies:IMAGE``: what a verifier accepts, and what the launcher is told; both from the golden values."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ImageError
from ...machine.hats import HatsShape, RegexForm
from ...schema.hats import HatsImage, SignatureSpec
from ..golden import golden_path
from ..task import OUT, Step, say
from . import keys
from .bundles import runtime_bundle, system_bundle
from .names import CONFIGS, STAGE0, file_path, product, remove_others, standing_in

if TYPE_CHECKING:
    from ...golden.manifest import GoldenMachine
    from ...hats.launcher import BundlePaths
    from ...hats.policy import AppraisalPolicy, Stage0Reference

POLICY, BINARY, DYNAMIC = (
    "appraisal_policy.txtpb",
    "appraisal_policy.binarypb",
    "appraisal_policy_dynamic.txtpb",
)
LAUNCHER, COMMANDS = "launcher_config.txtpb", "commands.txt"
BLOBS, KEY = "stage0_blobs", "policy_key.txt"
ACPI = "acpi_table_sha256"


@dataclass(frozen=True, kw_only=True)
class PolicyForm:
    """How policies are written."""

    regex: RegexForm
    dynamic: bool
    signature: SignatureSpec | None


def products(image: HatsImage) -> dict[str, Path]:
    """Every product by its plain name."""
    policy = image.recipe.policy
    names = [POLICY, BINARY, LAUNCHER, CONFIGS, COMMANDS]
    names += [DYNAMIC, BLOBS] if policy.dynamic else []
    found = {name: product(image, name) for name in names}
    if policy.signature is not None:
        found[KEY] = OUT / image.folder / KEY
    return found


def step(image: HatsImage) -> Step:
    """The step that writes them."""
    policy, key, made = image.recipe.policy, keys.key_path(image), products(image)
    return Step(
        basename="policies",
        image=image,
        products=tuple(made.values()),
        folders=tuple(made[name] for name in (CONFIGS, BLOBS) if name in made),
        inputs=(
            golden_path(image),
            file_path(image, STAGE0),
            system_bundle(image),
            runtime_bundle(image),
            *(() if key is None else (key,)),
        ),
        build=build,
        arguments={
            "names": tuple(made),
            "finals": tuple(made.values()),
            "title": f"{image.name} {image.recipe.version}",
            "golden": golden_path(image),
            "stage0": file_path(image, STAGE0),
            "bundles": (system_bundle(image).name, runtime_bundle(image).name),
            "shapes": image.machines,
            "form": PolicyForm(regex=policy.regex, dynamic=policy.dynamic, signature=policy.signature),
            "key": key,
            "missing": standing_in(image),
        },
        doc="write appraisal policies, the launcher's configuration and the command lines",
    )


def build(
    *targets: Path,
    names: tuple[str, ...],
    finals: tuple[Path, ...],
    title: str,
    golden: Path,
    stage0: Path,
    bundles: tuple[str, str],
    shapes: tuple[HatsShape, ...],
    form: PolicyForm,
    key: Path | None,
    missing: tuple[str, ...],
) -> None:
    """Writes everything that is handed to HATs' programs."""
    from ...golden import manifest_reader
    from ...hats import policy
    from ...hats.launcher import BundlePaths

    remove_others(*finals)
    made = dict(zip(names, targets, strict=True))
    manifest = manifest_reader.load(golden.read_text(encoding="utf-8"), golden.name)
    known = {machine.name: machine for machine in manifest.machines}
    pairs = [(shape, _machine(known, shape)) for shape in shapes]
    for name, machine in known.items():
        for item in machine.omitted:
            if item.register == ACPI:
                say(f"  {name}: no policy: {item.reason}")
    static = [
        _policy(shape, machine, _static(shape, machine), title, form, missing)
        for shape, machine in pairs
        if _complete(machine)
    ]
    signed = [_signed(item, form, key) for item in static]
    made[POLICY].write_text(_comments(missing, pairs) + policy.dump_text(signed), encoding="utf-8")
    made[BINARY].write_bytes(policy.dump_binary(signed))
    if form.dynamic:
        texts = _dynamic(pairs, stage0, title, form, missing)
        signed = [_signed(item, form, key) for item in texts]
        made[DYNAMIC].write_text(_comments(missing, pairs) + policy.dump_text(signed), encoding="utf-8")
        _write_blobs(made[BLOBS], stage0)
    if KEY in made:
        _write_key(made[KEY], key)
    paths = BundlePaths(system=f"./{bundles[0]}", runtime=f"./{bundles[1]}")
    named = dict(zip(names, (path.name for path in finals), strict=True))
    _write_launcher(made, named, shapes, paths)


ACPI = "acpi_table_sha256"


def _machine(known: dict[str, GoldenMachine], shape: HatsShape) -> GoldenMachine:
    if shape.name not in known:
        raise ImageError(f"golden.json: has no machine {shape.name}; run the same command again")
    return known[shape.name]


def _complete(machine: GoldenMachine) -> bool:
    """Whether every field of a policy is known; a TVS takes no policy with one left out."""
    return all(item.register != ACPI for item in machine.omitted)


def _value(machine: GoldenMachine, register: str) -> bytes:
    value = next((row.value for row in machine.registers if row.register == register), None)
    if value is None:
        raise ImageError(f"golden.json: {machine.name} has no {register}; run the same command again")
    return value


def _static(shape: HatsShape, machine: GoldenMachine) -> Stage0Reference:
    from ...hats.policy import AmdSev, Insecure

    if shape.tcb is None:
        return Insecure()
    return AmdSev(_value(machine, "stage0_measurement"), shape.tcb)


def _policy(
    shape: HatsShape,
    machine: GoldenMachine,
    stage0: Stage0Reference,
    title: str,
    form: PolicyForm,
    missing: tuple[str, ...],
) -> AppraisalPolicy:
    from ...hats.command_line import regex
    from ...hats.policy import AppraisalPolicy, description

    return AppraisalPolicy(
        description=description(title, shape, missing),
        stage0=stage0,
        kernel_image=_value(machine, "kernel_image_sha256"),
        kernel_setup_data=_value(machine, "kernel_setup_data_sha256"),
        init_ram_fs=_value(machine, "init_ram_fs_sha256"),
        memory_map=_value(machine, "memory_map_sha256"),
        acpi_table=_value(machine, ACPI),
        system_image=_value(machine, "system_image_sha256"),
        kernel_cmd_line_regex=regex(shape, form.regex),
        containers=(_value(machine, "container_binary_sha256"),),
    )


def _dynamic(
    pairs: Sequence[tuple[HatsShape, GoldenMachine]],
    stage0: Path,
    title: str,
    form: PolicyForm,
    missing: tuple[str, ...],
) -> list[AppraisalPolicy]:
    """Policies for a TVS that computes launch digests itself; test machines have none there."""
    from ...hats.policy import AmdSevDynamic

    digest = _digest(stage0)
    return [
        _policy(
            shape,
            machine,
            AmdSevDynamic((digest,), shape.tcb, (shape.cpu,), (shape.vcpus,)),
            title,
            form,
            missing,
        )
        for shape, machine in pairs
        if shape.tcb is not None and shape.cpu is not None and _complete(machine)
    ]


def _signed(policy: AppraisalPolicy, form: PolicyForm, key: Path | None) -> AppraisalPolicy:
    from ...hats.signature import sign

    if form.signature is None or key is None:
        return policy
    return sign(policy, keys.load(key), form.signature.signer)


def _comments(missing: tuple[str, ...], pairs: Sequence[tuple[HatsShape, GoldenMachine]]) -> str:
    """What stands before the policies, for people: text files may hold comments."""
    lines = [f"# STAND-IN for {role}: no policy here accepts anything that runs" for role in missing]
    lines += [
        f"# no policy for {shape.name}: {item.reason}"
        for shape, machine in pairs
        for item in machine.omitted
        if item.register == ACPI
    ]
    return "".join(f"{line}\n" for line in lines)


def _write_blobs(folder: Path, stage0: Path) -> None:
    """The folder that such a TVS reads firmware from: each file is called by its digest."""
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    shutil.copyfile(stage0, folder / _digest(stage0).hex())


def _digest(path: Path) -> bytes:
    from ..digests import DIGESTS

    return bytes.fromhex(DIGESTS.sha256(path))


def _write_key(target: Path, key: Path | None) -> None:
    """The public key in hexadecimal, as sources of a TVS hold it."""
    from ...hats.signature import public_point

    if key is not None:
        target.write_text(public_point(keys.load(key)).hex() + "\n", encoding="utf-8")


def _write_launcher(
    made: dict[str, Path], named: dict[str, str], shapes: tuple[HatsShape, ...], paths: BundlePaths
) -> None:
    from ...hats.launcher import config_text

    made[CONFIGS].mkdir(mode=0o755)
    made[CONFIGS].chmod(0o755)
    for shape in shapes:
        (made[CONFIGS] / f"{shape.name}.txtpb").write_text(config_text(shape, paths), encoding="utf-8")
    made[LAUNCHER].write_text(config_text(shapes[0], paths), encoding="utf-8")
    lines = "\n".join(_command_lines(shapes, named))
    made[COMMANDS].write_text(lines, encoding="utf-8")


def _command_lines(shapes: tuple[HatsShape, ...], named: dict[str, str]) -> Iterator[str]:
    """For each VM the line that starts the launcher, and the one that the launcher starts QEMU with."""
    from ...hats.launcher import launcher_line, qemu_line

    yield "# Words in capitals are drawn by the launcher at each start, or are yours to fill in."
    for shape in shapes:
        config = f"{named[CONFIGS]}/{shape.name}.txtpb"
        yield f"\n# {shape.name}"
        yield shlex.join(launcher_line(shape, config))
        yield shlex.join(qemu_line(shape))
    yield ""
