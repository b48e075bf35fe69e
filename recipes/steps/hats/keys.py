"""``keys:IMAGE``: the P-256 key that signs appraisal policies, made on first use.

A TVS checks signatures by a public key that is compiled in, so a real one is brought under the recipe's name.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FormatError, ImageError
from ...schema.hats import HatsImage
from ..digests import ROOT
from ..keys import FOLDER, checked, write_key
from ..task import Task, guarded

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from ...sources.secrets import OwnKey

# What keys of recipes are called: only so every build knows them for what they are.
PATTERN = "hats-*.pem"


def key_path(image: HatsImage) -> Path | None:
    """Path of the key, where policies are signed."""
    signature = image.recipe.policy.signature
    return None if signature is None else ROOT / signature.key


def task(image: HatsImage, path: Path) -> Task:
    """The doit task. It has no ``clean``: keys are never removed by a build."""
    return {
        "basename": "keys",
        "name": image.name,
        "doc": f"make the key that signs policies of {image.name} in keys/, once",
        "targets": [str(path)],
        "uptodate": [checked((path,))],
        "actions": [(guarded, [lambda: make(path)])],
        "verbosity": 2,
    }


def make(path: Path) -> None:
    """Makes the key where there is none.

    Raises:
        ImageError: others can read it, or it is of another kind.
    """
    from ...hats.signature import make_key

    FOLDER.mkdir(exist_ok=True)
    if not path.exists():
        write_key(path, make_key(), 0o600)
    load(path)


def load(path: Path) -> EllipticCurvePrivateKey:
    """The key.

    Raises:
        ImageError: it is not there, others can read it, or it is of another kind.
    """
    from ...hats.signature import load_key

    name = f"keys/{path.name}"
    if not path.exists():
        raise FormatError(name, "there is no such key; run `python3 dodo.py keys`")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ImageError(f"{name}: others may use it (mode {mode:04o}); run chmod 600 {name}")
    return load_key(path.read_bytes(), name)


def own_keys() -> tuple[OwnKey, ...]:
    """The private keys, which must not be found in any product."""
    from ...sources.secrets import OwnKey

    return tuple(OwnKey(f"keys/{path.name}", path.read_bytes()) for path in sorted(FOLDER.glob(PATTERN)))
