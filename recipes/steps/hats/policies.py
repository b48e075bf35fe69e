"""``policies:IMAGE``: what a verifier accepts, and what the launcher is told; both from the golden values."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ImageError
from ...machine.hats import HatsShape
from ...schema.hats import HatsImage
from ...units import format_size
from ..golden import golden_path
from ..task import OUT, Step, say
from . import keys
from .bundles import runtime_bundle, system_bundle
from .names import CONFIGS, STAGE0, file_path, product, remove_others, remove_unused, standing_in
from .policy_files import Measured, PolicyForm, PolicyKind, kinds, lacking, policy_file

if TYPE_CHECKING:
    from ...golden.manifest import GoldenMachine
    from ...hats.launcher import BundlePaths
    from ...hats.policy import AppraisalPolicy

POLICY, BINARY = "appraisal_policy.txtpb", "appraisal_policy.binarypb"
INSECURE, INSECURE_BINARY = "appraisal_policy_insecure.txtpb", "appraisal_policy_insecure.binarypb"
DYNAMIC = "appraisal_policy_dynamic.txtpb"
# The files of each kind: text, and its binary twin.
FILES = {
    PolicyKind.STATIC: (POLICY, BINARY),
    PolicyKind.INSECURE: (INSECURE, INSECURE_BINARY),
    PolicyKind.DYNAMIC: (DYNAMIC, ""),
}
LAUNCHER, COMMANDS = "launcher_config.txtpb", "commands.txt"
BLOBS, KEY = "stage0_blobs", "policy_key.txt"
# What a recipe may ask for or not.
_OPTIONAL = (INSECURE, INSECURE_BINARY, DYNAMIC, BLOBS, KEY)


def form(image: HatsImage) -> PolicyForm:
    """How the recipe wants policies."""
    policy = image.recipe.policy
    return PolicyForm(
        regex=policy.regex, dynamic=policy.dynamic, insecure=policy.insecure, signature=policy.signature
    )


def products(image: HatsImage) -> dict[str, Path]:
    """Every product by its plain name."""
    found = {name: product(image, name) for name in (POLICY, BINARY, LAUNCHER, CONFIGS, COMMANDS)}
    made = kinds(image.machines, form(image))
    if PolicyKind.INSECURE in made:
        found |= {name: product(image, name, protected=False) for name in (INSECURE, INSECURE_BINARY)}
    if PolicyKind.DYNAMIC in made:
        found |= {name: product(image, name) for name in (DYNAMIC, BLOBS)}
    if image.recipe.policy.signature is not None:
        found[KEY] = OUT / image.folder / KEY
    return found


def step(image: HatsImage) -> Step:
    """The step that writes them."""
    key, made = keys.key_path(image), products(image)
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
            "unused": tuple(OUT / image.folder / name for name in _OPTIONAL if name not in made),
            "title": f"{image.name} {image.recipe.version}",
            "golden": golden_path(image),
            "stage0": file_path(image, STAGE0),
            "bundles": (system_bundle(image).name, runtime_bundle(image).name),
            "shapes": image.machines,
            "form": form(image),
            "key": key,
            "missing": standing_in(image),
        },
        doc="write appraisal policies, the launcher's configuration and the command lines",
    )


def build(
    *targets: Path,
    names: tuple[str, ...],
    finals: tuple[Path, ...],
    unused: tuple[Path, ...],
    title: str,
    golden: Path,
    stage0: Path,
    bundles: tuple[str, str],
    shapes: tuple[HatsShape, ...],
    form: PolicyForm,
    key: Path | None,
    missing: tuple[str, ...],
) -> None:
    """Writes everything that is handed to HATs' programs.

    Args:
        unused: what another form of the same recipe would have, which goes away.
    """
    from ...hats.launcher import BundlePaths

    remove_others(*finals)
    remove_unused(*unused)
    made = dict(zip(names, targets, strict=True))
    named = dict(zip(names, (path.name for path in finals), strict=True))
    pairs = _pairs(golden, shapes)
    for shape, machine in pairs:
        for reason in lacking(machine):
            say(f"  {shape.name}: no policy: {reason}")
    known = Measured(title=title, pairs=pairs, form=form, stage0=_digest(stage0), missing=missing)
    written = _write_policies(made, named, known, key)
    if BLOBS in made:
        _write_blobs(made[BLOBS], stage0)
    if KEY in made:
        _write_key(made[KEY], key)
    paths = BundlePaths(system=f"./{bundles[0]}", runtime=f"./{bundles[1]}")
    _write_launcher(made, named, shapes, paths)
    _warn_of_disk(shapes)
    if not written:
        say("  WARNING: no policy at all was written, and no verifier accepts any of these machines")


def _pairs(golden: Path, shapes: tuple[HatsShape, ...]) -> tuple[tuple[HatsShape, GoldenMachine], ...]:
    """Each machine with its golden values."""
    from ...golden import manifest_reader

    manifest = manifest_reader.load(golden.read_text(encoding="utf-8"), golden.name)
    known = {machine.name: machine for machine in manifest.machines}
    for shape in shapes:
        if shape.name not in known:
            raise ImageError(f"golden.json: has no machine {shape.name}; run the same command again")
    return tuple((shape, known[shape.name]) for shape in shapes)


def _write_policies(made: dict[str, Path], named: dict[str, str], known: Measured, key: Path | None) -> int:
    """Writes the files of policies; how many policies there are."""
    from ...hats import policy
    from ...hats.signature import sign

    signature, count = known.form.signature, 0

    def signed(item: AppraisalPolicy) -> AppraisalPolicy:
        return item if signature is None or key is None else sign(item, keys.load(key), signature.signer)

    for kind in kinds([shape for shape, _ in known.pairs], known.form):
        text, binary = FILES[kind]
        content = policy_file(kind, known, None if signature is None else signed)
        made[text].write_text(content.comments + policy.dump_text(content.policies), encoding="utf-8")
        if binary:
            made[binary].write_bytes(policy.dump_binary(content.policies))
        for warning in content.warnings:
            say(f"  WARNING: {named[text]}: {warning}")
        count += len(content.policies)
    return count


def _warn_of_disk(shapes: tuple[HatsShape, ...]) -> None:
    """Says where the system image may take more memory than there is."""
    small = sorted({shape.memory for shape in shapes if shape.ramdrive > shape.memory})
    if small:
        sizes = ", ".join(map(format_size, small))
        what = f"launcher.ramdrive_size is {format_size(shapes[0].ramdrive)}, more than the RAM of machines"
        how = "a RAM disk takes memory as it fills, so a large system image ends them"
        say(f"  WARNING: {what} with {sizes}; {how}")


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
