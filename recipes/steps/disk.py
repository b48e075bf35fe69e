"""``disk:IMAGE.FORMAT``: EFI system partition, root, hash tree and data in one GPT disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING
from uuid import UUID

from ..schema import Image
from ..units import SECTOR_SIZE
from . import rootfs, uki, verity
from .packages import resolved_lock
from .private_keys import own_keys
from .seeds import data_partition, derived_uuid
from .task import OUT, Step

if TYPE_CHECKING:
    from ..formats.gpt import PartitionTable
    from ..formats.tree import FilePayload

CHUNK = 1 << 18


def raw_disk(image: Image) -> Path:
    """Path of the raw disk."""
    return OUT / image.name / "disk.raw"


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
        ),
        build=build,
        arguments={
            "lock": resolved_lock(image),
            "boot_program": uki.uki_path(image),
            "root": rootfs.filesystem(image),
            "tree": verity.hash_tree(image),
            "facts": verity.verity_facts(image),
            "esp_size": image.recipe.disk.esp_size,
            "data_size": image.recipe.data.size,
            "disk_guid": str(derived_uuid(image, "disk")),
            "esp_guid": str(derived_uuid(image, "esp")),
            "data_guid": str(data_partition(image)),
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
    data_size: int,
    disk_guid: str,
    esp_guid: str,
    data_guid: str,
) -> None:
    """Writes the disk, sparse where it is zero."""
    from ..formats import fat, gpt
    from ..formats.tree import FilePayload
    from ..sources import lock as locks
    from .boot_inputs import BOOT_PATH

    known = verity.read_facts(facts)
    plans = (
        ("esp", gpt.TYPE_ESP, UUID(esp_guid), esp_size),
        ("root", gpt.TYPE_ROOT_X86_64, known.data_partition, root.stat().st_size),
        ("root-verity", gpt.TYPE_ROOT_VERITY_X86_64, known.hash_partition, tree.stat().st_size),
        ("data", gpt.TYPE_LINUX_GENERIC, UUID(data_guid), data_size),
    )
    table = gpt.lay_out(
        UUID(disk_guid),
        [
            gpt.PartitionPlan(name=name, type_guid=kind, guid=guid, size=size)
            for name, kind, guid, size in plans
        ],
    )
    files = {BOOT_PATH: FilePayload(boot_program, 0, boot_program.stat().st_size)}
    _refuse_secrets(files)
    with tempfile.TemporaryFile(dir=target.parent) as esp, root.open("rb") as data, tree.open("rb") as hashes:
        fat.write(
            esp,
            size=esp_size,
            volume_id=UUID(esp_guid).fields[0],
            label="ESP",
            epoch=locks.load(lock).epoch,
            files=files,
        )
        _write_disk(target, table, (esp, data, hashes))


def _refuse_secrets(files: dict[str, FilePayload]) -> None:
    """The EFI system partition is plain text to the host: stops if anything in it should not be."""
    from ..formats.tree import FileTree, Node, NodeType
    from ..sources.secrets import refuse_secrets

    tree = FileTree()
    for path, payload in files.items():
        tree[path] = Node(type=NodeType.FILE, mode=0o644, payload=payload, source="the recipe")
    refuse_secrets(tree, "EFI system partition", own_keys())


def _write_disk(target: Path, table: PartitionTable, contents: tuple[IO[bytes], ...]) -> None:
    """The last partition, data, has no content: it stays a hole."""
    with target.open("wb") as out:
        out.truncate(table.sectors * SECTOR_SIZE)
        out.write(table.primary())
        for partition, content in zip(table.partitions, contents, strict=False):
            _copy_sparse(content, out, partition.offset)
        backup = table.backup()
        out.seek(table.sectors * SECTOR_SIZE - len(backup))
        out.write(backup)


def _copy_sparse(content: IO[bytes], out: IO[bytes], offset: int) -> None:
    """Copies in pieces, leaving pieces that are all zero as holes."""
    content.seek(0)
    while piece := content.read(CHUNK):
        if piece.count(0) != len(piece):
            out.seek(offset)
            out.write(piece)
        offset += len(piece)
