"""``golden:IMAGE``: the measured fields of every VM, from the finished files and the captured ACPI tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ImageError, MeasureError
from ...machine.hats import HatsShape, RegexForm
from ...machine.stage0 import Stage0Generation, Stage0Machine
from ...record import dataclass
from ...schema.hats import HatsImage
from ..golden import artefact, golden_path
from ..task import Step
from .bundles import runtime_bundle, system_bundle
from .files import ROLES
from .machines import HostFacts, stage0_machine
from .names import CONFIGS, INITRD, KERNEL, STAGE0, SYSTEM, file_path, product, standing_in

if TYPE_CHECKING:
    from ...golden.manifest import GoldenMachine
    from ...measure.stage0 import AcpiTables


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the recipe says, as far as measured fields depend on it or speak of it.

    Attributes:
        launcher: folder of the launcher's configurations.
    """

    image: str
    generation: Stage0Generation
    facts: HostFacts
    form: RegexForm
    launcher: str


def step(image: HatsImage) -> Step:
    """The step that predicts."""
    recipe = image.recipe
    captures = (image.captures_path,) if image.captures_path.exists() else ()
    files = {role: file_path(image, role) for role in ROLES}
    bundles = {"system_bundle": system_bundle(image), "runtime_bundle": runtime_bundle(image)}
    return Step(
        basename="golden",
        image=image,
        products=(golden_path(image),),
        inputs=(*files.values(), *bundles.values(), *captures),
        build=build,
        arguments={
            "version": recipe.version,
            "settings": Settings(
                image=image.name,
                generation=recipe.stage0.generation,
                facts=facts(image),
                form=recipe.policy.regex,
                launcher=product(image, CONFIGS).name,
            ),
            "shapes": image.machines,
            "files": files,
            "bundles": bundles,
            "captures": captures,
            "missing": standing_in(image),
        },
        doc="compute the measured fields of every VM",
    )


def facts(image: HatsImage) -> HostFacts:
    """What the recipe says of the host."""
    host = image.recipe.host
    return HostFacts(qemu=host.qemu, phys_bits=host.phys_bits, debug_swap=host.debug_swap)


def build(
    target: Path,
    *,
    version: str,
    settings: Settings,
    shapes: tuple[HatsShape, ...],
    files: dict[str, Path],
    bundles: dict[str, Path],
    captures: tuple[Path, ...],
    missing: tuple[str, ...],
) -> None:
    """Writes the golden manifest."""
    from ...golden.hats import UNMEASURED
    from ...golden.manifest import GoldenManifest, dump

    opened = _Opened(settings, files, bundles["runtime_bundle"], captures)
    what = f"{', '.join(missing)}: stand-ins are measured in their place; no value of one is of what runs"
    manifest = GoldenManifest(
        image=settings.image,
        version=version,
        artefacts=tuple(artefact(path) for path in (*files.values(), *bundles.values())),
        machines=tuple(opened.predict(shape) for shape in shapes),
        unmeasured=(what, *UNMEASURED) if missing else UNMEASURED,
    )
    target.write_text(dump(manifest), encoding="utf-8")


class _Opened:
    """The files of all machines, each read and hashed once."""

    def __init__(
        self, settings: Settings, files: dict[str, Path], runtime: Path, captures: tuple[Path, ...]
    ) -> None:
        from ..measure_sev import hash_file, read_firmware
        from ..measure_stage0 import read_captures, read_kernel

        self.settings = settings
        self.firmware, self.kernel = read_firmware(files[STAGE0]), read_kernel(files[KERNEL])
        self.initrd, self.system = hash_file(files[INITRD]), hash_file(files[SYSTEM])
        self.runtime = hash_file(runtime)
        self.captures = tuple(capture for path in captures for capture in read_captures(path))
        self.source = ", ".join(path.name for path in captures)

    def predict(self, shape: HatsShape) -> GoldenMachine:
        """The golden entry of one VM."""
        from ...golden.hats import golden_stage0
        from ...hats.command_line import regex
        from ...measure.stage0 import Stage0Launch, replay

        settings = self.settings
        machine = stage0_machine(shape, settings.generation, settings.facts)
        acpi, reason = self._tables(machine)
        launch = Stage0Launch(
            machine=machine, firmware=self.firmware, kernel=self.kernel, initrd=self.initrd, acpi=acpi
        )
        prediction = replay(launch)
        return golden_stage0(
            machine,
            prediction,
            system=self.system,
            container=self.runtime,
            qemu=settings.facts.qemu,
            launch=f"{settings.launcher}/{shape.name}.txtpb",
            regex=regex(shape, settings.form),
            no_tables=reason,
        )

    def _tables(self, machine: Stage0Machine) -> tuple[AcpiTables | None, str]:
        """The captured tables of a machine, or why there are none and what to do.

        Raises:
            MeasureError: stage0 would not go through with them.
        """
        from ...measure.stage0_acpi import acpi_trace
        from ...vmm.stage0_captures import find
        from ..measure_stage0 import acpi_tables

        qemu = self.settings.facts.qemu
        try:
            found = find(self.captures, machine, qemu_version=qemu)
        except MeasureError:
            what = f"the ACPI tables of QEMU {qemu} for this machine are not captured"
            how = f"run python3 dodo.py capture:{self.settings.image} where it is installed, then build again"
            return None, f"{what}; {how}"
        tables = acpi_tables(found)
        try:
            acpi_trace(tables)
        except ImageError as error:
            raise MeasureError(f"{self.source}: {found}, for {machine.name}: {error}") from None
        return tables, ""
