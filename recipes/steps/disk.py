"""``disk:IMAGE``: EFI system partition, root, hash tree and data in one GPT disk."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from ..record import dataclass
from ..schema import DiskImage, Image
from . import data, rootfs, uki, verity, workload, workload_system
from .layout import Part, write_disk
from .packages import resolved_lock
from .seeds import data_partition, derived_uuid
from .task import OUT, Step


def raw_disk(image: DiskImage) -> Path:
    """Path of the raw disk."""
    return OUT / image.name / "disk.raw"


def contents(image: Image) -> tuple[Path, ...]:
    """What the data partition comes with, where the guest does not make it."""
    return tuple(path for step in data.steps(image) for path in step.products)


@dataclass(frozen=True, kw_only=True)
class WorkloadPart:
    """A partition of the workload.

    Attributes:
        size: None for as much as the content needs.
    """

    name: str
    guid: str
    content: Path
    size: int | None = None


def workload_parts(image: Image) -> tuple[WorkloadPart, ...]:
    """The partitions of the workload: its files, and the hash tree where it has one."""
    spec = image.recipe.workload
    if spec is None:
        return ()
    files = WorkloadPart(
        name="workload",
        guid=workload_system.partition(image),
        content=workload.filesystem(image),
        size=spec.size,
    )
    hashes = WorkloadPart(
        name="workload-verity", guid=workload_system.hash_partition(image), content=workload.hash_tree(image)
    )
    return (files, hashes) if spec.verity else (files,)


def step(image: Image) -> Step:
    """The step that lays out the raw disk."""
    return Step(
        basename="disk",
        image=image,
        products=(raw_disk(image),),
        inputs=(
            resolved_lock(image),
            uki.uki_path(image),
            rootfs.filesystem(image),
            verity.hash_tree(image),
            verity.verity_facts(image),
            *contents(image),
            *workload.artefacts(image),
        ),
        build=build,
        arguments={
            "lock": resolved_lock(image),
            "boot_program": uki.uki_path(image),
            "root": rootfs.filesystem(image),
            "tree": verity.hash_tree(image),
            "facts": verity.verity_facts(image),
            "esp_size": image.recipe.disk.esp_size,
            "contents": contents(image),
            "data_size": image.recipe.data.size,
            "disk_guid": str(derived_uuid(image, "disk")),
            "esp_guid": str(derived_uuid(image, "esp")),
            "data_guid": str(data_partition(image)),
            "workload_parts": workload_parts(image),
        },
        doc="lay out the disk: GPT, EFI system partition, root, hash tree, data",
    )


def build(
    target: Path,
    *,
    lock: Path,
    boot_program: Path,
    root: Path,
    tree: Path,
    facts: Path,
    esp_size: int,
    contents: tuple[Path, ...],
    data_size: int,
    disk_guid: str,
    esp_guid: str,
    data_guid: str,
    workload_parts: tuple[WorkloadPart, ...] = (),
) -> None:
    """Writes the disk, sparse where it is zero; the data partition may have no content yet."""
    from ..formats.gpt import TYPE_LINUX_GENERIC, TYPE_ROOT_VERITY_X86_64, TYPE_ROOT_X86_64, PartitionPlan
    from ..sources import lock as locks

    known = verity.read_facts(facts)
    sizes = root.stat().st_size, tree.stat().st_size

    def plan(name: str, kind: UUID, guid: UUID, size: int) -> PartitionPlan:
        return PartitionPlan(name=name, type_guid=kind, guid=guid, size=size)

    parts = [
        Part(plan("root", TYPE_ROOT_X86_64, known.data_partition, sizes[0]), root),
        Part(plan("root-verity", TYPE_ROOT_VERITY_X86_64, known.hash_partition, sizes[1]), tree),
        *(
            Part(
                plan(
                    part.name, TYPE_LINUX_GENERIC, UUID(part.guid), part.size or part.content.stat().st_size
                ),
                part.content,
            )
            for part in workload_parts
        ),
        Part(plan("data", TYPE_LINUX_GENERIC, UUID(data_guid), data_size), *contents),
    ]
    write_disk(
        target,
        boot_program=boot_program,
        esp_size=esp_size,
        esp_guid=UUID(esp_guid),
        disk_guid=UUID(disk_guid),
        parts=parts,
        epoch=locks.load(lock).epoch,
    )
