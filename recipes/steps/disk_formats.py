"""``disk:IMAGE.FORMAT``: the raw disk in formats that clouds take, each as large as its format asks for."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SpecError, suggestion
from ..reader import Marks
from ..record import dataclass
from ..schema import Buildable, DiskImage
from ..units import MIB
from .digests import ROOT, read_sidecar
from .disk import raw_disk
from .places import marks
from .task import OUT, Step

if TYPE_CHECKING:
    from ..disks.format import DiskFormat
    from ..golden.manifest import ShippedDisk

RAW = "raw"
# What every disk image boots by.
FIRMWARE = "uefi"
_SUFFIX = re.compile(r"(\.[a-z0-9][a-z0-9-]*){1,4}")
# Of what says that a product is finished.
_SIDECAR = ".digest.json"


def disk_path(image: Buildable, disk_format: DiskFormat) -> Path:
    """Path of an image's disk in a format."""
    return OUT / image.folder / f"disk{disk_format.suffix}"


def shipped_disks(image: DiskImage) -> tuple[tuple[str, Path], ...]:
    """Every format that an image ships in, with its file; the raw disk first.

    Raises:
        SpecError: as for ``chosen``.
    """
    return ((RAW, raw_disk(image)), *((item.name, disk_path(image, item)) for item in chosen(image)))


def chosen(image: DiskImage) -> tuple[DiskFormat, ...]:
    """The formats that a recipe asks for, but for the raw one, which is always made; in their order.

    Raises:
        SpecError: naming each that is not known, cannot carry the image, or has another's file name.
    """
    if all(name == RAW for name in image.recipe.disk.formats):
        return ()
    noted = marks(image)
    found = [
        item
        for index, name in enumerate(image.recipe.disk.formats)
        if name != RAW and (item := _look_up(noted, index, name, image)) is not None
    ]
    noted.raise_problems()
    return tuple(found)


def steps(image: DiskImage) -> tuple[Step, ...]:
    """The steps that write the raw disk in other formats.

    Raises:
        SpecError: as for ``chosen``.
    """
    return tuple(_step(image, disk_format) for disk_format in chosen(image))


@cache
def _registry() -> dict[str, DiskFormat]:
    from ..disks.format import registry

    return registry()


def _look_up(noted: Marks, index: int, name: str, image: DiskImage) -> DiskFormat | None:
    from ..disks.format import check_carries

    key = ("disk", "formats", index)
    known = _registry()
    if name not in known:
        noted.add(key, f"disk format {name!r} is not known{suggestion(name, known)}")
        return None
    item = known[name]
    try:
        check_carries(item, architecture=image.recipe.architecture.value, firmware=FIRMWARE)
    except SpecError as error:
        noted.add(key, str(error))
    if _SUFFIX.fullmatch(item.suffix) is None or item.suffix.endswith(_SIDECAR):
        what = f"disk format {name}: its file would be called {f'disk{item.suffix}'!r}"
        noted.add(key, f"{what}; its author has to choose a suffix such as .vhd")
    others = [RAW, *image.recipe.disk.formats[:index]]
    same = [other for other in others if other in known and known[other].suffix == item.suffix]
    if same and name not in others:
        what = f"disk format {name}: its file disk{item.suffix} is that of {same[0]} too"
        noted.add(key, f"{what}; leave one of them out")
    return item


def _step(image: DiskImage, disk_format: DiskFormat) -> Step:
    raw = raw_disk(image)
    return Step(
        basename="disk",
        variant=disk_format.name,
        image=image,
        products=(disk_path(image, disk_format),),
        inputs=(raw,),
        build=build,
        arguments={"image": image.name, "raw": raw, "name": disk_format.name},
        fingerprint=_code_of(disk_format),
        doc=f"write the disk as {disk_format.name}: {disk_format.summary}",
    )


def _code_of(disk_format: DiskFormat) -> str:
    """Digest of the module of a format that is not ours, and so no part of what rebuilds everything."""
    module = sys.modules[type(disk_format).__module__]
    path = Path(module.__file__ or "")
    if path.is_relative_to(ROOT / "recipes") or not path.is_file():
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build(target: Path, *, image: str, raw: Path, name: str) -> None:
    """Writes the disk in a format, grown, with its partition table where it belongs in the larger disk.

    Raises:
        FormatError: the format holds no disk of that size, or the raw disk changed meanwhile.
    """
    from ..disks.enlarge import shipped
    from ..disks.format import aligned_size, lookup
    from ..disks.source import RawDisk

    disk_format = lookup(name)
    with raw.open("rb") as file, target.open("wb") as out:
        disk = RawDisk.of(raw.name, file)
        disk = shipped(disk, aligned_size(disk_format, disk.size))
        disk_format.write(disk, out, seed=seed(image, read_sidecar(raw)[1]), progress=Progress(name))


def virtual_sizes(disks: Sequence[tuple[str, Path]]) -> tuple[ShippedDisk, ...]:
    """Each disk with the size that a machine sees; none where there is the raw one alone."""
    if len(disks) == 1:
        return ()
    from ..disks.format import aligned_size, lookup
    from ..golden.manifest import ShippedDisk

    (_, raw), *_ = disks
    size = raw.stat().st_size
    return tuple(
        ShippedDisk(
            format=name, file=path.name, size=size if name == RAW else aligned_size(lookup(name), size)
        )
        for name, path in disks
    )


@dataclass(frozen=True, kw_only=True)
class OtherSize:
    """The raw disk grown to the size of some formats.

    Attributes:
        gpt_event: what firmware measures of its partition table.
        source: what that step names.
    """

    size: int
    formats: tuple[str, ...]
    gpt_event: bytes
    source: str


def other_sizes(raw_disk: Path, shipped: Sequence[ShippedDisk]) -> list[OtherSize]:
    """The sizes of shipped disks that the raw one does not have, each once."""
    if not shipped:
        return []
    from ..disks import enlarge
    from ..disks.source import RawDisk

    found = []
    with raw_disk.open("rb") as file:
        disk = RawDisk.of(raw_disk.name, file)
        for size in dict.fromkeys(item.size for item in shipped if item.size != disk.size):
            same = [item for item in shipped if item.size == size]
            found.append(
                OtherSize(
                    size=size,
                    formats=tuple(item.format for item in same),
                    gpt_event=enlarge.gpt_event(enlarge.shipped(disk, size)),
                    source=", ".join(item.file for item in same),
                )
            )
    return found


def seed(image: str, raw_digest: str) -> bytes:
    """What identifiers in an image's disks are derived from: others for each image, and for each build of it.

    Args:
        raw_digest: SHA-256 of the raw disk, in hex.
    """
    return hashlib.sha256(f"{image}\0{raw_digest}".encode()).digest()


class Progress:
    """A bar for a disk that is written, on a terminal; in a log the line of the finished product will do."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = -1

    def __call__(self, done: int, total: int) -> None:
        """Shows how far it is; both are bytes of the disk."""
        percent = 100 * done // max(total, 1)
        if percent == self._shown or not sys.stdout.isatty():
            return
        self._shown = percent
        if done >= total:
            sys.stdout.write("\r\033[K")
        else:
            bar = "#" * (percent // 4)
            sys.stdout.write(f"\r  {self._name:<12} [{bar:<25}] {done / MIB:6.0f} of {total / MIB:.0f} MiB")
        sys.stdout.flush()
