"""``verity:IMAGE``: the dm-verity hash tree of the root file system, and its root hash."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

from ..record import dataclass
from ..schema import Image
from . import rootfs
from .seeds import derived_salt, derived_uuid
from .task import OUT, Step
from .unpack import workers


def hash_tree(image: Image) -> Path:
    """Path of the hash tree: superblock and hash blocks, the content of its partition."""
    return OUT / image.name / "rootfs.verity"


def verity_facts(image: Image) -> Path:
    """Path of ``verity.json``: root hash, salt, UUID and the partition UUIDs that follow from the hash."""
    return OUT / image.name / "verity.json"


@dataclass(frozen=True, kw_only=True)
class VerityFacts:
    """What other steps need to know about the hash tree."""

    root_hash: bytes
    data_partition: UUID
    hash_partition: UUID


def step(image: Image) -> Step:
    """The step that hashes the root file system."""
    return Step(
        basename="verity",
        image=image,
        products=(hash_tree(image), verity_facts(image)),
        inputs=(rootfs.filesystem(image),),
        build=build,
        arguments={
            "data": rootfs.filesystem(image),
            "salt": derived_salt(image, "verity"),
            "uuid": str(derived_uuid(image, "verity")),
        },
        doc="hash the root file system for dm-verity",
    )


def build(tree: Path, facts: Path, *, data: Path, salt: bytes, uuid: str) -> None:
    """Writes the hash tree and its facts."""
    from ..formats import verity

    result = verity.format(data, tree, salt=salt, uuid=UUID(uuid), workers=workers())
    data_partition, hash_partition = verity.partition_uuids(result.root_hash)
    value = {
        "root_hash": result.root_hash.hex(),
        "salt": salt.hex(),
        "uuid": uuid,
        "data_partition_uuid": str(data_partition),
        "hash_partition_uuid": str(hash_partition),
    }
    facts.write_text(json.dumps(value, indent=1) + "\n")


def read_facts(path: Path) -> VerityFacts:
    """The facts of a finished hash tree."""
    value = json.loads(path.read_text())
    return VerityFacts(
        root_hash=bytes.fromhex(value["root_hash"]),
        data_partition=UUID(value["data_partition_uuid"]),
        hash_partition=UUID(value["hash_partition_uuid"]),
    )
