"""``encrypt:IMAGE``: the edited root as a LUKS2 volume, by our own writer: no device-mapper, no root.

All of the file system is encrypted, free blocks too. The header says exactly what the initramfs expects:
one key slot, the partition's UUID, costs that need not be high because the passphrase is drawn and not made
up. The same plain root, seed and passphrase give the same bytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from ...errors import ImageError
from ...schema import ConvertedImage
from ...schema.volumes import UnlockSpec
from ..seeds import root_partition
from ..task import OUT, Step
from ..unpack import workers
from ..volumes import key_slot_costs
from . import keys, root

if TYPE_CHECKING:
    from ...formats.luks2_model import Expected


def encrypted_root(image: ConvertedImage) -> Path:
    """Path of the LUKS2 volume, the content of the root's partition."""
    return OUT / image.name / "root.luks"


def step(image: ConvertedImage) -> Step:
    """The step that encrypts the root."""
    plain, passphrase, seed = root.plain_root(image), keys.passphrase_path(image), keys.seed_path(image)
    return Step(
        basename="encrypt",
        image=image,
        products=(encrypted_root(image),),
        inputs=(plain, passphrase, seed),
        build=build,
        arguments={
            "plain": plain,
            "passphrase": passphrase,
            "seed": seed,
            "partition": str(root_partition(image)),
            "unlock": image.recipe.root,
        },
        doc="encrypt the root (LUKS2)",
    )


def expected_root(unlock: UnlockSpec, partition: UUID) -> Expected:
    """What the header says, and what is opened and nothing else."""
    from ...formats.luks2_model import Expected, KdfBounds

    return Expected(keyslots=(KdfBounds(key_slot_costs(unlock)),), uuid=partition)


def build(
    target: Path, *, plain: Path, passphrase: Path, seed: Path, partition: str, unlock: UnlockSpec
) -> None:
    """Writes the volume.

    Raises:
        ImageError: a key is not as it must be, or the plain root changed.
    """
    from ...formats import luks2
    from ...formats.luks2_segment import encrypt_image

    expected = expected_root(unlock, UUID(partition))
    words = keys.read_passphrase(passphrase)
    with plain.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A root with other content has another volume key; nothing can be learnt from two releases side by side.
    own = luks2.Seed(luks2.Seed(keys.read_seed(seed)).take(f"root {digest}", 64))
    volume_key = own.take("volume key", expected.key_size)
    header = luks2.format(
        expected, uuid=UUID(partition), seed=own, volume_key=volume_key, passphrases=[words]
    )
    with target.open("wb") as out:
        out.write(header)
        out.truncate(expected.data_offset + plain.stat().st_size)
    encrypt_image(plain, target, key=volume_key, offset=expected.data_offset, workers=workers())
    _check(target, expected, words, volume_key)


def _check(target: Path, expected: Expected, words: bytes, volume_key: bytes) -> None:
    """Reads back what the initramfs will read; a header that it refused would only show at the first boot."""
    from ...formats import luks2

    with target.open("rb") as file:
        written = file.read(expected.metadata_size)
    if luks2.open(written, luks2.read(written, expected, target.name), words, target.name) != volume_key:
        raise ImageError(f"{target.name}: the passphrase opens another key; this is a bug, report it")
