"""``disk:IMAGE``: the EFI system partition with the UKI, and the encrypted root, in one GPT disk."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from ...schema import ConvertedImage
from .. import uki
from ..disk import raw_disk
from ..packages import resolved_lock
from ..seeds import derived_uuid, root_partition
from ..task import Step
from . import encrypt


def step(image: ConvertedImage) -> Step:
    """The step that lays out the raw disk."""
    return Step(
        basename="disk",
        image=image,
        products=(raw_disk(image),),
        inputs=(resolved_lock(image), uki.uki_path(image), encrypt.encrypted_root(image)),
        build=build,
        arguments={
            "lock": resolved_lock(image),
            "boot_program": uki.uki_path(image),
            "root": encrypt.encrypted_root(image),
            "esp_size": image.recipe.disk.esp_size,
            "disk_guid": str(derived_uuid(image, "disk")),
            "esp_guid": str(derived_uuid(image, "esp")),
            "root_guid": str(root_partition(image)),
        },
        doc="lay out the disk: GPT, EFI system partition, encrypted root",
    )


def build(
    target: Path,
    *,
    lock: Path,
    boot_program: Path,
    root: Path,
    esp_size: int,
    disk_guid: str,
    esp_guid: str,
    root_guid: str,
) -> None:
    """Writes the disk; only the EFI system partition can be read by the host.

    Spec: UAPI Discoverable Partitions Specification: a root partition may hold a LUKS volume.
    """
    from ...formats import gpt
    from ...sources import lock as locks
    from ..layout import Part, write_disk

    size = root.stat().st_size
    plan = gpt.PartitionPlan(name="root", type_guid=gpt.TYPE_ROOT_X86_64, guid=UUID(root_guid), size=size)
    write_disk(
        target,
        boot_program=boot_program,
        esp_size=esp_size,
        esp_guid=UUID(esp_guid),
        disk_guid=UUID(disk_guid),
        parts=[Part(plan, root)],
        epoch=locks.load(lock).epoch,
    )
