"""What unlocking costs: the initramfs by contributor, and how long a boot takes until a volume is open.

``python -m tests.bench.bench_unlock`` prints the initramfs of the built default image. A row's size is what
its files hold; the ratio is that of the group's own archive, compressed alone as the real one is, to that
size. Groups compressed together share what is alike in them: the last row says how much that is.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from unittest import mock

from recipes.formats.tree import FileTree
from recipes.schema import load_project
from recipes.sources.contributors import Breakdown, breakdown
from recipes.steps import initramfs
from recipes.steps.develop import TESTED_IMAGE
from recipes.units import format_size
from tests.bench.common import ROOT, Row, print_table

_LABEL = "compressed alone / plain"
# The kernel's time stamp, then the driver's line about a provider that gave a key: `log` in initrd/unlock.
_GIVEN = re.compile(
    r"^\[ *([0-9]+\.[0-9]+)\] goldsmith: unlock ([a-z0-9_-]+): provider ([a-z0-9-]+) ended with 0\r?$",
    re.MULTILINE,
)


def rows() -> list[Row]:
    """The initramfs by contributor; without a built image there is nothing to measure."""
    found = shipped()
    if found is None:
        return []
    return [
        *(
            _row(f"{each.name}, files: {each.files}", each.size, each.alone)
            for each in found.contributors
            if each.size
        ),
        _row("all of it", sum(each.size for each in found.contributors), found.whole),
        Row(f"initramfs: saved by compressing all together: {format_size(found.shared)}", 0, 0, 0, 0),
    ]


def _row(name: str, size: int, compressed: int) -> Row:
    shown = f"initramfs: {name}: {format_size(compressed)}"
    return Row(shown, size, 0, 0, 0, _LABEL, compressed / size)


def shipped() -> Breakdown | None:
    """The initramfs of the default image as its step assembles it; nothing where an input is missing."""
    image = next(image for image in load_project(ROOT).images if image.name == TESTED_IMAGE)
    step = initramfs.step(image)
    if not all(path.exists() for path in step.inputs):
        return None
    found: list[Breakdown] = []

    # The archive itself does not say where a file came from; the tree that it is written from does.
    def write_archive(
        tree: FileTree,
        target: Path,
        *,
        epoch: int,
        compress: Callable[[BinaryIO, BinaryIO], object],
        secret: Collection[str] = (),
    ) -> None:
        found.append(breakdown(tree, compress, epoch=epoch))

    with (
        tempfile.TemporaryDirectory(dir=ROOT / "out") as folder,
        mock.patch.object(initramfs, "write_archive", write_archive),
    ):
        step.build(Path(folder, "initramfs"), **step.arguments)
    return found[0]


@dataclass(frozen=True)
class Given:
    """A key that a provider gave; ``seconds`` after the kernel started."""

    volume: str
    provider: str
    seconds: float


def keys_given(log: str) -> tuple[Given, ...]:
    """When each volume got its key, by the time stamps of a kernel log or of a console at log level 7.

    A driver that is given a key opens the volume next; what follows is the file system's time.
    """
    return tuple(Given(volume, provider, float(when)) for when, volume, provider in _GIVEN.findall(log))


def boot_rows(log: str, emulation: str = "TCG") -> Iterable[Row]:
    """A row for each volume that a boot opened; ``log`` is that of one boot."""
    for given in keys_given(log):
        name = f"boot to key, {emulation}: {given.provider} ({given.volume})"
        yield Row(name, 0, given.seconds, 0, 0)


if __name__ == "__main__":
    print_table(rows())
