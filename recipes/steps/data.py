"""``data:IMAGE``: a data partition that comes with the image: an ext4 with the image's skeleton, encrypted.

Only ``format: never`` has one; otherwise the guest makes its volume itself.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from uuid import UUID

from ..schema import Image
from . import encrypted, rootfs
from .packages import TOOLS_GROUP, resolved_lock
from .seeds import derived_uuid
from .task import OUT, Step
from .unpack import unpacked
from .volume_keys import seed_path
from .volumes import Volume, volumes


def encrypted_data(image: Image) -> Path:
    """Path of the encrypted volume, the content of the data partition."""
    return OUT / image.name / "data.img"


def steps(image: Image) -> tuple[Step, ...]:
    """The step that makes the volume, where the build makes it."""
    (volume,) = volumes(image)
    if not volume.is_built:
        return ()
    step = Step(
        basename="data",
        image=image,
        products=(encrypted_data(image),),
        inputs=(resolved_lock(image), rootfs.skeleton(image), volume.key_file, seed_path(volume)),
        build=build,
        arguments={
            "lock": resolved_lock(image),
            "skeleton": rootfs.skeleton(image),
            "volume": volume,
            "seed": seed_path(volume),
            "size": image.recipe.data.size,
            "uuid": str(derived_uuid(image, "data/ext4")),
        },
        doc="make the data partition: ext4, encrypted",
    )
    return (step,)


def build(
    target: Path, *, lock: Path, skeleton: Path, volume: Volume, seed: Path, size: int, uuid: str
) -> None:
    """Writes the volume."""
    from ..sources import lock as locks
    from ..sources.debs import read_spool
    from ..sources.ext4_image import write_ext4

    with (
        tempfile.TemporaryDirectory(prefix=".spool.", dir=target.parent) as name,
        unpacked(lock, TOOLS_GROUP, target) as (tools, _),
    ):
        work = Path(name)
        write_ext4(
            read_spool(skeleton, "skeleton"),
            work / "plain",
            tools=tools,
            work=work,
            size=size - encrypted.reserved(volume),
            uuid=UUID(uuid),
            label=volume.name,
            epoch=locks.load(lock).epoch,
        )
        encrypted.write_volume(target, volume, plain=work / "plain", seed=seed)
