"""``base:IMAGE``: a Debian system as somebody would bring it, assembled of packages: a qcow2 disk.

It stands for a cloud's base image: a partition table, an ext4 root and an EFI system partition, here without
a boot loader. Everything behind it takes it for what any other image is.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from uuid import UUID

from ...schema import BaseSpec, ConvertedImage
from ...units import MIB
from ..packages import resolved_lock
from ..seeds import derived_uuid
from ..task import OUT, Step
from ..unpack import unpacked
from .asking import BASE_GROUP, TOOLS_GROUP

ESP_SIZE = 34 * MIB
FORMAT = "qcow2-zstd"


def base_path(image: ConvertedImage) -> Path:
    """Path of the assembled base image."""
    return OUT / image.name / "base.qcow2"


def step(image: ConvertedImage) -> Step:
    """The step that assembles the base of a recipe that brings none."""
    return Step(
        basename="base",
        image=image,
        products=(base_path(image),),
        inputs=(resolved_lock(image),),
        build=build,
        arguments={
            "lock": resolved_lock(image),
            "spec": image.recipe.base,
            "disk_guid": str(derived_uuid(image, "base")),
            "esp_guid": str(derived_uuid(image, "base/esp")),
            "root_guid": str(derived_uuid(image, "base/root")),
        },
        doc="assemble the base image of packages",
    )


def build(target: Path, *, lock: Path, spec: BaseSpec, disk_guid: str, esp_guid: str, root_guid: str) -> None:
    """Writes the image."""
    from ...disks.format import lookup
    from ...disks.source import RawDisk
    from ...formats import gpt
    from ...sources import lock as locks
    from ...sources.configure import SystemSpec, configure
    from ...sources.ext4_image import write_ext4
    from ..layout import Part, write_disk

    epoch, root_uuid = locks.load(lock).epoch, UUID(root_guid)
    system = SystemSpec(hostname=spec.hostname, epoch=epoch)
    with tempfile.TemporaryDirectory(prefix=".spool.", dir=target.parent) as name:
        work = Path(name)
        root, raw = work / "root", work / "disk"
        with (
            unpacked(lock, TOOLS_GROUP, target) as (tools, _),
            unpacked(lock, BASE_GROUP, target, spec.exclude) as (tree, packages),
        ):
            tree.add_file("etc/fstab", _fstab(root_uuid, UUID(esp_guid)))
            tree.add_directory("boot/efi")
            configure(tree, packages, system)
            write_ext4(
                *(tree, root),
                tools=tools,
                work=work,
                size=spec.size,
                uuid=root_uuid,
                label="base",
                epoch=epoch,
            )
        plan = gpt.PartitionPlan(name="root", type_guid=gpt.TYPE_ROOT_X86_64, guid=root_uuid, size=spec.size)
        write_disk(
            raw,
            boot_program=None,
            esp_size=ESP_SIZE,
            esp_guid=UUID(esp_guid),
            disk_guid=UUID(disk_guid),
            parts=[Part(plan, root)],
            epoch=epoch,
        )
        with raw.open("rb") as file, target.open("wb") as out:
            lookup(FORMAT).write(RawDisk.of(target.name, file), out, seed=root_uuid.bytes)


def _fstab(root: UUID, esp: UUID) -> bytes:
    """As an installer writes it, by the identities of its own disk."""
    serial = f"{esp.fields[0]:08X}"
    return (
        f"UUID={root} / ext4 errors=remount-ro 0 1\n"
        f"UUID={serial[:4]}-{serial[4:]} /boot/efi vfat umask=0077 0 1\n"
    ).encode("ascii")
