"""A GPT disk of parts that lie in files, and the EFI system partition that holds its boot program."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import UUID

from ..record import dataclass
from ..units import SECTOR_SIZE
from .private_keys import own_keys

if TYPE_CHECKING:
    from ..formats.gpt import PartitionPlan, PartitionTable

CHUNK = 1 << 18
ESP_NAME = "esp"


@dataclass(frozen=True)
class Part:
    """A partition behind the EFI system partition: its place in the table, and its content if it has any."""

    plan: PartitionPlan
    content: Path | None = None


def write_disk(
    target: Path,
    *,
    boot_program: Path | None,
    esp_size: int,
    esp_guid: UUID,
    disk_guid: UUID,
    parts: Sequence[Part],
    epoch: int,
) -> None:
    """Writes the disk, sparse where it is zero.

    Args:
        boot_program: what firmware starts; an empty EFI system partition without one.
        epoch: the time of the files in that partition, seconds since 1970.

    Raises:
        SpecError: the boot program holds a secret; the host can read it.
        FormatError: something does not fit.
    """
    from ..formats import gpt

    esp_plan = gpt.PartitionPlan(name=ESP_NAME, type_guid=gpt.TYPE_ESP, guid=esp_guid, size=esp_size)
    table = gpt.lay_out(disk_guid, [esp_plan, *(part.plan for part in parts)])
    with tempfile.TemporaryFile(dir=target.parent) as esp, target.open("wb") as out:
        _write_esp(esp, boot_program, esp_size, esp_guid, epoch)
        _write_tables(out, table)
        first, *others = table.partitions
        copy_sparse(esp, out, first.offset)
        for partition, part in zip(others, parts, strict=True):
            if part.content is not None:
                with part.content.open("rb") as content:
                    copy_sparse(content, out, partition.offset)


def _write_esp(esp: BinaryIO, boot_program: Path | None, size: int, guid: UUID, epoch: int) -> None:
    from ..formats import fat
    from ..formats.tree import FilePayload, FileTree, Node, NodeType
    from ..sources.secrets import refuse_secrets
    from .boot_inputs import BOOT_PATH

    files = {}
    if boot_program is not None:
        files[BOOT_PATH] = FilePayload(boot_program, 0, boot_program.stat().st_size)
    tree = FileTree()
    for path, payload in files.items():
        tree[path] = Node(type=NodeType.FILE, mode=0o644, payload=payload, source="the recipe")
    refuse_secrets(tree, "EFI system partition", own_keys())
    fat.write(esp, size=size, volume_id=guid.fields[0], label="ESP", epoch=epoch, files=files)


def _write_tables(out: BinaryIO, table: PartitionTable) -> None:
    out.truncate(table.sectors * SECTOR_SIZE)
    out.write(table.primary())
    backup = table.backup()
    out.seek(table.sectors * SECTOR_SIZE - len(backup))
    out.write(backup)


def copy_sparse(content: BinaryIO, out: BinaryIO, offset: int = 0) -> None:
    """Copies a file to ``offset`` of another in pieces, leaving pieces that are all zero as holes."""
    content.seek(0)
    while piece := content.read(CHUNK):
        if piece.count(0) != len(piece):
            out.seek(offset)
            out.write(piece)
        offset += len(piece)


def copy_file(source: Path, target: Path) -> None:
    """A copy with holes where the source is zero."""
    with source.open("rb") as content, target.open("wb") as out:
        out.truncate(source.stat().st_size)
        copy_sparse(content, out)
