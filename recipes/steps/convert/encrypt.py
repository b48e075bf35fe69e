"""``encrypt:IMAGE``: the edited root as a LUKS2 volume, the content of the root's partition."""

from __future__ import annotations

from pathlib import Path

from ...schema import ConvertedImage
from ..encrypted import write_volume
from ..task import Step
from ..volume_keys import seed_path
from ..volumes import volumes
from . import root


def encrypted_root(image: ConvertedImage) -> Path:
    """Path of the LUKS2 volume."""
    (volume,) = volumes(image)
    return volume.built_path


def step(image: ConvertedImage) -> Step:
    """The step that encrypts the root."""
    (volume,) = volumes(image)
    plain, seed = root.plain_root(image), seed_path(volume)
    return Step(
        basename="encrypt",
        image=image,
        products=(encrypted_root(image),),
        inputs=(plain, volume.key_file, seed),
        build=write_volume,
        arguments={"volume": volume, "plain": plain, "seed": seed},
        doc="encrypt the root (LUKS2)",
    )
