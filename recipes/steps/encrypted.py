"""A plain file system as an encrypted volume, by our own writer: no device-mapper, no root.

All of the file system is encrypted, free blocks too. A header says exactly what the initramfs expects: one
key slot, the partition's UUID, costs that need not be high because the passphrase is drawn and not made up.
The same plain file system, seed and key give the same bytes. With a header another file system has another
volume key, and the initramfs opens the volume of its own release alone (``volumes.read_volume``). Without one
the key is what a provider gives: nothing in the image says which release a volume is of, and a host that
brings back an older one is not stopped.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from ..errors import ImageError
from ..units import MIB
from .unpack import workers
from .volume_keys import read_key, read_seed
from .volumes import Volume, has_header, key_slot_costs

if TYPE_CHECKING:
    from ..formats.luks2_model import Expected

# Without a header the data begin behind one MiB, and its first block says that they are there: what the
# unlock driver writes when it has made a volume (initrd/note.sh).
HEADERLESS_OFFSET = MIB
_NOTE = b"goldsmith volume 1 formatted"


def reserved(volume: Volume) -> int:
    """Bytes in front of a volume's data."""
    from ..formats.luks2_model import DATA_OFFSET

    return DATA_OFFSET if has_header(volume.unlock) else HEADERLESS_OFFSET


def write_volume(target: Path, volume: Volume, *, plain: Path, seed: Path) -> None:
    """Writes the volume.

    Raises:
        ImageError: a key is not as it must be, or the plain file system changed meanwhile.
    """
    from ..formats.luks2_segment import encrypt_image

    words = read_key(volume)
    if has_header(volume.unlock):
        front, key = _header(volume, words, plain, seed)
    else:
        front, key = _NOTE, words
    start = reserved(volume)
    with target.open("wb") as out:
        out.write(front)
        out.truncate(start + plain.stat().st_size)
    encrypt_image(plain, target, key=key, offset=start, workers=workers())


def expected_header(volume: Volume) -> Expected:
    """What the header says, and what is opened and nothing else."""
    from ..formats.luks2_model import Expected, KdfBounds

    return Expected(keyslots=(KdfBounds(key_slot_costs(volume.unlock)),), uuid=UUID(volume.partition))


def _header(volume: Volume, words: bytes, plain: Path, seed: Path) -> tuple[bytes, bytes]:
    """The metadata and the volume key."""
    from ..formats import luks2

    expected, uuid = expected_header(volume), UUID(volume.partition)
    with plain.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # Other content has another volume key; nothing can be learnt from two releases side by side.
    own = luks2.Seed(luks2.Seed(read_seed(seed)).take(f"{volume.name} {digest}", 64))
    key = own.take("volume key", expected.key_size)
    written = luks2.format(expected, uuid=uuid, seed=own, volume_key=key, passphrases=[words])
    # A header that the initramfs refused would only show at the first boot.
    if luks2.open(written, luks2.read(written, expected, volume.name), words, volume.name) != key:
        raise ImageError(f"{volume.name}: the passphrase opens another key; this is a bug, report it")
    return written, key
