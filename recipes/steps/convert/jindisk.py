"""``jindisk:IMAGE``: tables to put the root on dm-jindisk, for a kernel that has that module; spec-only.

Nobody but the module writes its on-disk format, and it does so where it runs: a build cannot ship a volume of
it, and the image opens its LUKS2 root as every other. Who wants what dm-crypt has not, freshness, does in the
running guest what the JinDisk demo does: makes a volume on another disk with the one table, copies the root
onto it, and opens it with the other from then on. The mapped device is as large as the root.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import SpecError
from ...schema import ConvertedImage
from .. import kernel
from ..task import OUT, Step

_SECTOR = 512


def table_paths(image: ConvertedImage) -> tuple[Path, Path]:
    """Paths of the table that makes a volume and of the one that opens it."""
    folder = OUT / image.name
    return folder / "jindisk-format.table", folder / "jindisk-open.table"


def steps(image: ConvertedImage) -> tuple[Step, ...]:
    """The step that writes the tables, where the recipe names a device for them."""
    device = image.recipe.root.jindisk
    if device is None:
        return ()
    files, facts = kernel.package_files(image), kernel.kernel_facts(image)
    step = Step(
        basename="jindisk",
        image=image,
        products=table_paths(image),
        inputs=(files, facts),
        build=build,
        arguments={"kernel_files": files, "facts": facts, "device": device, "size": image.recipe.root.size},
        doc="write device-mapper tables for dm-jindisk",
    )
    return (step,)


def build(making: Path, opening: Path, *, kernel_files: Path, facts: Path, device: str, size: int) -> None:
    """Writes the tables.

    Raises:
        SpecError: the kernel has no such module.
    """
    from ...formats.jindisk import MODULE, Action, table

    directory = kernel.module_directory(kernel_files, facts)
    name = MODULE.replace("-", "_")
    if name not in directory.paths and name not in directory.builtin:
        what = f"the kernel {directory.release} has no module {MODULE}, which is outside of Linux"
        raise SpecError(f"root.jindisk: {what}; name a kernel package that has it, or remove the key")
    for path, action in ((making, Action.FORMAT), (opening, Action.OPEN)):
        path.write_text(table(size // _SECTOR, device, action), encoding="ascii")
