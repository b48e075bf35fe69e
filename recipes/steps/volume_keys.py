"""``keys:IMAGE``: what the volumes that a build makes are encrypted with, made on first use and then kept.

Two files for a volume, both 0600. ``keys/volumes/VOLUME`` is its key, what a key broker hands out
(``goldsmith broker --keys keys/volumes``): the passphrase of the key slot, or the volume key where there is
no header. ``keys/IMAGE-VOLUME.seed`` is what volume key and salts of a header are derived from, together with
the digest of the plain file system: the same one is encrypted to the same bytes, another one under another
volume key, so that two releases cannot be compared sector by sector. Who has the seed and the plain file
system needs no passphrase; the seed stays where images are built, and no broker has it.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError
from ..schema import DiskImage
from .digests import ROOT
from .keys import FOLDER, checked, write_key
from .task import Task, guarded
from .volumes import KEYFILE, KEYS, Volume, has_header, volumes

if TYPE_CHECKING:
    from ..sources.secrets import OwnKey

_SEED_SUFFIX = ".seed"
_SIZE = 64
# What a broker hands out, and what the unlock driver takes.
PASSPHRASE_SIZES = range(32, 513)
# AES-256 in XTS mode takes two keys of 32 bytes (IEEE 1619).
VOLUME_KEY_SIZES = range(64, 65)


def kept(image: DiskImage) -> tuple[Volume, ...]:
    """The volumes of an image whose keys are kept here: those that a build makes, or gives the key of."""
    return tuple(volume for volume in volumes(image) if volume.is_built or KEYFILE in volume.unlock.unlock)


def seed_path(volume: Volume) -> Path:
    """Path of the seed, 64 bytes."""
    return FOLDER / f"{volume.image}-{volume.name}{_SEED_SUFFIX}"


def _files(volumes: Sequence[Volume]) -> tuple[Path, ...]:
    return tuple(path for volume in volumes for path in (volume.key_file, seed_path(volume)))


def task(image: DiskImage) -> Task:
    """The doit task. It has no ``clean``: keys are never removed by a build."""
    wanted = kept(image)
    return {
        "basename": "keys",
        "name": image.name,
        "doc": f"make the keys of the encrypted volumes of {image.name} in keys/, once",
        "targets": [str(path) for path in _files(wanted)],
        "uptodate": [checked(_files(wanted))],
        "actions": [(guarded, [lambda: make(wanted)])],
        "verbosity": 2,
    }


def make(wanted: Sequence[Volume]) -> None:
    """Makes what is missing.

    Raises:
        ImageError: a folder or file that others can use, or a file of a size that nobody takes.
    """
    FOLDER.mkdir(exist_ok=True)
    KEYS.mkdir(exist_ok=True, mode=0o700)
    _check_folder()
    for volume in wanted:
        drawn = os.urandom(_SIZE)
        if not volume.key_file.exists():
            write_key(volume.key_file, base64.b64encode(drawn) if has_header(volume.unlock) else drawn, 0o600)
        if not seed_path(volume).exists():
            write_key(seed_path(volume), os.urandom(_SIZE), 0o600)
        read_key(volume)
        read_seed(seed_path(volume))


def read_key(volume: Volume) -> bytes:
    """The passphrase of the volume's key slot, or its volume key.

    Raises:
        ImageError: others can use it or its folder, or it has another size than the unlock driver takes.
    """
    _check_folder()
    return _read(volume.key_file, PASSPHRASE_SIZES if has_header(volume.unlock) else VOLUME_KEY_SIZES)


def read_seed(path: Path) -> bytes:
    """The seed.

    Raises:
        ImageError: others can read it, or it is too short.
    """
    return _read(path, range(_SIZE, _SIZE + 1))


def own_keys() -> tuple[OwnKey, ...]:
    """The keys and seeds of all images, which must not be found in any product."""
    from ..sources.secrets import OwnKey

    paths = [*FOLDER.glob(f"*{_SEED_SUFFIX}"), *(KEYS.iterdir() if KEYS.is_dir() else ())]
    return tuple(OwnKey(_name(path), path.read_bytes()) for path in sorted(paths) if path.is_file())


def _check_folder() -> None:
    """Others could put a key of theirs in the place of one in an open folder."""
    mode, name = stat.S_IMODE(KEYS.stat().st_mode) & 0o777, _name(KEYS)
    if mode != 0o700:
        raise ImageError(f"{name}: mode {mode:04o}, expected 0700; run chmod 700 {name}")


def _read(path: Path, sizes: range) -> bytes:
    name = _name(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ImageError(f"{name}: others may use it (mode {mode:04o}); run chmod 600 {name}")
    data = path.read_bytes()
    if len(data) not in sizes:
        wanted = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        what = f"has {len(data)} bytes, expected {wanted}"
        raise ImageError(f"{name}: {what}; restore it, or remove it and encrypt the volume anew")
    return data


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
