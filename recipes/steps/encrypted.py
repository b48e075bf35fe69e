"""A plain file system as an encrypted volume, by our own writer: no device-mapper, no root.

All of the file system is encrypted, free blocks too. A header says exactly what the initramfs expects: one
key slot, the partition's UUID, costs that need not be high because the passphrase is drawn and not made up.
The same plain file system, seed and key give the same bytes. Another file system has another volume key: a
header has one of its own, and without a header it follows from what a provider gives and from the content. So
two releases cannot be compared, and the initramfs opens the volume of its own release alone
(``volumes.read_volume``): a host that brings back an older one has brought noise.
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
    from ..formats.luks2 import Seed
    from ..formats.luks2_model import Expected

# Without a header the data begin behind one MiB, and its first block says that they are there: what the
# unlock driver writes when it has made a volume (initrd/note.sh).
HEADERLESS_OFFSET = MIB
# Before the digits of the content; initrd/helpers/dmtable.c has it too.
_PURPOSE = b"goldsmith content key 1 "


def reserved(volume: Volume) -> int:
    """Bytes in front of a volume's data."""
    from ..formats.luks2_model import DATA_OFFSET

    return DATA_OFFSET if has_header(volume.unlock) else HEADERLESS_OFFSET


def write_volume(target: Path, volume: Volume, *, plain: Path, seed: Path) -> None:
    """Writes the volume.

    Raises:
        ImageError: a key is not as it must be, or the plain file system changed meanwhile.
    """
    from ..formats.luks2 import Seed
    from ..formats.luks2_segment import encrypt_image

    words = read_key(volume)
    with plain.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # Other content has another seed; nothing can be learnt from two releases side by side.
    own = Seed(Seed(read_seed(seed)).take(f"{volume.name} {digest}", 64))
    front, key = (_header if has_header(volume.unlock) else _note)(volume, words, own)
    start = reserved(volume)
    with target.open("wb") as out:
        out.write(front)
        out.truncate(start + plain.stat().st_size)
    encrypt_image(plain, target, key=key, offset=start, workers=workers())


def expected_header(volume: Volume) -> Expected:
    """What the header says, and what is opened and nothing else."""
    from ..formats.luks2_model import Expected, KdfBounds

    return Expected(keyslots=(KdfBounds(key_slot_costs(volume.unlock)),), uuid=UUID(volume.partition))


def content_key(key: bytes, content: bytes) -> bytes:
    """The key for one content alone that the build encrypts a volume without a header with.

    A provider gives the same volume key for every release, and the host may bring back the volume of an older
    one. The initramfs is told this release's content, and what follows from that and the key opens no other.

    Spec: RFC 5869, without a salt; initrd/helpers/dmtable.c.
    """
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = _PURPOSE + content.hex().encode("ascii")
    return HKDF(algorithm=SHA256(), length=len(key), salt=None, info=info).derive(key)


def _note(volume: Volume, words: bytes, own: Seed) -> tuple[bytes, bytes]:
    """The note with what the content is called, and the volume key."""
    from ..sources.volumes import CONTENT_OFFSET, CONTENT_SIZE, NOTE

    content = own.take("content", CONTENT_SIZE)
    return NOTE.ljust(CONTENT_OFFSET, b"\0") + content, content_key(words, content)


def _header(volume: Volume, words: bytes, own: Seed) -> tuple[bytes, bytes]:
    """The metadata and the volume key."""
    from ..formats import luks2

    expected, uuid = expected_header(volume), UUID(volume.partition)
    key = own.take("volume key", expected.key_size)
    written = luks2.format(expected, uuid=uuid, seed=own, volume_key=key, passphrases=[words])
    # A header that the initramfs refused would only show at the first boot.
    if luks2.open(written, luks2.read(written, expected, volume.name), words, volume.name) != key:
        raise ImageError(f"{volume.name}: the passphrase opens another key; this is a bug, report it")
    return written, key
