"""``keys:IMAGE``: what the root of a converted image is encrypted with, made on first use and then kept.

Two files, both 0600. ``keys/volumes/VOLUME`` is the passphrase of the root's key slot, what a key broker
hands out: ``goldsmith broker --keys keys/volumes``. ``keys/IMAGE-root.seed`` is what the volume key and all
salts are derived from, together with the digest of the plain root: the same root is encrypted to the same
bytes, another root under another volume key, so that two releases cannot be compared sector by sector. Who
has the seed and the plain root needs no passphrase; the seed stays where images are built, and no broker has
it.
"""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ImageError
from ...schema import ConvertedImage
from ..digests import ROOT
from ..keys import FOLDER, checked, write_key
from ..task import Task, guarded
from ..volumes import KEYS, volumes

if TYPE_CHECKING:
    from ...sources.secrets import OwnKey

_SEED_SUFFIX = "-root.seed"
_SIZE = 64
# What a broker hands out, and what the unlock driver takes.
PASSPHRASE_SIZES = range(32, 513)


def passphrase_path(image: ConvertedImage) -> Path:
    """Path of the passphrase: text, without a line's end."""
    (volume,) = volumes(image)
    return volume.key_file


def seed_path(image: ConvertedImage) -> Path:
    """Path of the seed, 64 bytes."""
    return FOLDER / f"{image.name}{_SEED_SUFFIX}"


def task(image: ConvertedImage) -> Task:
    """The doit task. It has no ``clean``: keys are never removed by a build."""
    files = (passphrase_path(image), seed_path(image))
    return {
        "basename": "keys",
        "name": image.name,
        "doc": f"make the key of the encrypted root of {image.name} in keys/, once",
        "targets": [str(path) for path in files],
        "uptodate": [checked(files)],
        "actions": [(guarded, [lambda: make(image)])],
        "verbosity": 2,
    }


def make(image: ConvertedImage) -> None:
    """Makes what is missing.

    Raises:
        ImageError: a file that others can read, or of a size that nobody takes.
    """
    FOLDER.mkdir(exist_ok=True)
    passphrase_path(image).parent.mkdir(exist_ok=True, mode=0o700)
    if not passphrase_path(image).exists():
        write_key(passphrase_path(image), base64.b64encode(os.urandom(_SIZE)), 0o600)
    if not seed_path(image).exists():
        write_key(seed_path(image), os.urandom(_SIZE), 0o600)
    read_passphrase(passphrase_path(image))
    read_seed(seed_path(image))


def read_passphrase(path: Path) -> bytes:
    """The passphrase of the root's key slot.

    Raises:
        ImageError: others can read it, or it has another size than a broker hands out.
    """
    return _read(path, PASSPHRASE_SIZES)


def read_seed(path: Path) -> bytes:
    """The seed.

    Raises:
        ImageError: others can read it, or it is too short.
    """
    return _read(path, range(_SIZE, _SIZE + 1))


def own_keys() -> tuple[OwnKey, ...]:
    """The keys and seeds of all images, which must not be found in any product."""
    from ...sources.secrets import OwnKey

    paths = [*FOLDER.glob(f"*{_SEED_SUFFIX}"), *(KEYS.iterdir() if KEYS.is_dir() else ())]
    return tuple(OwnKey(_name(path), path.read_bytes()) for path in sorted(paths) if path.is_file())


def _read(path: Path, sizes: range) -> bytes:
    name = _name(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ImageError(f"{name}: others may use it (mode {mode:04o}); run chmod 600 {name}")
    data = path.read_bytes()
    if len(data) not in sizes:
        wanted = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        what = f"has {len(data)} bytes, expected {wanted}"
        raise ImageError(f"{name}: {what}; restore it, or remove it and encrypt the root anew")
    return data


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
